"""[benchmark/tables/latex] Tables of a summary for papers: LaTeX with the package booktabs.
[benchmark/tables/terminal] Tables of a summary in the terminal.
"""

import re
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from attribkit.benchmark.statistics.summary import Summary, SummaryScore
from attribkit.benchmark.tables.panels import Panel, PanelColumn, PanelLine, cell, panels
from attribkit.core.errors import printable

_LATEX_ARROWS = {True: r" $\uparrow$", False: r" $\downarrow$", None: ""}
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
    """A table environment for each panel, one after the other; needs the package booktabs and no other."""
    return "\n\n".join(_latex_table(panel) for panel in panels(summary)) + "\n"


def escaped(text: str) -> str:
    """The text as LaTeX prints it."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def _latex_table(panel: Panel) -> str:
    remarks = any(line.remarks for line in (*panel.methods, *panel.controls))
    titles = [f"{escaped(column.title)}{_LATEX_ARROWS[column.higher_is_better]}" for column in panel.columns]
    head = ["method", *titles, *["beware"] * remarks]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{escaped(f'{panel.title}. {panel.caption}')}}}",
            f"  \\label{{tab:{_SEPARATORS.sub('-', panel.title.lower()).strip('-')}}}",
            f"  \\begin{{tabular}}{{{'l' * len(head)}}}",
            r"    \toprule",
            _row(head),
            *(line for part in (panel.methods, panel.controls) if part for line in _part(part, panel, remarks)),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


def _part(lines: tuple[PanelLine, ...], panel: Panel, remarks: bool) -> list[str]:
    rows = [r"    \midrule"]
    for line in lines:
        cells = [_cell(score, column.decimals) for score, column in zip(line.cells, panel.columns, strict=True)]
        rows.append(_row([escaped(line.method), *cells, *[escaped("; ".join(line.remarks))] * remarks]))
    return rows


def _row(cells: list[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _cell(score: SummaryScore | None, decimals: int) -> str:
    value, rest = (_MINUS.sub("$-$", escaped(part)) for part in cell(score, decimals))
    shown = f"\\textbf{{{value}}}" if score is not None and score.best else value
    return f"{shown} {{\\scriptsize {rest}}}" if rest else shown


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


def _rows(lines: tuple[PanelLine, ...], columns: tuple[PanelColumn, ...], remarks: bool) -> Iterator[list[Text]]:
    for line in lines:
        cells = [_text(score, column.decimals) for score, column in zip(line.cells, columns, strict=True)]
        told = [Text(printable("; ".join(line.remarks)), style="red")] if remarks else []
        yield [Text(printable(line.method)), *cells, *told]


def _text(score: SummaryScore | None, decimals: int) -> Text:
    value, rest = cell(score, decimals)
    bold = "bold" if score is not None and score.best else ""
    return Text.assemble((value, bold), " ", (rest, "dim")) if rest else Text(value)
