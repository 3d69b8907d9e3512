"""Grids of pictures and overlays with shared colour bars, and tilings of many small pictures."""

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

from attribkit._core.errors import InvalidInput, UnreadableFile
from attribkit._core.pictures import DIVERGING, PERCENTILE, SEQUENTIAL, is_signed, overlay
from attribkit._core.shapes import Picture

CELL = 1.35  # inches, default side of a cell
BAR, BAR_WIDTH = 3.0, 0.65  # inches, maximum length of a colour bar, and its width with the label


@dataclass(frozen=True, eq=False)
class Cell:
    """One picture of a grid.

    Args:
        picture: The picture, (h, w, 3) bytes.
        heatmap: Map that is drawn over the picture.
        outline: Mask, 1 inside, that is drawn as a contour.
        title: Title above the picture.
        whole: Map of the clip or volume that the heatmap is a section of; it determines the scale and the colours.
    """

    picture: Picture
    heatmap: Float[Tensor, "h w"] | None = None
    outline: Float[Tensor, "h w"] | None = None
    title: str = ""
    whole: Float[Tensor, "*space"] | None = None

    @property
    def signed(self) -> bool:
        """Return whether the map has negative scores."""
        scale_map = self.heatmap if self.whole is None else self.whole
        return scale_map is not None and is_signed(scale_map)


def grid(
    rows: Sequence[Sequence[Cell]],
    *,
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    caption: str = "",
    side: float = CELL,
) -> Figure:
    """Draw rows of cells; each map has its own scale, which the label of the colour bar states.

    Args:
        rows: Rows of equally many cells.
        row_titles: Title of each row, to its left.
        column_titles: Title of each column, above it.
        caption: Text below the grid.
        side: Side of a cell, in inches.

    Returns:
        The figure; write it with `save_figure` or its ``savefig``.
    """
    cells = [cell for row in rows for cell in row]
    bar_signs = sorted({cell.signed for cell in cells if cell.heatmap is not None})
    width = side * len(rows[0]) + BAR_WIDTH * len(bar_signs) + 0.3
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
        _draw_bars(figure, axes.ravel().tolist(), height, bar_signs)
        figure.supxlabel(caption, fontsize=6, x=0.01, ha="left")
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure to a file; the same figure gives the same bytes.

    Args:
        figure: The figure.
        path: The file; its suffix selects the format, such as .png, .pdf or .svg.

    Raises:
        InvalidInput: If the suffix is not that of a figure.
        UnreadableFile: If the file cannot be written.
    """
    check_ending(path)
    metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(Path(path).suffix.lower())
    try:
        with _paper_style():
            figure.savefig(path, metadata=metadata)
    except OSError as error:
        raise UnreadableFile(f"{str(path)!r} cannot be written ({error}): check the folder.") from error


def check_ending(path: str | Path, others: Sequence[str] = ()) -> None:
    """Raise InvalidInput if a file name does not end in a suffix of a figure.

    Args:
        path: The file name.
        others: Further accepted suffixes, without the dot.
    """
    suffixes = dict.fromkeys([*sorted(FigureCanvasAgg.filetypes), *others])
    if Path(path).suffix.lower().removeprefix(".") not in suffixes:
        raise InvalidInput(f"{str(path)!r} does not have a supported file extension: use one of {', '.join(suffixes)}.")


def _paper_style() -> AbstractContextManager[None]:
    return style.context(str(files("attribkit.figures") / "paper.mplstyle"))


def _draw(ax: Axes, cell: Cell) -> None:
    ax.imshow(cell.picture if cell.heatmap is None else overlay(cell.picture, cell.heatmap, whole=cell.whole))
    if cell.outline is not None:
        ax.contour(cell.outline.float().cpu().numpy(), levels=[0.5], colors="white", linewidths=0.8)
    ax.set(xticks=[], yticks=[], title=cell.title)
    ax.spines[:].set_visible(False)


def _draw_bars(figure: Figure, axes: Sequence[Axes], height: float, signs: Sequence[bool]) -> None:
    """Draw a colour bar for the maps without negative scores, and one for the signed maps, if there are any."""
    for signed in signs:
        mappable = ScalarMappable(Normalize(-1 if signed else 0, 1), DIVERGING if signed else SEQUENTIAL)
        bar = figure.colorbar(mappable, ax=axes, shrink=min(1.0, BAR / height), aspect=25, pad=0.01)
        bar.set_label(f"score / {PERCENTILE:g}th percentile of the map's magnitudes", fontsize=6)
        bar.ax.tick_params(labelsize=6)


Tile = UInt8[np.ndarray, "tall wide 3"]  # red, green, blue

_SIDE = 360  # pixels, approximate larger side of a tiling; small tiles are enlarged by an integer factor
_WHITE = 255


def tile_pictures(tiles: Sequence[Tile]) -> Picture:
    """Arrange pictures of one size in a nearly square tiling, with white gaps between them."""
    height, width = tiles[0].shape[:2]
    columns = math.ceil(math.sqrt(len(tiles) * height / width))
    rows = math.ceil(len(tiles) / columns)
    scale = max(1, _SIDE // max(columns * width, rows * height))
    gap = max(1, scale * max(height, width) // 12)
    step_down, step_right = scale * height + gap, scale * width + gap
    tiling = np.full((rows * step_down - gap, columns * step_right - gap, 3), _WHITE, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * step_down, i % columns * step_right
        large = tile.repeat(scale, 0).repeat(scale, 1)
        tiling[top : top + scale * height, left : left + scale * width] = large
    return tiling
