"""Attributions and visualizations as figures."""

from attribkit.figures.animation import animate, write_clip
from attribkit.figures.figure import figure, gallery
from attribkit.figures.grid import Cell, check_ending, grid, save_figure
from attribkit.figures.inspection import draw_feature_maps, draw_filters, draw_inspection, draw_receptive_field
from attribkit.figures.sections import mosaic, strip

__all__ = [
    "Cell",
    "animate",
    "check_ending",
    "draw_feature_maps",
    "draw_filters",
    "draw_inspection",
    "draw_receptive_field",
    "figure",
    "gallery",
    "grid",
    "mosaic",
    "save_figure",
    "strip",
    "write_clip",
]
