"""Progress bars."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from tqdm import tqdm

_DELAY = 3.0  # seconds before a bar is shown

Item = TypeVar("Item")
Bar = Any  # a bar of tqdm, which is untyped


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items; show a progress bar in a terminal if they take more than a few seconds."""
    yield from tqdm(items, what, total, leave=False, disable=None, delay=_DELAY)


def progress_bar(what: str, total: int) -> AbstractContextManager[Bar]:
    """Return a progress bar that a terminal shows at once, for work with a slow first step."""
    progress: AbstractContextManager[Bar] = tqdm(None, what, total, leave=False, disable=None)
    return progress
