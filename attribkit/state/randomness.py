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
_SERVICES = {"tqdm._monitor", "ipykernel.iostream", "ipykernel.heartbeat", "IPython.core.history"}  # they draw nothing


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Put back the random states of Python, NumPy and PyTorch, of the CPU and of GPUs.

    For code that sets a seed. What other threads draw meanwhile comes from that seed, and is drawn again.
    """
    states = _states()
    try:
        yield
    finally:
        for generator, state in states.items():
            generator.restore(state)


class RandomDraws:
    """What one thread draws from the global generators, to be undone unless others may have drawn too.

    The generators belong to the whole process, and nothing tells which thread has drawn. A state is put back only if it
    changed, and only if no other Python thread has run in between: then this thread alone has drawn. So numbers that
    another thread draws are never given out again. Where others have run and a state has changed, it stays as it is:
    if the model draws (functional dropout), the next numbers are then those after its own. A thread that only waits,
    such as one blocked in a read or a join, has not run; those of progress bars and notebooks do not count.

    Whether a thread has run is told by its processor time on Linux, and elsewhere by where its code stands, which
    misses a thread that is back at the same place of the same call.
    """

    def __init__(self) -> None:
        self._others = other_threads()  # before the states: who draws in between is then seen to have run
        self._states = _states()

    def undo(self) -> None:
        """Put back what only this thread has changed; a second call changes nothing more."""
        changed = {generator: state for generator, state in self._states.items() if generator.differs(state)}
        if changed and self._others == other_threads():
            for generator, state in changed.items():
                generator.restore(state)


class _Generator:
    """One global generator: how to read its state, and how to write it."""

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], object]) -> None:
        self.read, self.restore = read, write

    def differs(self, state: Any) -> bool:
        now = self.read()
        return not torch.equal(now, state) if isinstance(state, torch.Tensor) else now != state


def _read_numpy() -> bytes:
    return pickle.dumps(np.random.get_state(legacy=False))  # noqa: NPY002  # the global state is what is kept


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
    """Equal to an earlier answer if no other Python thread has run since.

    For each other Python thread: its innermost call, where in it the thread is, and how long it has run, in ns.
    """
    frames = sys._current_frames()
    frames.pop(threading.get_ident())
    frames = {thread: frame for thread, frame in frames.items() if _begins_in(frame) not in _SERVICES}
    if not frames:
        return []
    native = {thread.ident: thread.native_id for thread in threading.enumerate()} if _IS_LINUX else {}
    return [(frame, frame.f_lasti, _run_time(native.get(thread))) for thread, frame in frames.items()]


def _begins_in(frame: FrameType | None) -> str:
    """The module of the function that a thread was started with."""
    name = ""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        name = name if module == "threading" else module
        frame = frame.f_back
    return name


def _run_time(native: int | None) -> int:
    """The processor time of a thread by the number that Linux gives it, in ns; 0 where that is not known."""
    if native is None:
        return 0
    try:
        return time.clock_gettime_ns((~native << 3) | 6)  # what pthread_getcpuclockid gives, for ended threads too
    except OSError:  # it has ended
        return -1
