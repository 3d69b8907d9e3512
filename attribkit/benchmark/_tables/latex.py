"""Tables of a summary for papers, in LaTeX with the packages array and booktabs."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, groupby
from string import ascii_lowercase

from attribkit._core.errors import join_names
from attribkit.benchmark._statistics.summary import Summary, SummaryScore
from attribkit.benchmark._tables.panels import Panel, PanelRow, cell_text, panels
from attribkit.figures._page import figure_width, text_width
from attribkit.figures._summaries import display_label

_ARROWS = {True: r"~$\uparrow$", False: r"~$\downarrow$", None: ""}
_SEPARATORS = re.compile(r"[^a-z0-9]+")
_MINUS = re.compile(r"-(?=\d)")
_SCRIPT, _GAP = 7.0, 6.0 / 72  # points of a small font; inches between columns
_NAMES = 0.3  # part of the width that names take
_TEXT_WIDTHS = {"cvpr-text", "ieee-text", "icml-text"}  # across both columns
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def latex(summary: Summary, width: float | str = "cvpr") -> str:
    """Format a summary as LaTeX tables: one for each kind of metric and set of images, with a part for each model.

    Tables take the width of the column or, for widths such as "cvpr-text", of the page; metrics that do not fit side
    by side are continued in a further table. They need the packages array and booktabs.

    Args:
        summary: The summary of a benchmark.
        width: Width in inches, or a name of `attribkit.figures.VENUES`.

    Returns:
        The table environments, one after the other.

    Raises:
        UnknownName: If `width` is not the name of a venue.
    """
    columns = max(1, int(figure_width(width) * (1 - _NAMES) / _column_width(panels(summary))))
    environment = "table*" if width in _TEXT_WIDTHS else "table"
    found = sorted(panels(summary, columns), key=_question)
    tables = [part for _, models in groupby(found, _question) for part in _pages(list(models))]
    used: set[str] = set()
    return "\n\n".join(_table(parts, environment, unique_slug(_title(parts), used)) for parts in tables) + "\n"


def unique_slug(text: str, used: set[str]) -> str:
    """Return a text in lower case letters, digits and hyphens that is not used yet, and add it to the used ones."""
    base = _SEPARATORS.sub("-", text.lower()).strip("-") or "unnamed"
    slug = next(slug for number in count(1) if (slug := base if number == 1 else f"{base}-{number}") not in used)
    used.add(slug)
    return slug


_MAX_ROWS = 24  # methods and controls, with their intervals, on a page


def _pages(parts: Sequence[Panel]) -> list[list[Panel]]:
    """Distribute the panels of models over tables that are not higher than a page."""
    pages: list[list[Panel]] = [[]]
    for panel in parts:
        rows = sum(len(each.methods) + len(each.controls) for each in (*pages[-1], panel))
        if pages[-1] and rows > _MAX_ROWS:
            pages.append([])
        pages[-1].append(panel)
    return pages


def _column_width(found: Sequence[Panel]) -> float:
    """Return the width in inches that the longest interval needs; the measured font is wider than those of LaTeX."""
    cells = (
        cell_text(score, column.decimals)
        for panel in found
        for row in (*panel.methods, *panel.controls)
        for score, column in zip(row.cells, panel.columns, strict=True)
    )
    words = (word for _, interval in cells for word in interval.replace(", ", ",").split())
    return max((text_width(word, _SCRIPT) for word in words), default=0.5) + _GAP


def _question(panel: Panel) -> tuple[str, str, bool, tuple[str, ...]]:
    """Return what the panels of a table have in common."""
    return panel.subset, panel.kind, panel.normalised, tuple(column.title for column in panel.columns)


def escape_latex(text: str) -> str:
    """Escape the characters that are special in LaTeX."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def _breakable(text: str) -> str:
    """Escape a label, and permit line breaks after its separators and within its first word."""
    return r"\hspace{0pt}" + re.sub(r"(\\_|[-=,+/:])", r"\1\\allowbreak{}", escape_latex(text))


def _table(parts: Sequence[Panel], environment: str, label: str) -> str:
    """Format the panels of the models as one table."""
    first, letters = parts[0], _Letters()
    columns = len(first.columns)
    width = f"{(1 - _NAMES) / columns:.3f}\\linewidth-2\\tabcolsep"
    several = len(parts) > 1
    title = _title(parts)
    heads = [f"{_breakable(column.title)}{_ARROWS[column.higher_is_better]}" for column in first.columns]
    body = [line for panel in parts for line in _part(panel, several, letters)]
    return "\n".join(
        [
            f"\\begin{{{environment}}}",
            r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
            f"  \\caption{{{escape_latex(f'{title}. {_caption(parts)}')}}}",
            f"  \\label{{tab:{label}}}",
            r"  \begin{tabular}{@{}>{\raggedright\arraybackslash}p{\dimexpr" + f"{_NAMES}\\linewidth-\\tabcolsep}}",
            f"    *{{{columns}}}{{>{{\\centering\\arraybackslash}}p{{\\dimexpr{width}}}}}@{{}}}}",
            r"    \toprule",
            f"    Method & {' & '.join(heads)} \\\\",
            *body,
            r"    \bottomrule",
            r"  \end{tabular}",
            *letters.footnotes(),
            f"\\end{{{environment}}}",
        ]
    )


def _title(parts: Sequence[Panel]) -> str:
    """Return the title of a table of these models."""
    (first, *others) = parts
    if not others:
        return first.title
    what = first.title.removeprefix(first.model).partition(": ")[2]
    subset = "" if first.subset == "all" else f" ({first.subset})"
    return f"{what[:1].upper()}{what[1:]} of {join_names([panel.model for panel in parts])}{subset}"


def _caption(parts: Sequence[Panel]) -> str:
    """Return the caption of all parts, or that of each model if they differ."""
    captions = {panel.model: panel.caption for panel in parts}
    if len(set(captions.values())) == 1:
        return parts[0].caption
    return " ".join(f"{model}: {caption}" for model, caption in captions.items())


class _Letters:
    """The notes of a table, each with a letter."""

    def __init__(self) -> None:
        self._notes: dict[str, str] = {}

    def marks(self, notes: Iterable[str]) -> str:
        """Return the superscript letters of these notes."""
        letters = [self._notes.setdefault(note, _letter(len(self._notes))) for note in notes]
        return f"\\textsuperscript{{{','.join(letters)}}}" if letters else ""

    def footnotes(self) -> list[str]:
        """Return the lines below the table."""
        notes = [f"\\textsuperscript{{{letter}}}{_breakable(note)}" for note, letter in self._notes.items()]
        return (
            [r"  \par\vspace{2pt}\parbox{\linewidth}{\raggedright\scriptsize " + ". ".join(notes) + ".}"]
            if notes
            else []
        )


def _letter(number: int) -> str:
    return ascii_lowercase[number % 26] * (1 + number // 26)


def _part(panel: Panel, several: bool, letters: _Letters) -> Iterator[str]:
    """Yield the lines of a model: its name, its methods and its controls."""
    yield r"    \midrule"
    if several:
        yield f"    \\multicolumn{{{1 + len(panel.columns)}}}{{@{{}}l}}{{\\textit{{{escape_latex(panel.model)}}}}} \\\\"
    for rows in (panel.methods, panel.controls):
        if rows is panel.controls and panel.methods and panel.controls:
            yield r"    \addlinespace"
        for row in rows:
            yield from _row(row, panel, letters)


def _row(row: PanelRow, panel: Panel, letters: _Letters) -> Iterator[str]:
    """Yield the line of the values, and that of their intervals."""
    cells = [_cell(score, column.decimals) for score, column in zip(row.cells, panel.columns, strict=True)]
    values, intervals = ([cell[part] for cell in cells] for part in (0, 1))
    yield f"    {_breakable(display_label(row.method))}{letters.marks(row.notes)} & {' & '.join(values)} \\\\"
    if any(intervals):
        shown = [f"{{\\scriptsize {interval}}}" if interval else "" for interval in intervals]
        yield f"    & {' & '.join(shown)} \\\\[1pt]"


def _cell(score: SummaryScore | None, decimals: int) -> tuple[str, str]:
    """Return the value, in bold if it is the best, and the interval."""
    value, interval = (_MINUS.sub("$-$", escape_latex(part)) for part in cell_text(score, decimals))
    bold = score is not None and score.best and not math.isnan(score.estimate.value)
    return (f"\\textbf{{{value}}}" if bold else value), interval.replace(", ", r",\,")
