"""Tables of a summary in the terminal."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from attribkit.benchmark.statistics.summary import Score, Summary
from attribkit.benchmark.tables.panels import Column, Line, Panel, cell, panels
from attribkit.core.printable import printable

_ARROWS = {True: " ↑", False: " ↓", None: ""}


def tables(summary: Summary) -> list[Table]:
    """A Rich table for each panel; controls below a line, what fails or misleads in the last column.

    What could not be said at all is in `summary.notes`.
    """
    return [_table(panel) for panel in panels(summary)]


def _table(panel: Panel) -> Table:
    table = Table(title=_shown(panel.title), caption=_shown(panel.caption), box=SIMPLE_HEAD, title_justify="left")
    table.caption_justify = "left"
    table.add_column("method", no_wrap=True)
    for column in panel.columns:
        table.add_column(_shown(f"{column.title}{_ARROWS[column.higher_is_better]}"))
    remarks = any(line.remarks for line in (*panel.methods, *panel.controls))
    if remarks:
        table.add_column("beware")
    for part in (panel.methods, panel.controls):
        for row in _rows(part, panel.columns, remarks):
            table.add_row(*row)
        table.add_section()
    return table


def _shown(text: str) -> str:
    """Text of a configuration or a plugin, of which the terminal interprets nothing."""
    return escape(printable(text))


def _rows(lines: tuple[Line, ...], columns: tuple[Column, ...], remarks: bool) -> Iterator[list[Text]]:
    for line in lines:
        cells = [_text(score, column.decimals) for score, column in zip(line.cells, columns, strict=True)]
        told = [Text(printable("; ".join(line.remarks)), style="red")] if remarks else []
        yield [Text(printable(line.method)), *cells, *told]


def _text(score: Score | None, decimals: int) -> Text:
    value, rest = cell(score, decimals)
    bold = "bold" if score is not None and score.best else ""
    return Text.assemble((value, bold), " ", (rest, "dim")) if rest else Text(value)
