"""Positions and sizes of the parts of a grid of pictures in inches, and text that is wrapped to a width."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from attribkit._core.errors import InvalidInput, UnknownName

VENUES = {  # inches of a column, and of the text across the page
    "cvpr": 3.25, "cvpr-text": 6.875, "ieee": 3.5, "ieee-text": 7.16, "icml": 3.25, "icml-text": 6.75,
    "neurips": 5.5, "iclr": 5.5, "a4": 6.3,
}  # fmt: skip
CELL = 1.35  # inches, default side of a cell
PAD, GAP = 0.05, 0.05  # inches, around the figure and between cells
TITLE, SMALL = 8.0, 7.0  # points: titles, and the text of the colour bar and the caption
_BAR_LENGTH, _BAR_HEIGHT, _TICKS = 2.2, 0.07, 0.16  # inches
_LEAST_TITLE = 7.0  # points, of titles above narrow columns
_LINE = 1.25 / 72  # inches per line and point
_TITLE_LINES = 3  # most lines of a title
_LEAST_CELL = 0.25  # inches


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


PageBox = tuple[float, float, float, float]  # left, bottom, width, height in inches, from the lower left corner


@dataclass(frozen=True)
class Page:
    """The positions of all parts of a grid, in inches.

    Args:
        width: Width of the figure.
        left: Width of the titles of the rows.
        cell_width: Width of a cell.
        heights: Height of the cells of each row.
        row_titles: Wrapped title of each row.
        cell_titles: Wrapped titles of the cells of each row, below those of the columns.
        title_size: Size of the titles above cells, in points.
        bar_label: Wrapped label of the colour bar; empty without a bar.
        caption: Wrapped caption.
    """

    width: float
    left: float
    cell_width: float
    heights: tuple[float, ...]
    row_titles: tuple[str, ...]
    cell_titles: tuple[tuple[str, ...], ...]
    title_size: float
    bar_label: str
    caption: str

    @classmethod
    def of(
        cls,
        ratios: Sequence[float],
        titles: Sequence[Sequence[Sequence[str]]],
        row_titles: Sequence[str],
        bar_label: str,
        caption: str,
        side: float,
        width: float | str | None,
    ) -> "Page":
        """Lay out a grid.

        Args:
            ratios: Height over width of the cells of each row.
            titles: Titles above each cell of each row, from top to bottom.
            row_titles: Title of each row.
            bar_label: Label of the colour bar; empty without a bar.
            caption: The caption.
            side: Width of a cell, in inches.
            width: Width of the figure in inches, or a name of `VENUES`, in place of `side`.
        """
        columns, gaps = len(titles[0]), GAP * (len(titles[0]) - 1)
        about = side if width is None else 0.9 * figure_width(width) / columns  # width of a cell, without the titles
        guess = [wrap(t, about * r, TITLE, _TITLE_LINES) for t, r in zip(row_titles, ratios, strict=False)]
        left = PAD + _high(guess)
        total = left + columns * side + gaps + PAD if width is None else figure_width(width)
        cell_width = (total - left - gaps - PAD) / columns
        if cell_width < _LEAST_CELL:
            raise InvalidInput(
                f"A figure of {total:g} inches is too narrow for {columns} columns, whose cells would be "
                f"{max(cell_width, 0):.2f} inches wide: use a larger width or fewer columns."
            )
        heights = tuple(cell_width * ratio for ratio in ratios)
        lines = max((len(title.splitlines()) for title in guess), default=0)
        size = _title_size([title for row in titles for above in row for title in above], cell_width)
        return cls(
            total,
            left,
            cell_width,
            heights,
            tuple(wrap(t, h, TITLE, lines) for t, h in zip(row_titles, heights, strict=False)),
            tuple(
                tuple(_joined(wrap(each, cell_width, size, _TITLE_LINES) for each in above) for above in row)
                for row in titles
            ),
            size,
            wrap(bar_label, total - 2 * PAD, SMALL),
            wrap(caption, total - 2 * PAD, SMALL),
        )

    @property
    def height(self) -> float:
        """The height of the figure."""
        return self._top_of_rows + PAD

    @property
    def caption_height(self) -> float:
        """The height of the caption, with the margin below."""
        return PAD + _high([self.caption], SMALL)

    @property
    def _top_of_bar(self) -> float:
        bar = _BAR_HEIGHT + _TICKS + _high([self.bar_label], SMALL) + 2 * GAP
        return self.caption_height + (bar if self.bar_label else 0.0)

    @property
    def _top_of_rows(self) -> float:
        rows = sum(h + _high(titles) + GAP for h, titles in zip(self.heights, self.cell_titles, strict=True))
        return self._top_of_bar + rows

    def cell(self, i: int, j: int) -> PageBox:
        """Return the box of a cell."""
        above = sum(h + _high(titles) + GAP for h, titles in zip(self.heights[:i], self.cell_titles[:i], strict=True))
        bottom = self._top_of_rows - above - _high(self.cell_titles[i]) - self.heights[i]
        return self.left + j * (self.cell_width + GAP), bottom, self.cell_width, self.heights[i]

    @property
    def bar(self) -> PageBox:
        """The box of the colour bar."""
        length = min(_BAR_LENGTH, 0.9 * self.width - 2 * PAD)
        return (self.width - length) / 2, self._top_of_bar - GAP - _BAR_HEIGHT, length, _BAR_HEIGHT

    def fraction(self, box: PageBox) -> PageBox:
        """Return a box as fractions of the figure."""
        left, bottom, width, height = box
        return left / self.width, bottom / self.height, width / self.width, height / self.height


def _joined(titles: Iterable[str]) -> str:
    return "\n".join(filter(None, titles))


def _high(titles: Iterable[str], size: float = TITLE) -> float:
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
    parts = (part for line in text.splitlines() for part in _wrap_line(line, width, size))
    wrapped = list(parts if lines is None else islice(parts, lines + 1))
    if lines is not None and len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], _shorten(" ".join(wrapped[lines - 1 :]), width, size)]
    return "\n".join(wrapped)


def _wrap_line(line: str, width: float, size: float) -> Iterator[str]:
    current = ""
    for word in line.split(" "):
        joined = f"{current} {word}" if current else word
        if current and text_width(joined, size) > width:
            yield current
            joined = word
        while text_width(joined, size) > width and len(joined) > 1:
            head, joined = _break_word(joined, width, size)
            yield head
        current = joined
    yield current


def _break_word(word: str, width: float, size: float) -> tuple[str, str]:
    """Split a word that is too wide, after a sign such as a hyphen or underscore if possible, else with a hyphen."""
    last = max(1, _fitting(word, "-", width, size))
    signs = [end for end in range(1, min(last, len(word) - 1) + 1) if word[end - 1] in "-_./:"]
    if signs:
        return word[: signs[-1]], word[signs[-1] :]
    parts = math.ceil(len(word) / last)
    end = math.ceil(len(word) / parts)  # parts of about equal length, so that no single letter is left
    return f"{word[:end]}-", word[end:]


def _shorten(line: str, width: float, size: float) -> str:
    """Return the beginning of the line that fits, and an ellipsis."""
    return f"{line[: _fitting(line, '…', width, size)]}…"


def _fitting(line: str, suffix: str, width: float, size: float) -> int:
    """Return how many characters of the line fit together with a suffix."""
    low, high = 0, len(line)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_width(line[:middle] + suffix, size) <= width else (low, middle - 1)
    return low


def _title_size(titles: Iterable[str], width: float) -> float:
    """Return the largest size at which no word of the titles is broken, at least _LEAST_TITLE points."""
    words = [part for title in titles for word in title.split() for part in re.split("(?<=[-_./:])", word)]
    widest = max((text_width(word, TITLE) for word in words), default=0.0)
    return max(_LEAST_TITLE, min(TITLE, TITLE * width / widest)) if widest else TITLE


@lru_cache(maxsize=4096)
def text_width(text: str, size: float) -> float:
    """Return the width of a line in inches; dollar signs, which start formulas, are not interpreted."""
    width = _renderer().get_text_width_height_descent(text, FontProperties(size=size), False)[0]
    return float(_HINTING * width / _MEASURED_DPI)


@cache
def _renderer() -> Any:
    return FigureCanvasAgg(Figure(dpi=_MEASURED_DPI)).get_renderer()


_MEASURED_DPI = 300
_HINTING = 1.04  # most by which hinting widens a line at other resolutions
