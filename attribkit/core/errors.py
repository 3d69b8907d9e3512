"""[core/errors] What can go wrong, in the user's words.

AttribkitError
├── UnknownName       also a LookupError: a method, layer, label, option or model that is not there
├── InvalidInput      also a ValueError: images, a target or options that do not fit
├── UnsupportedModel  also a TypeError: a model that cannot be explained, or not without being told more
├── UnreadableFile    also an OSError: an image, weights or a result that is missing or broken
└── OutOfMemory       also a MemoryError: one image alone is too large
PluginWarning         a UserWarning: a plugin that was left out
[core/naming] Errors that name what was asked of which model.
[core/printable] Text of unknown origin, made safe for a terminal and for files.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

_NAMED = r"(?<![\w.]){0}\(|'{0}'"  # as in GradCAM(...), ResNet(...) or 'gradcam'
_SHOWN = 12  # names that a message lists before it only counts


class AttribkitError(Exception):
    """Base class of every error that attribkit raises on purpose."""

    def add_place(self, kind: str, name: str, alias: str) -> None:
        """Name the method, metric or model that was at work, at the end of the sentence, unless the sentence does.

        alias: how else the sentence may name it, such as by its class.
        """
        text, places = str(self), getattr(self, "_places", [])
        if (kind, name) in places or any(re.search(_NAMED.format(re.escape(each)), text) for each in (name, alias)):
            return
        own = text.removesuffix(_told(places))
        self._places = [*places, (kind, name)]
        self.args = (own + _told(self._places),)


class UnknownName(AttribkitError, LookupError):
    """Asked for something by a name that nothing has; the message offers the nearest and lists what is known."""

    def __init__(self, kind: str, name: str, known: Iterable[str], advice: str = "") -> None:
        known = list(known)
        near = get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"No {kind} is named {name!r}.{hint} Known: {join_names(known)}.{advice and ' ' + advice}")


class InvalidInput(AttribkitError, ValueError):
    """Images, a target or options that do not fit the model or the method."""


class UnsupportedModel(AttribkitError, TypeError):
    """A model that cannot be explained, or not without being told more."""


class UnreadableFile(AttribkitError, OSError):
    """An image, weights or a saved attribution that is missing or broken."""


class OutOfMemory(AttribkitError, MemoryError):
    """One image alone needs more memory than there is."""


class PluginWarning(UserWarning):
    """A plugin was left out; everything else works."""


def _told(places: Iterable[tuple[str, str]]) -> str:
    told = ", ".join(f"{kind} {name}" for kind, name in places)
    return f" ({told})" if told else ""


def join_names(names: Iterable[str]) -> str:
    """Names in a row, for a message; a long row ends in a count."""
    names = list(names)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "") if names else "none"


OWN_FORWARD = "raised by the model's own forward"  # in the note on what a model raises


@contextmanager
def error_context(kind: str, what: Any) -> Iterator[None]:
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


# Control characters but for newline and tab, lone surrogates, what changes the direction of text, line separators.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def printable(text: str) -> str:
    r"""The text with control characters written as escapes, as in "\x1b": it cannot move a cursor or change colours."""
    return _UNSAFE.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode(), text)


def one_line(text: str) -> str:
    """The same on one line."""
    return " ".join(printable(text).split())
