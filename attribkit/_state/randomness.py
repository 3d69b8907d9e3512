"""The state of the global random number generators of Python, NumPy and PyTorch."""

import pickle
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch

_IS_LINUX = sys.platform == "linux"
# Threads that do not draw random numbers.
_SERVICES = {
    "tqdm._monitor",
    "ipykernel.iostream",
    "ipykernel.heartbeat",
    "IPython.core.history",
}


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Restore the random states of Python, NumPy and PyTorch (CPU and GPUs) on exit.

    For code that sets a seed. Numbers that other threads draw meanwhile depend on that seed, and are drawn again later.
    """
    states = _states()
    try:
        yield
    finally:
        for generator, state in states.items():
            generator.restore(state)


class RandomDraws:
    """The random numbers that one thread draws from the global generators, to be undone unless others may have drawn.

    The generators belong to the whole process and do not record which thread draws. A state is restored only if it has
    changed and no other Python thread has run in between, so that only this thread can have drawn. Numbers that another
    thread draws are therefore never repeated. If other threads have run and a state has changed, it is kept: if the
    model draws numbers (functional dropout), the stream then continues after them. A thread that only waits, such as
    one blocked in a read or a join, counts as not running; threads of progress bars and notebooks are ignored.

    Limitations: Linux detects a running thread by its CPU time. Other systems compare the current instruction, which
    misses a thread that has returned to the same instruction of the same call.
    """

    def __init__(self) -> None:
        self._others = other_threads()  # before the states, so that draws in between are detected
        self._states = _states()

    def undo(self) -> None:
        """Restore the states that only this thread has changed; idempotent."""
        changed = {generator: state for generator, state in self._states.items() if generator.differs(state)}
        if changed and self._others == other_threads():
            for generator, state in changed.items():
                generator.restore(state)


class _Generator:
    """A global generator with functions that read and write its state."""

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], object]) -> None:
        self.read, self.restore = read, write

    def differs(self, state: Any) -> bool:
        current = self.read()
        return not torch.equal(current, state) if isinstance(state, torch.Tensor) else current != state


def _read_numpy() -> bytes:
    return pickle.dumps(np.random.get_state(legacy=False))  # noqa: NPY002  # the global state is the one to save


def _write_numpy(state: bytes) -> None:
    np.random.set_state(pickle.loads(state))  # noqa: NPY002


_PYTHON = _Generator(random.getstate, random.setstate)
_NUMPY = _Generator(_read_numpy, _write_numpy)
_CPU = _Generator(torch.get_rng_state, torch.set_rng_state)


def _states() -> dict[_Generator, Any]:
    gpus = range(len(torch.cuda.default_generators)) if torch.cuda.is_initialized() else ()
    return {generator: generator.read() for generator in [_PYTHON, _NUMPY, _CPU, *map(_of_gpu, gpus)]}


def _of_gpu(gpu: int) -> _Generator:
    return _Generator(lambda: torch.cuda.get_rng_state(gpu), lambda state: torch.cuda.set_rng_state(state, gpu))


def other_threads() -> object:
    """Return a state of the other Python threads that compares equal as long as none of them runs.

    For each thread: its innermost frame, the instruction in it, and its CPU time in ns.
    """
    frames = sys._current_frames()
    frames.pop(threading.get_ident())
    frames = {thread: frame for thread, frame in frames.items() if _entry_module(frame) not in _SERVICES}
    if not frames:
        return []
    native = {thread.ident: thread.native_id for thread in threading.enumerate()} if _IS_LINUX else {}
    return [(frame, frame.f_lasti, _cpu_time(native.get(thread))) for thread, frame in frames.items()]


def _entry_module(frame: FrameType | None) -> str:
    """Return the module of the function that a thread was started with."""
    name = ""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        name = name if module == "threading" else module
        frame = frame.f_back
    return name


def _cpu_time(native: int | None) -> int:
    """Return the CPU time in ns of a thread by its native Linux id; 0 if the id is unknown, -1 if the thread ended."""
    if native is None:
        return 0
    try:
        return time.clock_gettime_ns((~native << 3) | 6)  # like pthread_getcpuclockid, but safe for ended threads
    except OSError:  # the thread has ended
        return -1
