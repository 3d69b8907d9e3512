"""The configuration from a TOML file, and what is wrong with it, line by line."""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from attribkit.benchmark.settings.complaints import InvalidConfiguration
from attribkit.benchmark.settings.configuration import Configuration
from attribkit.benchmark.settings.toml_lines import line_of, lines_of
from attribkit.core.errors import InvalidInput, UnreadableFile


def read_configuration(path: str | Path) -> Configuration:
    """The configuration that a TOML file holds; one sentence with its line for all that is wrong in it."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # Windows' editors begin a file with a mark
        told = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(
            f"{str(path)!r} cannot be read ({error}): `attribkit benchmark --example` prints one to begin with."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is no TOML: {error}.") from error
    with lines_told(path):
        return Configuration(**told)


@contextmanager
def lines_told(path: str | Path) -> Iterator[None]:
    """What is wrong with the configuration that a file holds is told with the lines of the file."""
    try:
        yield
    except InvalidConfiguration as error:
        text = Path(path).read_text(encoding="utf-8-sig")
        raise InvalidInput("\n".join(_with_lines(error, str(path), text))) from error


def example() -> str:
    """A configuration that runs offline within a minute."""
    return (files("attribkit.benchmark.settings") / "example.toml").read_text(encoding="utf-8")


def _with_lines(complaints: InvalidConfiguration, path: str, text: str) -> Iterator[str]:
    """A sentence for each, in the order of the file; what is missing from all of it comes first."""
    lines = lines_of(text)
    found = [(line_of(place, lines) or 0, sentence) for place, sentence in complaints.found]
    for line, sentence in sorted(found):
        yield f"{path}, line {line}: {sentence}" if line else f"{path}: {sentence}"
