"""Compiled parts of a model run eagerly while it is explained, since hooks never fire in compiled code."""

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

_LOCK = threading.RLock()
_ASKING: set[object] = set()  # who asks for it; the compiler's stance is one for the whole process
_STANCE: list[AbstractContextManager[None]] = []


def run_eagerly(asking: object) -> None:
    """Run no compiled code until all who ask for that have let go; without the compiler, nothing is compiled."""
    if "torch._dynamo" in sys.modules:
        _exclusively(lambda: _ask(asking))


def let_compile(asking: object) -> None:
    """Put the stance back once nobody asks for another; nothing happens to one who did not ask, or let go before."""
    if _STANCE or _ASKING:
        _exclusively(lambda: _forget(asking))


def _ask(asking: object) -> None:
    _ASKING.add(asking)
    if not _STANCE:
        _STANCE.append(torch.compiler.set_stance("force_eager"))


def _forget(asking: object) -> None:
    _ASKING.discard(asking)
    if _STANCE and not _ASKING:
        _STANCE[0].__exit__(None, None, None)
        _STANCE.clear()


def _exclusively(section: Callable[[], None]) -> None:
    """One thread at a time; an exception at whatever line leaves the lock open."""
    try:
        try:
            _LOCK.acquire()
            section()
        finally:
            _open()
    finally:
        _open()


def _open() -> None:
    try:
        _LOCK.release()
    except RuntimeError:  # it is open already, or another thread's
        return
