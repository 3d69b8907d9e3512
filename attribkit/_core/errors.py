"""Exceptions, their context (the current method, metric and model), and escaping of untrusted text.

AttribkitError
├── UnknownName       also a LookupError: an unknown method, layer, label, option or model
├── InvalidInput      also a ValueError: unsuitable images, target or options
├── UnsupportedModel  also a TypeError: a model that cannot be explained, or only with more information
├── UnreadableFile    also an OSError: a missing or corrupt image, weights file or result
└── OutOfMemory       also a MemoryError: a single image exceeds the memory
PluginWarning         a UserWarning: a plugin was not loaded
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

OWN_FORWARD = "raised by the model's own forward"  # in the note on exceptions of the model

_MENTION = r"(?<![\w.]){0}\(|'{0}'"  # as in GradCAM(...), ResNet(...) or 'gradcam'
_LISTED = 12  # names that a message lists before it counts the rest
# Control characters except newline and tab, lone surrogates, direction marks, line separators.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


class AttribkitError(Exception):
    """Base class for all errors that attribkit raises."""

    def add_context(self, kind: str, name: str, alias: str) -> None:
        """Append the current method, metric or model to the message, unless the message mentions it.

        Args:
            kind: Kind of the context, such as "method" or "model".
            name: Its name.
            alias: Another name that counts as a mention, such as that of its class.
        """
        text, context = str(self), getattr(self, "_context", [])
        if (kind, name) in context or any(re.search(_MENTION.format(re.escape(each)), text) for each in (name, alias)):
            return
        message = text.removesuffix(_format_context(context))
        self._context = [*context, (kind, name)]
        self.args = (message + _format_context(self._context),)


class UnknownName(AttribkitError, LookupError):
    """An unknown name; the message suggests the closest known one and lists the known names.

    Args:
        kind: What the name should refer to, such as "method" or "layer".
        name: The unknown name.
        names: The accepted names.
        advice: A sentence that is appended to the message.
    """

    def __init__(self, kind: str, name: str, names: Iterable[str], advice: str = "") -> None:
        known = list(names)
        matches = get_close_matches(name, known, n=1)
        hint = f" Did you mean {matches[0]!r}?" if matches else ""
        super().__init__(f"No {kind} is named {name!r}.{hint} Known: {join_names(known)}.{advice and ' ' + advice}")


class InvalidInput(AttribkitError, ValueError):
    """Images, a target or options that are invalid, or unsuitable for the model or the method."""


class UnsupportedModel(AttribkitError, TypeError):
    """A model that cannot be explained, or only with more information such as a ModelSpec."""


class UnreadableFile(AttribkitError, OSError):
    """An image, weights file or saved attribution that is missing, corrupt or cannot be written."""


class OutOfMemory(AttribkitError, MemoryError):
    """A single image needs more memory than is available."""


class PluginWarning(UserWarning):
    """A warning that a plugin was not loaded; everything else works."""


def _format_context(context: Iterable[tuple[str, str]]) -> str:
    text = ", ".join(f"{kind} {name}" for kind, name in context)
    return f" ({text})" if text else ""


def join_names(names: Iterable[str]) -> str:
    """Join names for a message; a long list ends in a count."""
    names = list(names)
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "") if names else "none"


@contextmanager
def error_context(kind: str, what: Any) -> Iterator[None]:
    """Add context to errors that are raised inside: to the message of attribkit's errors, to others as a note.

    Exceptions raised by the model's forward, which are marked with a note, remain unchanged.

    Args:
        kind: Kind of the context, such as "method" or "model".
        what: Its name, or a class or instance with a name.
    """
    name, alias = name_of(what), (what if isinstance(what, type) else type(what)).__name__
    try:
        yield
    except AttribkitError as error:
        error.add_context(kind, name, alias)
        raise
    except Exception as error:
        note = f"(raised with the {kind} {name})"
        notes = getattr(error, "__notes__", [])
        if note not in notes and not any(OWN_FORWARD in each for each in notes):
            error.add_note(note)
        raise


def name_of(what: Any) -> str:
    """Return the name of a method or metric (a name, class or instance), or the class name of another object."""
    name = what if isinstance(what, str) else getattr(what, "name", None)
    if isinstance(name, str) and name:
        return name
    return what.__name__ if isinstance(what, type) else type(what).__name__


def printable(text: str) -> str:
    r"""Escape control characters, as in "\x1b", so that the text cannot move a terminal's cursor or change colours."""
    return _UNSAFE.sub(lambda match: match.group().encode("unicode_escape", "surrogatepass").decode(), text)


def one_line(text: str) -> str:
    """Escape control characters and join all lines into one."""
    return " ".join(printable(text).split())
