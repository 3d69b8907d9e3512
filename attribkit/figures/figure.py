"""Attributions side by side."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.errors import InvalidInput
from attribkit.core.overlay import stretched
from attribkit.core.shapes import Picture
from attribkit.figures.grid import Cell, grid


def figure(
    attributions: Attribution | Sequence[Attribution],
    *,
    pictures: Sequence[Picture] | None = None,
    titles: Sequence[str] = (),
) -> Figure:
    """A row per image: the picture, then an overlay per attribution; the caption tells each method and its source.

    attributions: of the same images. pictures: (h, w, 3) bytes each, of the size of x; None stretches x itself.
    titles: one per image. Write the result by ``savefig``.
    """
    attributions = [attributions] if isinstance(attributions, Attribution) else list(attributions)
    if not attributions or len({tuple(each.x.shape) for each in attributions}) != 1:
        raise InvalidInput("A figure shows attributions of the same images; got none, or images of different shapes.")
    if attributions[0].x.ndim != 4:
        raise InvalidInput(f"A figure shows images (b, c, h, w), got {tuple(attributions[0].x.shape)}.")
    shown = stretched(attributions[0].x) if pictures is None else list(pictures)
    if len(shown) != len(attributions[0]):
        raise InvalidInput(f"There are {len(shown)} pictures for {len(attributions[0])} images: give one each.")
    for picture in shown:
        if picture.shape[:2] != attributions[0].x.shape[2:]:
            raise InvalidInput(f"A picture is {picture.shape[:2]} and the images {tuple(attributions[0].x.shape[2:])}.")
    heatmaps = [each.heatmap() for each in attributions]
    rows = [_row(picture, [maps[i] for maps in heatmaps]) for i, picture in enumerate(shown)]
    return grid(rows, row_titles=titles, column_titles=["", *map(_name, attributions)], caption=caption(attributions))


def caption(attributions: Sequence[Attribution]) -> str:
    """Each method with its options and source, a line each."""
    lines = [f"{each.method!r}: {getattr(each.method, 'source', 'loaded from a file')}" for each in attributions]
    return "\n".join(dict.fromkeys(lines))


def _row(picture: Picture, heatmaps: Sequence[Tensor]) -> list[Cell]:
    return [Cell(picture), *(Cell(picture, heatmap) for heatmap in heatmaps)]


def _name(attribution: Attribution) -> str:
    return attribution.method.name
