"""Figures of concepts."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

import attribkit.figures as figures

from .pictures import Picture

_CHARACTERS = 26  # of the caption for each column


@dataclass(frozen=True, eq=False)
class Row:
    """What is drawn of a concept.

    Args:
        title: Name and importance.
        crops: Pictures of typical crops, the most typical one first.
        heatmaps: Its coefficients over the images, at the size of the images.
    """

    title: str
    crops: Sequence[Picture]
    heatmaps: Float[Tensor, "b h w"]


def draw_concepts(rows: Sequence[Row], pictures: Sequence[Picture], caption: str) -> Figure:
    """Draw a row for each concept: typical crops, then its heatmap over each picture, in one scale for the row."""
    columns = max(len(row.crops) for row in rows)
    cells = [[*_crop_cells(row.crops, columns), *_heatmap_cells(row, pictures)] for row in rows]
    titles = [f"crop {i + 1}" for i in range(columns)] + [f"image {i}" for i in range(len(pictures))]
    width = _CHARACTERS * len(titles)
    lines = "\n".join(textwrap.fill(line, width) for line in caption.splitlines())
    return figures.grid(cells, row_titles=[row.title for row in rows], column_titles=titles, caption=lines)


def _crop_cells(crops: Sequence[Picture], columns: int) -> list[figures.Cell]:
    """Return a cell for each crop, and white cells for missing ones."""
    blank = np.full_like(crops[0], 255) if crops else np.full((1, 1, 3), 255, np.uint8)
    return [figures.Cell(picture) for picture in [*crops, *[blank] * (columns - len(crops))]]


def _heatmap_cells(row: Row, pictures: Sequence[Picture]) -> list[figures.Cell]:
    return [
        figures.Cell(picture, heatmap, whole=row.heatmaps)
        for picture, heatmap in zip(pictures, row.heatmaps, strict=True)
    ]
