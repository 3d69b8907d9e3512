"""Errors that name what was asked of which model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attribkit.core.errors import AttribkitError

OWN_FORWARD = "raised by the model's own forward"  # in the note on what a model raises


@contextmanager
def naming(kind: str, what: Any) -> Iterator[None]:
    """Let every error that passes name something: in its sentence if it is attribkit's own, else in a note.

    What the model's own forward raises is left alone; it has a note that tells so.
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
        notes = getattr(error, "__notes__", [])
        if note not in notes and not any(OWN_FORWARD in each for each in notes):
            error.add_note(note)
        raise


def name_of(what: Any) -> str:
    """The name of a method or metric by name, class or instance; of another object that of its class."""
    name = what if isinstance(what, str) else getattr(what, "name", None)
    if isinstance(name, str) and name:
        return name
    return what.__name__ if isinstance(what, type) else type(what).__name__
