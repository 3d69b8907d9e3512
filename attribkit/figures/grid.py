"""[figures/grid] A grid of pictures and overlays with shared colour bars.
[figures/tiles] Many small pictures as one.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from attribkit.core.errors import InvalidInput, UnreadableFile
from attribkit.core.pictures import DIVERGING, PERCENTILE, SEQUENTIAL, is_signed, overlay
from attribkit.core.shapes import Picture

CELL = 1.35  # inches, side of a cell
BAR, BAR_WIDTH = 3.0, 0.65  # inches, longest colour bar with its label


@dataclass(frozen=True, eq=False)
class Cell:
    """One picture of a grid."""

    picture: Picture
    heatmap: Float[Tensor, "h w"] | None = None  # laid over the picture
    outline: Float[Tensor, "h w"] | None = None  # drawn as a contour, 1 inside
    title: str = ""
    whole: Float[Tensor, "*space"] | None = None  # that the heatmap is a section of; it gives scale and colours

    @property
    def signed(self) -> bool:
        """Whether the map has scores against as well as for."""
        shown = self.heatmap if self.whole is None else self.whole
        return shown is not None and is_signed(shown)


def grid(
    rows: Sequence[Sequence[Cell]],
    *,
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    caption: str = "",
    side: float = CELL,
) -> Figure:
    """Draw rows of cells; each map has its own scale, named by the bar, and the caption stands below.

    side: of a cell, in inches.
    """
    cells = [cell for row in rows for cell in row]
    diagnostics = sorted({cell.signed for cell in cells if cell.heatmap is not None})
    width = side * len(rows[0]) + BAR_WIDTH * len(diagnostics) + 0.3
    tallest = max(cell.picture.shape[0] / cell.picture.shape[1] for cell in cells)
    height = (side * min(1.0, tallest) + (0.16 if any(cell.title for cell in cells) else 0.0)) * len(rows) + 0.3
    height += 0.11 * len(caption.splitlines())
    with _paper_style():
        figure = Figure(figsize=(width, height), layout="compressed")
        axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
        for ax, cell in zip(axes.ravel(), cells, strict=True):
            _draw(ax, cell)
        for ax, title in zip(axes[0], column_titles, strict=False):
            ax.set_title("\n".join(filter(None, [title, ax.get_title()])))
        for ax, title in zip(axes[:, 0], row_titles, strict=False):
            ax.set_ylabel(title)
        _bars(figure, axes.ravel().tolist(), height, diagnostics)
        figure.supxlabel(caption, fontsize=6, x=0.01, ha="left")
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as its ending says; the same figure gives the same bytes."""
    check_ending(path)
    metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(Path(path).suffix.lower())
    try:
        with _paper_style():
            figure.savefig(path, metadata=metadata)
    except OSError as error:
        raise UnreadableFile(f"{str(path)!r} cannot be written ({error}): look at the folder.") from error


def check_ending(path: str | Path, others: Sequence[str] = ()) -> None:
    """Refuse a file name whose ending is none of a figure, nor one of the others."""
    known = dict.fromkeys([*sorted(FigureCanvasAgg.filetypes), *others])
    if Path(path).suffix.lower().removeprefix(".") not in known:
        raise InvalidInput(f"{str(path)!r} has no ending of a figure: use one of {', '.join(known)}.")


def _paper_style() -> AbstractContextManager[None]:
    return style.context(str(files("attribkit.figures") / "paper.mplstyle"))


def _draw(ax: Axes, cell: Cell) -> None:
    ax.imshow(cell.picture if cell.heatmap is None else overlay(cell.picture, cell.heatmap, whole=cell.whole))
    if cell.outline is not None:
        ax.contour(cell.outline.float().cpu().numpy(), levels=[0.5], colors="white", linewidths=0.8)
    ax.set(xticks=[], yticks=[], title=cell.title)
    ax.spines[:].set_visible(False)


def _bars(figure: Figure, axes: Sequence[Axes], height: float, diagnostics: Sequence[bool]) -> None:
    """A colour bar for the maps without negative scores, and one for those with them, where there are such."""
    for signed in diagnostics:
        mappable = ScalarMappable(Normalize(-1 if signed else 0, 1), DIVERGING if signed else SEQUENTIAL)
        bar = figure.colorbar(mappable, ax=axes, shrink=min(1.0, BAR / height), aspect=25, pad=0.01)
        bar.set_label(f"score / {PERCENTILE:g}th percentile of the map's magnitudes", fontsize=6)
        bar.ax.tick_params(labelsize=6)


Tile = UInt8[np.ndarray, "tall wide 3"]  # red, green, blue

_SIDE = 360  # pixels, about the larger side of the whole: small tiles are enlarged, each pixel to a square
_PAPER = 255


def tiled(tiles: Sequence[Tile]) -> Picture:
    """The pictures, all of one size, in rows of about as many as there are rows, with white between them."""
    height, width = tiles[0].shape[:2]
    columns = math.ceil(math.sqrt(len(tiles) * height / width))
    rows = math.ceil(len(tiles) / columns)
    scale = max(1, _SIDE // max(columns * width, rows * height))
    gap = max(1, scale * max(height, width) // 12)
    step_down, step_right = scale * height + gap, scale * width + gap
    whole = np.full((rows * step_down - gap, columns * step_right - gap, 3), _PAPER, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * step_down, i % columns * step_right
        large = tile.repeat(scale, 0).repeat(scale, 1)
        whole[top : top + scale * height, left : left + scale * width] = large
    return whole
