"""Figures of attributions, visualizations, metrics and benchmarks, for papers and notebooks."""

from attribkit.figures._clips import animate, mosaic, strip, write_clip
from attribkit.figures._comparisons import attention, before_after, classes, layers, overlays
from attribkit.figures._curves import curves
from attribkit.figures._figure import figure, gallery
from attribkit.figures._files import PaperFigure, check_ending
from attribkit.figures._grid import Cell, grid
from attribkit.figures._inspection import draw_feature_maps, draw_filters, draw_inspection, draw_receptive_field
from attribkit.figures._page import VENUES
from attribkit.figures._summaries import agreement, bars, rankings

__all__ = [
    "VENUES",
    "Cell",
    "PaperFigure",
    "agreement",
    "animate",
    "attention",
    "bars",
    "before_after",
    "check_ending",
    "classes",
    "curves",
    "draw_feature_maps",
    "draw_filters",
    "draw_inspection",
    "draw_receptive_field",
    "figure",
    "gallery",
    "grid",
    "layers",
    "mosaic",
    "overlays",
    "rankings",
    "strip",
    "write_clip",
]
