"""Visualizations side by side."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from attribkit.core.errors import InvalidInput
from attribkit.core.visualization import Visualization
from attribkit.figures.grid import CELL, Cell, grid

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
