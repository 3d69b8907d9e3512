"""Attributions and visualizations as figures."""

from attribkit.figures._clips import animate, mosaic, strip, write_clip
from attribkit.figures._figure import curves, figure, gallery
from attribkit.figures._grid import VENUES, Cell, check_ending, grid, save_figure
from attribkit.figures._inspection import draw_feature_maps, draw_filters, draw_inspection, draw_receptive_field

__all__ = [
    "VENUES",
    "Cell",
    "animate",
    "check_ending",
    "curves",
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
