"""Tables of a summary for papers: LaTeX with the package booktabs."""

import re

from attribkit.benchmark.statistics.summary import Score, Summary
from attribkit.benchmark.tables.panels import Line, Panel, cell, panels

_ARROWS = {True: r" $\uparrow$", False: r" $\downarrow$", None: ""}
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
    return "\n\n".join(_table(panel) for panel in panels(summary)) + "\n"


def escaped(text: str) -> str:
    """The text as LaTeX prints it."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def _table(panel: Panel) -> str:
    remarks = any(line.remarks for line in (*panel.methods, *panel.controls))
    titles = [f"{escaped(column.title)}{_ARROWS[column.higher_is_better]}" for column in panel.columns]
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


def _part(lines: tuple[Line, ...], panel: Panel, remarks: bool) -> list[str]:
    rows = [r"    \midrule"]
    for line in lines:
        cells = [_cell(score, column.decimals) for score, column in zip(line.cells, panel.columns, strict=True)]
        rows.append(_row([escaped(line.method), *cells, *[escaped("; ".join(line.remarks))] * remarks]))
    return rows


def _row(cells: list[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _cell(score: Score | None, decimals: int) -> str:
    value, rest = (_MINUS.sub("$-$", escaped(part)) for part in cell(score, decimals))
    shown = f"\\textbf{{{value}}}" if score is not None and score.best else value
    return f"{shown} {{\\scriptsize {rest}}}" if rest else shown
