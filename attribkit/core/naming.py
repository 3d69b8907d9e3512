"""Errors that name what was asked of which model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attribkit.core.errors import AttribkitError


@contextmanager
def naming(kind: str, what: Any) -> Iterator[None]:
    """Let every error that passes name something: in its sentence if it is attribkit's own, else in a note.

    kind: such as "method" or "model". what: its name, or a class or instance that has one.
    """
    name, alias = name_of(what), (what if isinstance(what, type) else type(what)).__name__
    try:
        yield
    except AttribkitError as error:
        error.add_place(kind, name, alias)
        raise
    except Exception as error:
        note = f"(raised with the {kind} {name})"
        if note not in getattr(error, "__notes__", []):
            error.add_note(note)
        raise


def name_of(what: Any) -> str:
    """The name of a method or metric by name, class or instance; of another object that of its class."""
    name = what if isinstance(what, str) else getattr(what, "name", None)
    if isinstance(name, str) and name:
        return name
    return what.__name__ if isinstance(what, type) else type(what).__name__
