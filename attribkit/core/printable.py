"""Text of unknown origin, made safe for a terminal and for files."""

import re

# Control characters but for newline and tab, lone surrogates, what changes the direction of text, line separators.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def printable(text: str) -> str:
    r"""The text with control characters written as escapes, as in "\x1b": it cannot move a cursor or change colours."""
    return _UNSAFE.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode(), text)


def one_line(text: str) -> str:
    """The same on one line."""
    return " ".join(printable(text).split())
