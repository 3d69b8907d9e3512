"""Figures of attributions, visualizations, metrics and benchmarks, for papers and notebooks."""

from attribkit.figures._clips import animate, frames, mosaic, write_clip
from attribkit.figures._comparisons import attention, before_after, classes, layers, overlay
from attribkit.figures._curves import curves
from attribkit.figures._figure import figure, gallery
from attribkit.figures._files import PaperFigure, check_ending
from attribkit.figures._grid import Cell, grid
from attribkit.figures._inspection import feature_maps, filters, inspection, receptive_field
from attribkit.figures._page import VENUES
from attribkit.figures._rankings import rankings
from attribkit.figures._summaries import agreement, bars

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
    "feature_maps",
    "figure",
    "filters",
    "frames",
    "gallery",
    "grid",
    "inspection",
    "layers",
    "mosaic",
    "overlay",
    "rankings",
    "receptive_field",
    "write_clip",
]
