"""A bar for what takes long."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from tqdm import tqdm

_PATIENCE = 3.0  # seconds before a bar is shown

Item = TypeVar("Item")
Bar = Any  # a bar of tqdm, which has no types


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """The items as they are, with a bar in a terminal where they take more than a few seconds."""
    yield from tqdm(items, what, total, leave=False, disable=None, delay=_PATIENCE)


def bar(what: str, total: int) -> AbstractContextManager[Bar]:
    """A bar in a terminal, shown at once: for what may wait long before its first step."""
    shown: AbstractContextManager[Bar] = tqdm(None, what, total, leave=False, disable=None)
    return shown
