"""A bar for what takes long."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

_PATIENCE = 3.0  # seconds before a bar is shown

Item = TypeVar("Item")


def tracked(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """The items as they are, with a bar in a terminal where they take more than a few seconds."""
    yield from tqdm(items, what, total, leave=False, disable=None, delay=_PATIENCE)
