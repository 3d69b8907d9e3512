"""The page of the coverage table, generated from the measured rows."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from coverage_laws import BY_NAME, IMAGE_BY_IMAGE, POSITION

PAGE = Path(__file__).parents[1] / "docs" / "coverage.md"

_TEMPLATE = Path(__file__).with_suffix(".md")  # the text
_TEMPLATE_OF_LAWS = Path(__file__).with_name("coverage_page_laws.md")
_LAW = ", "  # in the row names of laws, not of methods
_MIRRORED = ", mirrored"
_COUNTED = {"timm": "timm", "classification": "torchvision, classification", "quantization": "torchvision, quantised"}

Rows = list[dict[str, str]]


def write_page(path: Path, about: str) -> None:
    """Write the page for the rows in the file; about: the environment of the measurement."""
    with path.open(newline="") as file:
        PAGE.write_text(page(list(csv.DictReader(file)), about))


def page(rows: Rows, about: str) -> str:
    """Return the Markdown page for the rows of a whole run."""
    methods = list(dict.fromkeys(row["method"] for row in rows if row["method"] and _LAW not in row["method"]))
    refusals = _refusals(rows)
    by_model: dict[str, dict[str, Rows]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        group = row["library"] if row["library"] == "timm" else row["family"]
        by_model[group][row["architecture"]].append(row)
    mirrored = [row for row in rows if _MIRRORED in row["method"]]
    return _TEMPLATE.read_text().format(
        about=about,
        summary=_summary(rows, methods),
        mirrored=len({row["architecture"] for row in mirrored}),
        largest=max((row["text"].split()[0] for row in mirrored), key=float, default="none"),
        laws=_laws(rows),
        tables="\n\n".join(_table(group, models, methods, refusals) for group, models in by_model.items()),
        refusals="\n".join(f"{number}. {text}" for text, number in refusals.values()),
    )


def _laws(rows: Rows) -> str:
    """Return the paragraph on the laws, with the number of architectures that satisfy them; empty without such rows."""
    named, single, placed = (
        [row for row in rows if row["method"] == law] for law in (BY_NAME, IMAGE_BY_IMAGE, POSITION)
    )
    if not named:
        return ""
    shifts = [float(each) for row in placed for each in re.findall(r": ([\d.]+) of a cell", row["text"])]
    return _TEMPLATE_OF_LAWS.read_text().format(
        named=_count(named, "ok"),
        single=_count(single, "ok"),
        noted=sum("with the note" in row["text"] for row in single),
        large=_count(single, "not judged"),
        shift=f"{max(shifts, default=0):.2f}",
        wide=sum(len(set(re.findall(r" at ([\dx]+): ", row["text"]))) > 1 for row in placed),
        placed=_count(placed, "ok"),
        diffuse=_count(placed, "not judged"),
    )


def _count(rows: Iterable[dict[str, str]], status: str) -> str:
    count = sum(row["status"] == status for row in rows)
    return f"{count} architecture{'' if count == 1 else 's'}"


def _refusals(rows: Rows) -> dict[str, tuple[str, int]]:
    """Return the distinct refusals, apart from numbers and names in them, each with a number."""
    found: dict[str, tuple[str, int]] = {}
    for row in rows:
        if row["status"] in ("refused", "left out", "wrong"):
            found.setdefault(_general(row["text"]), (" ".join(row["text"].split()), len(found) + 1))
    return found


def _general(text: str) -> str:
    """Remove the parts of a sentence that differ between models."""
    return re.sub(r"\[[^\]]*\]|\([^)]*\)|'[^']*'|\b[A-Z]\w*[A-Z]\w*\b|^\w+|\d+|Candidates.*", "", text)


def _summary(rows: Rows, methods: list[str]) -> str:
    lines = []
    for method in methods:
        counts = Counter(row["status"] for row in rows if row["method"] == method)
        lines.append([f"`{method}`", *(str(counts[status]) for status in ("ok", "refused", "wrong"))])
    return _markdown(["method", "ok", "refused", "wrong"], lines)


def _table(group: str, models: dict[str, Rows], methods: list[str], refusals: dict[str, tuple[str, int]]) -> str:
    lines = []
    for name, rows in models.items():
        cells = {row["method"]: row for row in rows}
        read = cells.get("gradcam", rows[0])
        layer = f"`{read['layer']}` {read['grid']}" if read["layer"] else read["grid"]
        shown = [_shown(cells.get(method, rows[0]), refusals) for method in methods]
        lines.append([f"`{name}`", read["input"], layer, *shown])
    head = ["architecture", "input", "layer of `gradcam`, grid", *(method.replace("_", " ") for method in methods)]
    return f"### {_COUNTED.get(group, f'torchvision, {group}'.replace('_', ' '))}\n\n{_markdown(head, lines)}"


def _shown(row: dict[str, str], refusals: dict[str, tuple[str, int]]) -> str:
    if row["status"] == "ok":
        return "ok"
    number = refusals[_general(row["text"])][1]
    status = "" if row["status"] == "refused" else f"**{row['status']}** "
    return f"{status}[{number}](#refusals)"


def _markdown(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])
