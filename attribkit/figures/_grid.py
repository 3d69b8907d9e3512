"""Grids of pictures and overlays with one colour bar, and tilings of many small pictures."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke
from torch import Tensor

from attribkit._core.errors import InvalidInput
from attribkit._core.pictures import PERCENTILE, blend, display_maximum, is_signed, overlay
from attribkit._core.shapes import Picture
from attribkit._display.representations import short_repr
from attribkit.figures._files import PaperFigure, paper_style
from attribkit.figures._page import CELL, PAD, SMALL, TITLE, Page, PageBox

Scale = Literal["each", "row", "shared"]
_SCALE_OF = {"each": "the map's", "row": "the row's largest", "shared": "the figure's largest"}


@dataclass(frozen=True, eq=False)
class Cell:
    """One picture of a grid.

    Args:
        picture: The picture, (h, w, 3) bytes.
        heatmap: Map of the size of the picture that is drawn over it.
        outline: Mask of the same region in any resolution, 1 inside, whose outline is drawn.
        boxes: Left, top, right and bottom edges in pixels of the picture, (n, 4), that are drawn as lines.
        title: Title above the picture.
        whole: Map of the clip or volume that the heatmap is a section of; it determines the scale.
    """

    picture: Picture
    heatmap: Float[Tensor, "h w"] | None = None
    outline: Float[Tensor, "rows columns"] | None = None
    boxes: Float[Tensor, "n 4"] | None = None
    title: str = ""
    whole: Float[Tensor, "*space"] | None = None

    def __post_init__(self) -> None:
        if self.heatmap is not None and not bool(self.heatmap.isfinite().all()):
            raise InvalidInput("A map has NaN or infinite values and cannot be drawn: leave it out of the figure.")

    __repr__ = short_repr

    @property
    def signed(self) -> bool:
        """Return whether the map has negative scores."""
        scale_map = self.heatmap if self.whole is None else self.whole
        return scale_map is not None and is_signed(scale_map)

    @property
    def maximum(self) -> float:
        """The magnitude that is shown at full strength by default; 0 without a map."""
        scale_map = self.heatmap if self.whole is None else self.whole
        return 0.0 if scale_map is None else display_maximum(scale_map)


def grid(
    rows: Sequence[Sequence[Cell]],
    *,
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    caption: str = "",
    side: float = CELL,
    width: float | str | None = None,
    scale: Scale = "each",
    quantity: str = "score",
) -> PaperFigure:
    """Draw rows of cells, with titles, a colour bar and a caption that do not overlap.

    Args:
        rows: Rows of equally many cells.
        row_titles: Title of each row, to its left. Long titles are wrapped, then shortened.
        column_titles: Title of each column, above it.
        caption: Text below the grid.
        side: Width of a cell, in inches.
        width: Width of the figure in inches, or a name of `VENUES`, in place of `side`.
        scale: What maps are divided by: "each" map's own 99.5th percentile of the magnitudes, the largest of these in
            its "row", or the largest in the figure, "shared". The label of the colour bar states it.
        quantity: What the maps contain, for the label of the colour bar.

    Returns:
        The figure, which notebooks show; write it with its method ``save``.

    Raises:
        UnknownName: If `width` is not the name of a venue.
        InvalidInput: If `scale` is unknown, or the figure is too narrow for its columns.
    """
    check_scale(scale)
    if not rows or not rows[0] or len({len(row) for row in rows}) > 1:
        raise InvalidInput(f"A grid needs rows of equally many cells, got {[len(row) for row in rows]} cells.")
    maps = [cell for row in rows for cell in row if cell.heatmap is not None]
    label = f"{quantity} / {_SCALE_OF[scale]} {PERCENTILE:g}th percentile of the magnitudes" if maps else ""
    ratios = [max(cell.picture.shape[0] / cell.picture.shape[1] for cell in row) for row in rows]
    titles = list(_titles_above(rows, column_titles))
    with paper_style():
        page = Page.of(ratios, titles, row_titles, label, caption, side, width)
        figure = PaperFigure(figsize=(page.width, page.height))
        maxima = _maxima(rows, scale)
        for i, row in enumerate(rows):
            for j, cell in enumerate(row):
                ax = figure.add_axes(page.fraction(page.cell(i, j)), label=f"{i} {j}")
                _draw(ax, _at_print_resolution(cell, page.cell_width), maxima[i][j])
                ax.set_title(page.cell_titles[i][j], fontsize=page.title_size, pad=_TITLE_PAD, linespacing=_SPACING)
            if i < len(page.row_titles):
                first = figure.axes[i * len(row)]
                first.set_ylabel(page.row_titles[i], fontsize=TITLE, labelpad=_TITLE_PAD, linespacing=_SPACING)
        if maps:
            _draw_bar(figure, page.fraction(page.bar), page.bar_label, signed=any(cell.signed for cell in maps))
        left, bottom, _, height = page.fraction((PAD, PAD, 0, page.caption_height - PAD))
        style_of_caption = {"ha": "left", "va": "top", "fontsize": SMALL, "linespacing": _SPACING}
        figure.supxlabel(page.caption, x=left, y=bottom + height, **style_of_caption)
    return figure


_TITLE_PAD, _SPACING = 2.5, 1.15  # points between an axes and its title; height of a line in sizes of the font


def check_count(name: str, value: Any) -> None:
    """Raise InvalidInput unless a value is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInput(f"{name} must be a positive integer, got {value!r}.")


def check_scale(scale: Any) -> None:
    """Raise InvalidInput unless the scale exists."""
    if scale not in get_args(Scale):
        raise InvalidInput(f"scale must be one of {', '.join(map(repr, get_args(Scale)))}, got {scale!r}.")


def _titles_above(rows: Sequence[Sequence[Cell]], columns: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    """Yield the titles of the column and of the cell for each cell; only the first row has those of the columns."""
    for i, row in enumerate(rows):
        above = [*columns, *[""] * len(row)][: len(row)] if i == 0 else [""] * len(row)
        yield [(title, cell.title) for title, cell in zip(above, row, strict=True)]


def _maxima(rows: Sequence[Sequence[Cell]], scale: Scale) -> list[list[float | None]]:
    """Return the magnitude that is shown at full strength for each cell; None means that of its own map."""
    if scale == "each":
        return [[None] * len(row) for row in rows]
    own = [[cell.maximum for cell in row] for row in rows]
    if scale == "shared":
        largest = max(max(row) for row in own)
        return [[largest] * len(row) for row in rows]
    return [[max(row)] * len(row) for row in own]


_MAX_DPI = 600  # pixels per inch of a picture in print


def _at_print_resolution(cell: Cell, width: float) -> Cell:
    """Reduce the picture and the map of a cell of this width in inches, if they have more pixels than print shows."""
    tall, wide = cell.picture.shape[:2]
    if wide <= _MAX_DPI * width:
        return cell
    size = max(1, round(tall * _MAX_DPI * width / wide)), max(1, round(_MAX_DPI * width))
    picture = cv2.resize(cell.picture, size[::-1], interpolation=cv2.INTER_AREA)
    maps = None if cell.heatmap is None else F.interpolate(cell.heatmap[None, None].double(), size, mode="area")[0, 0]
    whole = cell.heatmap if cell.whole is None else cell.whole
    ratios = torch.tensor([size[1] / wide, size[0] / tall] * 2)
    boxes = None if cell.boxes is None else cell.boxes.cpu() * ratios
    return replace(cell, picture=picture, heatmap=maps, whole=whole, boxes=boxes)


# White lines remain visible on white pictures.
_EDGES: list[AbstractPathEffect] = [withStroke(linewidth=1.6, foreground="black")]


def _draw(ax: Axes, cell: Cell, maximum: float | None) -> None:
    tall, wide = cell.picture.shape[:2]
    if cell.heatmap is None:
        ax.imshow(cell.picture)
    else:
        ax.imshow(overlay(cell.picture, cell.heatmap, whole=cell.whole, maximum=maximum))
    if cell.outline is not None:
        x, y = (
            (np.arange(cells) + 0.5) * pixels / cells - 0.5  # centres, in pixels of the picture
            for cells, pixels in zip(reversed(cell.outline.shape), (wide, tall), strict=True)
        )
        outline = ax.contour(x, y, cell.outline.float().cpu().numpy(), levels=[0.5], colors="white", linewidths=0.8)
        outline.set(path_effects=_EDGES)
    for left, top, right, bottom in [] if cell.boxes is None else cell.boxes.tolist():
        corner = left - 0.5, top - 0.5  # pixel centres are at integers
        box = Rectangle(corner, right - left, bottom - top, fill=False, edgecolor="white", linewidth=0.8)
        box.set_path_effects(_EDGES)
        ax.add_patch(box)
    ax.set(xticks=[], yticks=[], xlim=(-0.5, wide - 0.5), ylim=(tall - 0.5, -0.5))
    ax.spines[:].set_visible(False)


def _draw_bar(figure: PaperFigure, box: PageBox, label: str, *, signed: bool) -> None:
    """Draw the colours of scores over mid-grey."""
    lowest = -1 if signed else 0
    ax = figure.add_axes(box)
    grey = np.full((1, 256, 3), 128, np.uint8)
    ax.imshow(blend(grey, np.linspace(lowest, 1, 256)[None]), extent=(lowest, 1, 0, 1), aspect="auto")
    ax.set(xticks=[-1, 0, 1] if signed else [0, 1], yticks=[])
    ax.tick_params(labelsize=SMALL, length=2, pad=1)
    ax.set_xlabel(label, fontsize=SMALL, labelpad=1, linespacing=_SPACING)
    ax.spines[:].set_linewidth(0.4)


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
