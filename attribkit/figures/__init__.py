"""Attributions and visualizations as figures."""

from attribkit.figures.figure import figure
from attribkit.figures.gallery import gallery
from attribkit.figures.grid import Cell, check_ending, grid, write

__all__ = ["Cell", "check_ending", "figure", "gallery", "grid", "write"]
