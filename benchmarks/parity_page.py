"""The page of the parity table, generated from the saved result."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "parity.md"

_TEMPLATE = Path(__file__).with_suffix(".md")  # the text


def page(saved: dict[str, Any]) -> str:
    """Return the Markdown page of a saved result."""
    result, environment = saved["result"], saved["environment"]
    numbers = [each["difference"] for row in result["rows"] for each in row["cells"].values() if "difference" in each]
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    notes = _notes(result)
    return _TEMPLATE.read_text().format(
        **result["options"],
        largest=_format(max(numbers)),
        date=environment["date"],
        commit=environment["commit"],
        packages=packages,
        table=_table(result, notes),
        notes="  \n".join(f"<sup>{i}</sup> {note}" for i, note in enumerate(notes, start=1)),
        models=_models(result["models"]),
    )


def _notes(result: dict[str, Any]) -> list[str]:
    """Return the notes on single cells, each once, in order."""
    cells = (cell for row in result["rows"] for cell in row["cells"].values())
    return list(dict.fromkeys(cell["note"] for cell in cells if "note" in cell))


def _table(result: dict[str, Any], notes: list[str]) -> str:
    def shown(cell: dict[str, Any]) -> str:
        if "refused" in cell:
            return f"refused: {cell['refused']}"
        mark = f" <sup>{notes.index(cell['note']) + 1}</sup>" if "note" in cell else ""
        return _format(cell["difference"]) + mark

    lines = [
        [f"`{row['method']}`", row["oracle"], *(shown(row["cells"][model]) for model in result["models"])]
        for row in result["rows"]
    ]
    return _markdown(["method", "oracle", *result["models"]], lines)


def _models(models: dict[str, dict[str, Any]]) -> str:
    layers = ("layer", "scorecam", "ablationcam")
    lines = [
        [name, about["images"], about["image"], *(f"`{about[layer]}`" for layer in layers)]
        for name, about in models.items()
    ]
    return _markdown(["model", "images", "small image", "layer", "of `scorecam`", "of `ablationcam`"], lines)


def _markdown(head: list[str], lines: Iterable[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def _format(number: float) -> str:
    digits, _, power = f"{number:.0e}".partition("e")
    return "0" if number == 0 else f"{digits}e{int(power)}"
