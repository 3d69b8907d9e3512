"""The configuration from a TOML file, and what is wrong with it, line by line."""

import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from attribkit.benchmark.configuration import Configuration
from attribkit.benchmark.toml_lines import line_of, lines_of
from attribkit.core.errors import InvalidInput, UnknownName, UnreadableFile


def read_configuration(path: str | Path) -> Configuration:
    """The configuration that a TOML file holds; one sentence with its line for all that is wrong in it."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        told = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(
            f"{str(path)!r} cannot be read ({error}): `attribkit benchmark --example` prints one to begin with."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is no TOML: {error}.") from error
    try:
        return Configuration.model_validate(told)
    except ValidationError as error:
        raise InvalidInput("\n".join(_complaints(error, str(path), text))) from None


def example() -> str:
    """A configuration that runs offline within a minute."""
    return (files("attribkit.benchmark") / "example.toml").read_text(encoding="utf-8")


def _complaints(error: ValidationError, path: str, text: str) -> Iterator[str]:
    """A sentence for each error, in the order of the file; what is missing from all of it comes first."""
    lines = lines_of(text)
    found = [(line_of(each["loc"], lines) or 0, _sentence(each)) for each in error.errors()]
    for line, sentence in sorted(found):
        yield f"{path}, line {line}: {sentence}" if line else f"{path}: {sentence}"


def _sentence(error: Any) -> str:
    """What is wrong, in our words."""
    *around, last = error["loc"]
    if error["type"] == "extra_forbidden":
        return str(UnknownName(f"setting{_inside(around)}", str(last), _settings(around)))
    if error["type"] == "missing":
        return f"The setting {last!r}{_inside(around)} is missing."
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"{last} = {error['input']!r} does not do: {error['msg'][:1].lower()}{error['msg'][1:]}."


def _inside(around: list[str | int]) -> str:
    names = [each for each in around if isinstance(each, str)]
    return f" of [{'.'.join(names)}]" if names else ""


def _settings(around: list[str | int]) -> list[str]:
    """The settings that a table has."""
    table: Any = Configuration
    for key in around:
        annotation = table if isinstance(key, int) else table.model_fields[key].annotation
        table = annotation.__args__[0] if hasattr(annotation, "__args__") else annotation
    assert issubclass(table, BaseModel)
    return list(table.model_fields)
