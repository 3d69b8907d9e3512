"""Progress of long loops: bars in notebooks and terminals, a line from time to time in logs."""

import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from operator import length_hint
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from tqdm import TqdmWarning, std
from tqdm.asyncio import tqdm_asyncio

with warnings.catch_warnings():  # a notebook without ipywidgets gets lines, as a log does
    warnings.filterwarnings("ignore", "IProgress not found", TqdmWarning)
    from tqdm.auto import tqdm

_DELAY = 2.0  # seconds before a loop shows its progress
_INNER_DELAY = 10.0  # the same for a loop inside a loop that shows its progress
_LINE_INTERVAL = 30.0  # least seconds between two lines of a log, over all loops

Item = TypeVar("Item")
Bar = Any  # a bar of tqdm, which is untyped


class _Scope(NamedTuple):
    """What loops share: whether their progress is shown, the open bars, and whether an outer scope has open bars."""

    shown: bool
    bars: set[Bar]
    inner: bool = False

    @property
    def delay(self) -> float:
        return _INNER_DELAY if self.inner or self.bars else _DELAY


_scope: ContextVar[_Scope] = ContextVar("scope", default=_Scope(True, set()))  # noqa: B039  # shared by all threads


@contextmanager
def progress_shown(shown: bool) -> Iterator[None]:
    """Show or hide the progress of all loops in this context; what an outer context hides remains hidden.

    At the end, it closes the bars of loops that an exception has interrupted, which its traceback keeps alive.
    """
    outer = _scope.get()
    scope = _Scope(outer.shown and shown, set(), outer.inner or bool(outer.bars))
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)
        for bar in scope.bars:
            _close(bar)


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items; show the progress if they take more than two seconds.

    Notebooks and terminals show a bar, which disappears at the end. Other outputs, such as log files, get at most one
    line in 30 seconds. ``Explainer(model, show_progress=False)`` shows nothing.

    Args:
        items: The items.
        what: Name of the items, in the plural.
        total: Number of items; None uses their length, if they have one.
    """
    with Progress(what, length_hint(items) or None if total is None else total) as progress:
        for item in items:
            yield item
            progress.update()


class Progress:
    """Progress of one loop, which is shown once the loop has run for two seconds, or ten inside a loop that is shown.

    The bar of tqdm is created only then, since a widget of a notebook costs milliseconds.

    Args:
        what: Name of the items, in the plural.
        total: Number of items; None if it is not known.
    """

    def __init__(self, what: str, total: int | None) -> None:
        self.what, self.total = what, total
        self._start, self._done = time.monotonic(), 0
        self._bar: Bar = None

    def update(self, items: int = 1) -> None:
        """Count items as finished."""
        self._done += items
        if self._bar is not None:
            self._bar.update(items)
        elif self._done != self.total and (seconds := time.monotonic() - self._start) >= _scope.get().delay:
            self._bar = open_bar(self.what, self.total)
            if not self._bar.disable:
                self._bar.start_t -= seconds
                self._bar.last_print_t -= seconds
            self._bar.update(self._done)
            self._bars = _scope.get().bars
            self._bars.add(self._bar)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bars.discard(self._bar)
            _close(self._bar)


def _close(bar: Bar) -> None:
    bar.total = bar.n  # otherwise a notebook keeps the bar of a loop that ended early
    bar.close()


def open_bar(what: str, total: int | None) -> Bar:
    """Return a bar of tqdm that is shown at once, for work with a slow first step; a context manager."""
    stream: Any = sys.stderr
    if not _scope.get().shown or stream is None or getattr(stream, "closed", False):
        return tqdm(desc=what, total=total, disable=True)
    is_terminal = hasattr(stream, "isatty") and stream.isatty()
    if tqdm is tqdm_asyncio and not is_terminal:  # outside of notebooks
        return _LogLines(desc=what, total=total)
    return tqdm(desc=what, total=total, leave=False)


class _LogLines(std.tqdm):  # type: ignore[misc]
    """Progress as lines, without control characters; at most one line in 30 seconds, over all loops."""

    _last: ClassVar[float | None] = None  # time of the last line

    def __init__(self, **options: Any) -> None:
        super().__init__(ncols=0, gui=True, **options)  # gui: only `display` writes

    def display(self, *_: Any, **__: Any) -> None:
        now = time.monotonic()
        if _LogLines._last is None or now - _LogLines._last >= _LINE_INTERVAL:
            _LogLines._last = now
            with suppress(OSError):  # a pipe that is closed, a full disk
                self.fp.write(f"{self}\n")
                self.fp.flush()
