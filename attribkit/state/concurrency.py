"""[core/claims] One explanation at a time of modules, parameters and buffers, whichever models they are part of.

Two explanations that share a module cannot overlap: the hooks of one would see the forward of the other, and the flags
that one puts back would be those that the other has set. A lock for the whole process would rule that out, but also two
threads with a model and a GPU each. A lock for each module, taken in a global order, deadlocks where an explanation is
asked for inside of another (by a target or a plugin), since what the inner one needs is not known when the outer one
starts. So a claim takes all that a model consists of at once, or waits.

Who claims first goes first. A thread that holds one model and waits for another lends the first to whoever it waits
for: it is suspended until that thread is done, so the loan ends before it goes on, as if it had made the inner
explanation itself. Therefore nothing deadlocks: among threads that all wait, take a group in which each waits for the
others, directly or not, and for no one else; each of them may go on.
[core/interrupts] Signals that arrive while something must not be left half done.
[core/eager] Compiled parts of a model run eagerly while it is explained, since hooks never fire in compiled code.
"""

import itertools
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import torch
from torch import nn

_CLAIMS: "list[Claim]" = []  # in the order in which they were made; an operation on a list is atomic
_WAITING: "list[Claim]" = []
_CHANGED = threading.Condition()  # only those use it who wait, or have others wait for them
_GLANCE = 1.0  # seconds after which a thread that waits looks again: for a signal that came just before it waited


class Claim:
    """All that a model consists of, for one thread; taken again by the same thread without waiting."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.thread = threading.get_ident()
        self.parts: set[int] = set()

    def acquire(self) -> bool:
        """Wait until no other thread explains a part of the model, and keep them from it; whether it had to wait."""
        self.parts = _parts(self.model)
        _CLAIMS.append(self)
        waits = bool(self.holders())
        if waits:
            self._wait()
        return waits

    def release(self) -> None:
        """Let others have it; nothing happens where it was not taken, or is given back already."""
        if self in _CLAIMS:
            _CLAIMS.remove(self)
        if _WAITING:
            with _CHANGED:
                _CHANGED.notify_all()

    def holders(self) -> set[int]:
        """The other threads that claimed a part of the model before."""
        earlier = itertools.takewhile(lambda claim: claim is not self, list(_CLAIMS))
        return {c.thread for c in earlier if c.thread != self.thread and not c.parts.isdisjoint(self.parts)}

    def _wait(self) -> None:
        with _CHANGED:
            _WAITING.append(self)
            try:
                _CHANGED.notify_all()  # one who waits for this thread may go on from now on
                while not self.holders() <= _waiting_for(self.thread):
                    _CHANGED.wait(_GLANCE)
            finally:
                _WAITING.remove(self)


def _waiting_for(thread: int) -> set[int]:
    """The threads that go on only when this one is done, directly or not."""
    found: set[int] = set()
    while more := {claim.thread for claim in _WAITING if claim.holders() & {thread, *found}} - found:
        found |= more
    return found


def _parts(model: nn.Module) -> set[int]:
    """The identities of the modules, parameters and buffers."""
    found: set[int] = set()
    remaining: list[nn.Module | None] = [model]
    while remaining:
        module = remaining.pop()
        if module is None or id(module) in found:
            continue
        found.add(id(module))
        found.update(map(id, module._parameters.values()), map(id, module._buffers.values()))
        remaining.extend(module._modules.values())
    found.discard(id(None))
    return found


Handler = Callable[[int, FrameType | None], Any]

_NAMES = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGUSR1", "SIGUSR2", "SIGINT")
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


class DeferredSignals:
    """Keeps the handlers of signals waiting between `begin` and `end`, so that none raises in between.

    Python runs these handlers in the main thread alone; in other threads both methods do nothing. Handlers that a user
    installed are put back, and then called for what has arrived. Both methods may be called again, which completes what
    an exception cut short.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Handler] = {}
        self._arrived: list[tuple[Handler, int, FrameType | None]] = []

    def begin(self) -> None:
        """From now on signals wait."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler) and number not in self._handlers:  # what is not callable raises nothing
                self._handlers[number] = handler
                signal.signal(number, self._keep)

    def end(self) -> None:
        """Put the handlers back, and call those whose signals have arrived; what they raise comes out."""
        while self._handlers:  # the interrupt of the keyboard last, so that it cannot cost the others
            number = next(iter(self._handlers))
            signal.signal(number, self._handlers[number])
            del self._handlers[number]
        while self._arrived:
            handler, number, frame = self._arrived.pop(0)
            handler(number, frame)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self._arrived.append((self._handlers[number], number, frame))


_LOCK = threading.RLock()
_ASKING: set[object] = set()  # who asks for it; the compiler's stance is one for the whole process
_STANCE: list[AbstractContextManager[None]] = []


def force_eager(asking: object) -> None:
    """Run no compiled code until all who ask for that have let go; without the compiler, nothing is compiled."""
    if "torch._dynamo" in sys.modules:
        _exclusively(lambda: _ask(asking))


def restore_compiler(asking: object) -> None:
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
