"""Where in a TOML file something is said, which Python's own reader does not tell."""

import tomllib
from collections.abc import Iterator
from typing import Any

from attribkit.benchmark.settings.complaints import Place


def lines_of(text: str) -> dict[Place, int]:
    """The line, from 1, on which each key, table and entry of a valid file begins.

    A statement is the fewest lines in a row that are valid on their own: that tells it from the next, whatever is
    quoted or spread over lines. Entries of an array that is written inside a value have the line of its key.
    """
    found: dict[Place, int] = {}
    entries: dict[Place, int] = {}  # by the place of an array of tables, its latest entry
    table: Place = ()
    for line, statement, told in _statements(text):
        if statement.startswith("["):
            table = _entered(told, entries, is_array=statement.startswith("[["))
            for depth in range(1, len(table) + 1):
                found.setdefault(table[:depth], line)
        else:
            found |= {(*table, *place): line for place in _places(told)}
    return found


def line_of(place: Place, lines: dict[Place, int]) -> int | None:
    """The line of a place, or of the innermost one around it that has a line."""
    around = (place[:length] for length in range(len(place), 0, -1))
    return next((lines[each] for each in around if each in lines), None)


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Line, text and content of each statement that says something."""
    lines, start = text.split("\n"), 0  # what else Python takes for an end of a line is none in TOML
    while start < len(lines):
        end, told = _statement(lines, start)
        if told:
            yield start + 1, lines[start].strip(), told
        start = end


def _statement(lines: list[str], start: int) -> tuple[int, dict[str, Any]]:
    """The line behind the statement that begins on a line, and its content."""
    for end in range(start + 1, len(lines) + 1):
        try:
            return end, tomllib.loads("\n".join(lines[start:end]))
        except tomllib.TOMLDecodeError:
            continue
    return len(lines), {}


def _entered(told: dict[str, Any], entries: dict[Place, int], *, is_array: bool) -> Place:
    """The place that a header opens."""
    keys = list(_header(told))
    place: Place = ()
    for depth, key in enumerate(keys, start=1):
        place = (*place, key)
        if is_array and depth == len(keys):
            entries[place] = entries.get(place, -1) + 1
        if place in entries:
            place = (*place, entries[place])
    return place


def _header(told: Any) -> Iterator[str]:
    while isinstance(told, dict) and told:
        key, told = next(iter(told.items()))
        yield key


def _places(told: Any) -> Iterator[Place]:
    """The places of all that a value holds."""
    inside = told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ()
    for key, value in inside:
        yield (key,)
        yield from ((key, *place) for place in _places(value))
