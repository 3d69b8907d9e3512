"""[figures/figure] Attributions side by side.
[figures/gallery] Visualizations side by side.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from attribkit.contracts.attribution import Attribution
from attribkit.contracts.visualization import Visualization
from attribkit.core.errors import InvalidInput
from attribkit.core.pictures import stretched
from attribkit.core.shapes import Picture, Pictures
from attribkit.figures.grid import CELL, Cell, grid


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
    attributions = check_attributions(attributions, axes=4)
    frames = shown(attributions[0], pictures)
    heatmaps = [each.heatmap() for each in attributions]
    rows = [_row(picture, [maps[i] for maps in heatmaps]) for i, picture in enumerate(frames)]
    return grid(rows, row_titles=titles, column_titles=["", *map(_name, attributions)], caption=caption(attributions))


def caption(attributions: Sequence[Attribution]) -> str:
    """Each method with its options and source, a line each."""
    lines = [f"{each.method!r}: {getattr(each.method, 'source', 'loaded from a file')}" for each in attributions]
    return "\n".join(dict.fromkeys(lines))


def check_attributions(attributions: Attribution | Sequence[Attribution], axes: int) -> list[Attribution]:
    """One or several attributions as a list, channels first, if they are of the same images, of so many axes."""
    told = [attributions] if isinstance(attributions, Attribution) else list(attributions)
    told = [each.channels_first() for each in told]
    if not told or len({tuple(each.x.shape) for each in told}) != 1:
        raise InvalidInput("A figure shows attributions of the same images; got none, or images of different shapes.")
    if told[0].x.ndim != axes:
        raise InvalidInput(
            f"A figure shows images (b, c, h, w) by figure or gallery, clips and volumes (b, c, d, h, w) "
            f"by strip, mosaic or animate; got {tuple(told[0].x.shape)}."
        )
    return told


def shown(attribution: Attribution, pictures: Sequence[Pictures] | None) -> list[Pictures]:
    """The pictures of an attribution's images: those given, if they fit, or the images themselves, stretched."""
    if pictures is None:
        return stretched(attribution.x)
    if len(pictures) != len(attribution):
        raise InvalidInput(f"There are {len(pictures)} pictures for {len(attribution)} images: give one each.")
    for picture in pictures:
        if picture.shape[:-1] != attribution.x.shape[2:]:
            raise InvalidInput(f"A picture is {picture.shape[:-1]} and the images {tuple(attribution.x.shape[2:])}.")
    return list(pictures)


def _row(picture: Picture, heatmaps: Sequence[Tensor]) -> list[Cell]:
    return [Cell(picture), *(Cell(picture, heatmap) for heatmap in heatmaps)]


def _name(attribution: Attribution) -> str:
    return attribution.method.name


_COLUMNS = 6  # pictures in a row
_WIDTH = 22  # characters that fit above a picture
_CAPTION = 20  # characters an inch, below them


def gallery(
    visualizations: Visualization | Sequence[Visualization], *, titles: Sequence[str] = (), columns: int = _COLUMNS
) -> Figure:
    """The pictures of visualizations, in rows; the caption tells each visualizer and its source.

    titles: one per picture; without them, what it was made for and the response that it reached. Write the
    result by ``savefig``.
    """
    made = [visualizations] if isinstance(visualizations, Visualization) else list(visualizations)
    pictures = [picture for each in made for picture in each.pictures()]
    told = list(titles) or [title for each in made for title in _titles(each)]
    if not pictures or len(told) != len(pictures) or columns < 1:
        raise InvalidInput(f"There are {len(told)} titles for {len(pictures)} pictures in {columns} columns.")
    cells = [Cell(picture, title=title) for picture, title in zip(pictures, told, strict=True)]
    width = min(columns, len(cells))
    blank = Cell(np.full_like(pictures[0], 255))
    cells += [blank] * (-len(cells) % width)
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    lines = dict.fromkeys(f"{each.visualizer!r}: {each.visualizer.source}" for each in made)
    return grid(rows, caption="\n".join(textwrap.fill(line, int(_CAPTION * CELL * width)) for line in lines))


def _titles(made: Visualization) -> list[str]:
    """What each image was made for, and the response that it reached."""
    names = (textwrap.fill(name.split(",")[0] if "(" not in name else name, _WIDTH) for name in made.names)
    return [f"{name}\n{response:.3g}" for name, response in zip(names, made.responses[-1].tolist(), strict=True)]
