"""Grids of pictures and overlays with shared colour bars, and tilings of many small pictures."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from torch import Tensor

from attribkit import __version__
from attribkit._core.errors import InvalidInput, UnknownName, UnreadableFile
from attribkit._core.pictures import DIVERGING, PERCENTILE, SEQUENTIAL, display_maximum, is_signed, overlay
from attribkit._core.shapes import Picture

Scale = Literal["each", "row", "shared"]
VENUES = {  # inches of a column, and of the text across the page
    "cvpr": 3.25, "cvpr-text": 6.875, "ieee": 3.5, "ieee-text": 7.16, "icml": 3.25, "icml-text": 6.75,
    "neurips": 5.5, "iclr": 5.5, "a4": 6.3,
}  # fmt: skip

CELL = 1.35  # inches, default side of a cell
_PAD, _GAP = 0.05, 0.05  # inches, around the figure and between cells
_BAR_LENGTH, _BAR_HEIGHT, _TICKS = 2.2, 0.07, 0.16  # inches
_TITLE, _SMALL = 8.0, 7.0  # points: titles, and the text of bars and the caption
_LEAST_TITLE = 7.0  # points, of titles above narrow columns
_LINE = 1.25 / 72  # inches per line and point
_TITLE_LINES = 3  # most lines of a title
_LEAST_CELL = 0.25  # inches
_SCALE_OF = {"each": "the map's", "row": "the row's largest", "shared": "the figure's largest"}


@dataclass(frozen=True, eq=False)
class Cell:
    """One picture of a grid.

    Args:
        picture: The picture, (h, w, 3) bytes.
        heatmap: Map that is drawn over the picture.
        outline: Mask, 1 inside, that is drawn as a contour.
        boxes: Left, top, right and bottom edges in pixels, (n, 4), that are drawn as lines.
        title: Title above the picture.
        whole: Map of the clip or volume that the heatmap is a section of; it determines the scale and the colours.
    """

    picture: Picture
    heatmap: Float[Tensor, "h w"] | None = None
    outline: Float[Tensor, "h w"] | None = None
    boxes: Float[Tensor, "n 4"] | None = None
    title: str = ""
    whole: Float[Tensor, "*space"] | None = None

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


class _PaperFigure(Figure):
    """A figure that notebooks show, and that `savefig` writes with TrueType fonts, without a date."""

    def savefig(self, fname: Any, **options: Any) -> None:
        """Write the figure; the same figure gives the same bytes. See `matplotlib.figure.Figure.savefig`."""
        ending = options.get("format") or Path(str(fname)).suffix.removeprefix(".")
        with paper_style():
            super().savefig(fname, **{"metadata": self._metadata(str(ending).lower()), **options})

    def _metadata(self, ending: str) -> dict[str, Any] | None:
        """Return what a file states about its origin: the version and the caption, without a date."""
        version, text = f"attribkit {__version__}", self.get_supxlabel()
        known: dict[str, dict[str, Any]] = {
            "png": {"Software": version, "Description": text},
            "pdf": {"Creator": version, "Subject": text, "CreationDate": None},
            "svg": {"Creator": version, "Description": text, "Date": None},
        }
        return known.get(ending)

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=_NOTEBOOK_DPI)
        return buffer.getvalue()


_NOTEBOOK_DPI = 150


def paper_figure(size: tuple[float, float], layout: Literal["constrained"] | None = None) -> Figure:
    """Return an empty figure of this width and height in inches, for files and notebooks."""
    return _PaperFigure(figsize=size, layout=layout)


def grid(
    rows: Sequence[Sequence[Cell]],
    *,
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    caption: str = "",
    side: float = CELL,
    width: float | str | None = None,
    scale: Scale = "each",
) -> Figure:
    """Draw rows of cells, with titles, colour bars and a caption that do not overlap.

    Args:
        rows: Rows of equally many cells.
        row_titles: Title of each row, to its left. Long titles are wrapped, then shortened.
        column_titles: Title of each column, above it.
        caption: Text below the grid.
        side: Width of a cell, in inches.
        width: Width of the figure in inches, or a name of `VENUES`, in place of `side`.
        scale: What maps are divided by: "each" map's own 99.5th percentile of the magnitudes, the largest of these in
            its "row", or the largest in the figure, "shared".

    Returns:
        The figure; write it with `save_figure` or its ``savefig``.

    Raises:
        UnknownName: If `width` is not the name of a venue.
        InvalidInput: If `scale` is unknown, or the figure is too narrow for its columns.
    """
    check_scale(scale)
    with paper_style():
        page = _Page.of(rows, row_titles, column_titles, caption, side, width, scale)
        figure = paper_figure((page.width, page.height))
        maxima = _maxima(rows, scale)
        for i, row in enumerate(rows):
            for j, cell in enumerate(row):
                ax = figure.add_axes(page.fraction(page.cell(i, j)), label=f"{i} {j}")
                _draw(ax, cell, maxima[i][j])
                ax.set_title(page.cell_titles[i][j], fontsize=page.title_size, pad=_TITLE_PAD, linespacing=_SPACING)
            if i < len(page.row_titles):
                first = figure.axes[i * len(row)]
                first.set_ylabel(page.row_titles[i], fontsize=_TITLE, labelpad=_TITLE_PAD, linespacing=_SPACING)
        for box, signed in zip(page.bars(), page.signs, strict=True):
            _draw_bar(figure, page.fraction(box), page.bar_label, signed=signed)
        left, bottom, _, height = page.fraction((_PAD, _PAD, 0, page.caption_height - _PAD))
        style_of_caption = {"ha": "left", "va": "top", "fontsize": _SMALL, "linespacing": _SPACING}
        figure.supxlabel(page.caption, x=left, y=bottom + height, **style_of_caption)
    return figure


_TITLE_PAD, _SPACING = 2.5, 1.15  # points between an axes and its title; height of a line in sizes of the font


def check_scale(scale: Any) -> None:
    """Raise InvalidInput unless the scale exists."""
    if scale not in get_args(Scale):
        raise InvalidInput(f"scale must be one of {', '.join(map(repr, get_args(Scale)))}, got {scale!r}.")


def figure_width(width: float | str) -> float:
    """Return a width in inches; raises UnknownName for a name that is not in VENUES, InvalidInput for other values."""
    if not isinstance(width, str):
        if not (isinstance(width, int | float) and 0 < width < math.inf):
            raise InvalidInput(
                f"width must be a positive number of inches or one of {', '.join(VENUES)}, got {width!r}."
            )
        return width
    if width not in VENUES:
        raise UnknownName("width of a figure", width, VENUES)
    return VENUES[width]


_Box = tuple[float, float, float, float]  # left, bottom, width, height in inches, from the lower left corner


@dataclass(frozen=True)
class _Page:
    """The positions of all parts of a grid, in inches.

    Args:
        width: Width of the figure.
        left: Width of the titles of the rows.
        cell_width: Width of a cell.
        heights: Height of the cells of each row.
        row_titles: Wrapped title of each row.
        cell_titles: Wrapped titles of the cells of each row, below those of the columns.
        title_size: Size of the titles above cells, in points.
        signs: Whether each colour bar is for signed maps.
        bar_label: Wrapped label of a bar.
        caption: Wrapped caption.
    """

    width: float
    left: float
    cell_width: float
    heights: tuple[float, ...]
    row_titles: tuple[str, ...]
    cell_titles: tuple[tuple[str, ...], ...]
    title_size: float
    signs: tuple[bool, ...]
    bar_label: str
    caption: str

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[Cell]],
        row_titles: Sequence[str],
        column_titles: Sequence[str],
        caption: str,
        side: float,
        width: float | str | None,
        scale: Scale,
    ) -> "_Page":
        """Lay out a grid; see `grid`."""
        columns, gaps = len(rows[0]), _GAP * (len(rows[0]) - 1)
        ratios = [max(cell.picture.shape[0] / cell.picture.shape[1] for cell in row) for row in rows]
        about = side if width is None else 0.9 * figure_width(width) / columns  # width of a cell, without the titles
        guess = [wrap(t, about * r, _TITLE, _TITLE_LINES) for t, r in zip(row_titles, ratios, strict=False)]
        left = _PAD + _high(guess)
        total = left + columns * side + gaps + _PAD if width is None else figure_width(width)
        cell_width = (total - left - gaps - _PAD) / columns
        if cell_width < _LEAST_CELL:
            raise InvalidInput(
                f"A figure of {total:g} inches is too narrow for {columns} columns, whose cells would be "
                f"{max(cell_width, 0):.2f} inches wide: use a larger width or fewer columns."
            )
        heights = tuple(cell_width * ratio for ratio in ratios)
        lines = max((len(title.splitlines()) for title in guess), default=0)
        size = _title_size([*column_titles, *(cell.title for row in rows for cell in row)], cell_width)
        signs = tuple(sorted({cell.signed for row in rows for cell in row if cell.heatmap is not None}))
        label = f"score / {_SCALE_OF[scale]} {PERCENTILE:g}th percentile of the magnitudes"
        slot = (total - 2 * _PAD) / max(1, len(signs)) - _GAP
        return cls(
            total,
            left,
            cell_width,
            heights,
            tuple(wrap(t, h, _TITLE, lines) for t, h in zip(row_titles, heights, strict=False)),
            tuple(
                tuple(_joined(wrap(each, cell_width, size, _TITLE_LINES) for each in titles) for titles in row)
                for row in _titles_above(rows, column_titles)
            ),
            size,
            signs,
            wrap(label, slot, _SMALL),
            wrap(caption, total - 2 * _PAD, _SMALL),
        )

    @property
    def height(self) -> float:
        """The height of the figure."""
        return self._top_of_rows + _PAD

    @property
    def caption_height(self) -> float:
        """The height of the caption, with the margin below."""
        return _PAD + _high([self.caption], _SMALL)

    @property
    def _top_of_bars(self) -> float:
        bar = _BAR_HEIGHT + _TICKS + _high([self.bar_label], _SMALL) + 2 * _GAP
        return self.caption_height + (bar if self.signs else 0.0)

    @property
    def _top_of_rows(self) -> float:
        rows = sum(h + _high(titles) + _GAP for h, titles in zip(self.heights, self.cell_titles, strict=True))
        return self._top_of_bars + rows

    def cell(self, i: int, j: int) -> _Box:
        """Return the box of a cell."""
        above = sum(h + _high(titles) + _GAP for h, titles in zip(self.heights[:i], self.cell_titles[:i], strict=True))
        bottom = self._top_of_rows - above - _high(self.cell_titles[i]) - self.heights[i]
        return self.left + j * (self.cell_width + _GAP), bottom, self.cell_width, self.heights[i]

    def bars(self) -> Iterator[_Box]:
        """Yield the box of each colour bar."""
        for i in range(len(self.signs)):
            slot = (self.width - 2 * _PAD) / len(self.signs)
            length = min(_BAR_LENGTH, 0.9 * slot - 2 * _GAP)
            yield _PAD + (i + 0.5) * slot - length / 2, self._top_of_bars - _GAP - _BAR_HEIGHT, length, _BAR_HEIGHT

    def fraction(self, box: _Box) -> _Box:
        """Return a box as fractions of the figure."""
        left, bottom, width, height = box
        return left / self.width, bottom / self.height, width / self.width, height / self.height


def _titles_above(rows: Sequence[Sequence[Cell]], columns: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    """Yield the titles of the column and of the cell for each cell; only the first row has those of the columns."""
    for i, row in enumerate(rows):
        above = [*columns, *[""] * len(row)][: len(row)] if i == 0 else [""] * len(row)
        yield [(title, cell.title) for title, cell in zip(above, row, strict=True)]


def _joined(titles: Iterable[str]) -> str:
    return "\n".join(filter(None, titles))


def _high(titles: Iterable[str], size: float = _TITLE) -> float:
    """Return the height of the tallest of these texts."""
    return max((len(title.splitlines()) for title in titles if title), default=0) * _LINE * size


def wrap(text: str, width: float, size: float, lines: int | None = None) -> str:
    """Break a text into lines of at most this width, at spaces or within long words, and shorten what does not fit.

    Args:
        text: The text; its line breaks are kept.
        width: Width in inches.
        size: Size of the font in points.
        lines: Maximum number of lines; None means any number.
    """
    wrapped = [part for line in text.splitlines() for part in _wrap_line(line, width, size)]
    if lines is not None and len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], _shorten(" ".join(wrapped[lines - 1 :]), width, size)]
    return "\n".join(wrapped)


def _wrap_line(line: str, width: float, size: float) -> Iterator[str]:
    current = ""
    for word in line.split(" "):
        joined = f"{current} {word}" if current else word
        if current and _text_width(joined, size) > width:
            yield current
            joined = word
        while _text_width(joined, size) > width and len(joined) > 1:
            head, joined = _break_word(joined, width, size)
            yield head
        current = joined
    yield current


def _break_word(word: str, width: float, size: float) -> tuple[str, str]:
    """Split a word that is too wide, after a hyphen or underscore if possible, else with a hyphen."""
    ends = [end for end in range(1, len(word)) if _text_width(f"{word[:end]}-", size) <= width] or [1]
    after_sign = [end for end in ends if word[end - 1] in "-_"]
    if after_sign:
        return word[: after_sign[-1]], word[after_sign[-1] :]
    parts = math.ceil(len(word) / ends[-1])
    end = math.ceil(len(word) / parts)  # parts of about equal length, so that no single letter is left
    return f"{word[:end]}-", word[end:]


def _shorten(line: str, width: float, size: float) -> str:
    """Return the beginning of the line that fits, and an ellipsis."""
    fits = [end for end in range(len(line)) if _text_width(f"{line[:end]}…", size) <= width]
    return f"{line[: fits[-1] if fits else 0]}…"


def _title_size(titles: Iterable[str], width: float) -> float:
    """Return the largest size at which no word of the titles is broken, at least _LEAST_TITLE points."""
    words = [part for title in titles for word in title.split() for part in re.split("(?<=[-_])", word)]
    widest = max((_text_width(word, _TITLE) for word in words), default=0.0)
    return max(_LEAST_TITLE, min(_TITLE, _TITLE * width / widest)) if widest else _TITLE


@cache
def _text_width(text: str, size: float) -> float:
    """Return the width of a line in inches; dollar signs, which start formulas, are not interpreted."""
    renderer = FigureCanvasAgg(Figure(dpi=_MEASURED_DPI)).get_renderer()
    width = renderer.get_text_width_height_descent(text, FontProperties(size=size), False)[0]
    return float(_HINTING * width / _MEASURED_DPI)


_MEASURED_DPI = 300
_HINTING = 1.04  # most by which hinting widens a line at other resolutions


def _maxima(rows: Sequence[Sequence[Cell]], scale: Scale) -> list[list[float | None]]:
    """Return the magnitude that is shown at full strength for each cell; None means that of its own map."""
    if scale == "each":
        return [[None] * len(row) for row in rows]
    own = [[cell.maximum for cell in row] for row in rows]
    if scale == "shared":
        largest = max(max(row) for row in own)
        return [[largest] * len(row) for row in rows]
    return [[max(row)] * len(row) for row in own]


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
    try:
        figure.savefig(path)
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


def paper_style() -> AbstractContextManager[None]:
    """Return a context with the settings of figures for papers."""
    return style.context(str(files("attribkit.figures") / "paper.mplstyle"))


def _draw(ax: Axes, cell: Cell, maximum: float | None) -> None:
    if cell.heatmap is None:
        ax.imshow(cell.picture)
    else:
        ax.imshow(overlay(cell.picture, cell.heatmap, whole=cell.whole, maximum=maximum))
    if cell.outline is not None:
        ax.contour(cell.outline.float().cpu().numpy(), levels=[0.5], colors="white", linewidths=0.8)
    for left, top, right, bottom in [] if cell.boxes is None else cell.boxes.tolist():
        corner = left - 0.5, top - 0.5  # pixel centres are at integers
        ax.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, edgecolor="white", linewidth=0.8))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _draw_bar(figure: Figure, box: _Box, label: str, *, signed: bool) -> None:
    mappable = ScalarMappable(Normalize(-1 if signed else 0, 1), DIVERGING if signed else SEQUENTIAL)
    bar = figure.colorbar(mappable, cax=figure.add_axes(box), orientation="horizontal")
    bar.set_ticks([-1, 0, 1] if signed else [0, 1])
    bar.ax.tick_params(labelsize=_SMALL, length=2, pad=1)
    bar.set_label(label, fontsize=_SMALL, labelpad=1, linespacing=_SPACING)
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]


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
