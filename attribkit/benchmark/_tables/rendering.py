"""Tables of a summary in LaTeX, for papers, and in Rich, for the terminal."""

import re
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from attribkit._core.errors import printable
from attribkit.benchmark._statistics.summary import Summary, SummaryScore
from attribkit.benchmark._tables.panels import Panel, PanelColumn, PanelRow, cell_text, panels

_ARROWS = {True: " ↑", False: " ↓", None: ""}
_LATEX_ARROWS = {True: r" $\uparrow$", False: r" $\downarrow$", None: ""}
_REMARKS_HEADING = "notes"
_SEPARATORS = re.compile(r"[^a-z0-9]+")
_MINUS = re.compile(r"-(?=\d)")
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def latex(summary: Summary) -> str:
    """Format a summary as LaTeX tables, which need the package booktabs.

    Args:
        summary: The summary of a benchmark.

    Returns:
        A table environment for each panel, one after the other.
    """
    return "\n\n".join(_latex_table(panel) for panel in panels(summary)) + "\n"


def escape_latex(text: str) -> str:
    """Escape the characters that are special in LaTeX."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def _latex_table(panel: Panel) -> str:
    has_remarks = any(row.notes for row in (*panel.methods, *panel.controls))
    titles = [f"{escape_latex(column.title)}{_LATEX_ARROWS[column.higher_is_better]}" for column in panel.columns]
    head = ["method", *titles, *[_REMARKS_HEADING] * has_remarks]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{escape_latex(f'{panel.title}. {panel.caption}')}}}",
            f"  \\label{{tab:{_SEPARATORS.sub('-', panel.title.lower()).strip('-')}}}",
            f"  \\begin{{tabular}}{{{'l' * len(head)}}}",
            r"    \toprule",
            _latex_row(head),
            *(
                line
                for rows in (panel.methods, panel.controls)
                if rows
                for line in _latex_rows(rows, panel, has_remarks)
            ),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


def _latex_rows(rows: tuple[PanelRow, ...], panel: Panel, has_remarks: bool) -> list[str]:
    lines = [r"    \midrule"]
    for row in rows:
        cells = [_latex_cell(score, column.decimals) for score, column in zip(row.cells, panel.columns, strict=True)]
        lines.append(
            _latex_row([escape_latex(row.method), *cells, *[escape_latex("; ".join(row.notes))] * has_remarks])
        )
    return lines


def _latex_row(cells: list[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _latex_cell(score: SummaryScore | None, decimals: int) -> str:
    value, rest = (_MINUS.sub("$-$", escape_latex(part)) for part in cell_text(score, decimals))
    shown = f"\\textbf{{{value}}}" if score is not None and score.best else value
    return f"{shown} {{\\scriptsize {rest}}}" if rest else shown


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
