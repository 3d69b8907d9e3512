"""Clips and volumes as figures: some frames of a clip side by side, slices of a volume as a mosaic."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from attribkit.contracts.attribution import Attribution
from attribkit.core.errors import InvalidInput
from attribkit.core.pictures import evenly, sections
from attribkit.core.shapes import Pictures
from attribkit.figures.figure import caption, check_attributions, shown
from attribkit.figures.grid import Cell, grid

_FRAMES, _SLICES = 8, 12


def strip(
    attributions: Attribution | Sequence[Attribution],
    *,
    pictures: Sequence[Pictures] | None = None,
    frames: int = _FRAMES,
    titles: Sequence[str] = (),
) -> Figure:
    """Rows for each clip: some of its frames, then the same frames under each attribution; the caption tells them.

    attributions: of the same clips (b, c, t, h, w), or of volumes, whose slices along the first axis are shown. A map
    has one scale for all its frames. pictures: (t, h, w, 3) bytes each; None stretches x itself. frames: how many,
    chosen evenly. titles: one per clip. Write the result by `write`.
    """
    told = check_attributions(attributions, axes=5)
    places = evenly(told[0].x.shape[2], _number("frames", frames, told[0].x.shape[2]))
    heatmaps = [each.heatmap() for each in told]
    rows = [
        row
        for i, clip in enumerate(shown(told[0], pictures))
        for row in strip_rows(clip, [maps[i] for maps in heatmaps], places)
    ]
    names = [each.method.name for each in told]
    row_titles = [title for i in range(len(told[0])) for title in (dict(enumerate(titles)).get(i, ""), *names)]
    return grid(rows, row_titles=row_titles, column_titles=[f"{i}" for i in places], caption=caption(told))


def strip_rows(clip: Pictures, heatmaps: Sequence[Float[Tensor, "t h w"]], places: Sequence[int]) -> list[list[Cell]]:
    """A row of frames at these places, and a row for each map of them."""
    rows = [[Cell(clip[place]) for place in places]]
    for heatmap in heatmaps:
        rows.append([Cell(s.picture, s.heatmap, whole=heatmap) for s in sections(clip, heatmap, places)])
    return rows


def mosaic(
    attribution: Attribution,
    *,
    axis: int = 0,
    slices: int = _SLICES,
    columns: int | None = None,
    pictures: Sequence[Pictures] | None = None,
) -> Figure:
    """Slices of a volume along an axis, in rows, its values in grey under the map; the caption tells the method.

    attribution: of one volume (1, c, d, h, w), or clip: take attribution[i] of several. axis: of space, 0 to 2. The map
    has one scale for all slices. slices: how many, chosen evenly. columns: None makes about as many as there are rows.
    pictures: one array of (d, h, w, 3) bytes; None stretches x itself.
    """
    (told,) = check_attributions(attribution, axes=5)
    if len(told) != 1 or axis not in (0, 1, 2):
        raise InvalidInput(f"A mosaic shows one volume along axis 0, 1 or 2, got {len(told)} volumes and axis={axis}.")
    length = told.x.shape[2 + axis]
    places = evenly(length, _number("slices", slices, length))
    heatmap, (volume,) = told.heatmap()[0], shown(told, pictures)
    cells = [
        Cell(s.picture, s.heatmap, whole=heatmap, title=f"{s.place}") for s in sections(volume, heatmap, places, axis)
    ]
    width = columns or math.ceil(math.sqrt(len(cells)))
    cells += [Cell(np.full_like(cells[0].picture, 255))] * (-len(cells) % width)
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    return grid(rows, caption=f"slices along axis {axis} of {length}\n{caption([told])}")


def _number(option: str, count: int, length: int) -> int:
    """How many sections there are to show."""
    if count < 1:
        raise InvalidInput(f"{option}={count} must be a number from 1.")
    return min(count, length)
