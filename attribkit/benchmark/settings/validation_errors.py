"""[benchmark/settings/complaints] What is wrong with a configuration, in sentences.
[benchmark/settings/toml_lines] Where in a TOML file something is said, which Python's own reader does not tell.
"""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ValidationError

from attribkit.core.errors import AttribkitError, InvalidInput, UnknownName

Place = tuple[str | int, ...]  # of a value: keys, and indices into arrays


class InvalidConfiguration(InvalidInput):
    """All that is wrong with a configuration: a sentence each, with the place that it is about."""

    def __init__(self, found: list[tuple[Place, str]]) -> None:
        super().__init__("\n".join(sentence for _, sentence in found))
        self.found = found


@contextmanager
def at_setting(*place: str | int) -> Iterator[None]:
    """An error of what a place of the configuration asks for becomes a complaint about that place."""
    try:
        yield
    except AttribkitError as error:
        raise InvalidConfiguration([(place, str(error))]) from error


def validation_messages(error: ValidationError, table: type[BaseModel], told: Any) -> InvalidConfiguration:
    """What pydantic says of the content of a table, in our words; a value that is no kind of several is told once."""
    found: list[tuple[Place, str]] = []
    unfit: dict[Place, list[Any]] = {}
    for each in error.errors():
        if (sentence := _sentence(each, table)) is not None:
            found.append((each["loc"], sentence))
        else:
            unfit.setdefault(_place(each["loc"], told), []).append(each)
    return InvalidConfiguration([*found, *((place, _unfit(place, ways)) for place, ways in unfit.items())])


def _sentence(error: Any, table: type[BaseModel]) -> str | None:
    *around, last = error["loc"] or ("",)
    if error["type"] == "extra_forbidden":
        return str(UnknownName(f"setting{_inside(around)}", str(last), _settings(table, around)))
    if error["type"] == "missing":
        return f"The setting {last!r}{_inside(around)} is missing."
    return str(error["ctx"]["error"]) if error["type"] == "value_error" else None


def _unfit(place: Place, ways: list[Any]) -> str:
    """A value that is none of what it may be."""
    told = " or ".join(dict.fromkeys(_wanted(each) for each in ways))
    return f"{_name(place)} = {ways[0]['input']!r} does not do: {told}."


def _wanted(error: Any) -> str:
    if error["type"] == "model_type":
        return "input should be a table"
    message: str = error["msg"]
    return f"{message[:1].lower()}{message[1:]}"


def _place(where: Place, told: Any) -> Place:
    """As much of a place as the content has: pydantic goes on with the kinds that it tried."""
    for depth, key in enumerate(where):
        try:
            told = told[key]
        except (LookupError, TypeError):
            return where[:depth]
    return where


def _name(place: Place) -> str:
    """The last key, and what follows it in brackets."""
    keys = [depth for depth, key in enumerate(place) if isinstance(key, str)]
    inner = place[keys[-1] :] if keys else ("the configuration",)
    return "".join(each if isinstance(each, str) else f"[{each}]" for each in inner)


def _inside(around: list[str | int]) -> str:
    names = [each for each in around if isinstance(each, str)]
    return f" of [{'.'.join(names)}]" if names else ""


def _settings(table: Any, around: list[str | int]) -> list[str]:
    """The settings that a table in a table has."""
    for key in around:
        annotation = table if isinstance(key, int) else table.model_fields[key].annotation
        table = annotation.__args__[0] if hasattr(annotation, "__args__") else annotation
    return list(table.model_fields)


def setting_lines(text: str) -> dict[Place, int]:
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


def setting_line(place: Place, lines: dict[Place, int]) -> int | None:
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
