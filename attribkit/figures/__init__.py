"""Attributions as figures."""

from attribkit.figures.figure import figure
from attribkit.figures.grid import Cell, grid, write

__all__ = ["Cell", "figure", "grid", "write"]
