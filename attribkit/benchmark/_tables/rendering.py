"""Tables of a summary in Rich, for the terminal."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from attribkit._core.errors import printable
from attribkit.benchmark._statistics.summary import Summary, SummaryScore
from attribkit.benchmark._tables.panels import Panel, PanelColumn, PanelRow, cell_text, panels

_ARROWS = {True: " ↑", False: " ↓", None: ""}
_REMARKS_HEADING = "notes"


def tables(summary: Summary) -> list[Table]:
    """Format a summary as Rich tables for the terminal.

    Controls are below a line; failed checks and notes are in the last column. `summary.notes` lists the scores that
    could not be computed.

    Args:
        summary: The summary of a benchmark.

    Returns:
        A table for each panel.
    """
    return [_rich_table(panel) for panel in panels(summary)]


def _rich_table(panel: Panel) -> Table:
    table = Table(
        title=_escape_rich(panel.title), caption=_escape_rich(panel.caption), box=SIMPLE_HEAD, title_justify="left"
    )
    table.caption_justify = "left"
    table.add_column("method", no_wrap=True)
    for column in panel.columns:
        table.add_column(_escape_rich(f"{column.title}{_ARROWS[column.higher_is_better]}"))
    has_remarks = any(row.notes for row in (*panel.methods, *panel.controls))
    if has_remarks:
        table.add_column(_REMARKS_HEADING)
    for rows in (panel.methods, panel.controls):
        for row in _rich_rows(rows, panel.columns, has_remarks):
            table.add_row(*row)
        table.add_section()
    return table


def _escape_rich(text: str) -> str:
    """Escape text of a configuration or a plugin for the terminal and for Rich markup."""
    return escape(printable(text))


def _rich_rows(rows: tuple[PanelRow, ...], columns: tuple[PanelColumn, ...], has_remarks: bool) -> Iterator[list[Text]]:
    for row in rows:
        cells = [_rich_cell(score, column.decimals) for score, column in zip(row.cells, columns, strict=True)]
        last = [Text(printable("; ".join(row.notes)), style="red")] if has_remarks else []
        yield [Text(printable(row.method)), *cells, *last]


def _rich_cell(score: SummaryScore | None, decimals: int) -> Text:
    value, rest = cell_text(score, decimals)
    bold = "bold" if score is not None and score.best else ""
    return Text.assemble((value, bold), " ", (rest, "dim")) if rest else Text(value)
