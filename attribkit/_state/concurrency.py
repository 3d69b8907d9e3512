"""Concurrency: exclusive claims on models, deferred signals, and suspension of compiled code.

Claims: Two explanations that share a module must not overlap. Otherwise the hooks of one would observe the forward pass
of the other, and one would restore flags that the other has set. A lock for the whole process would also serialise
threads that use different models on different GPUs. One lock per module, acquired in a global order, deadlocks if an
explanation starts inside another (in a target or a plugin), since the modules of the inner one are not known in
advance. A claim therefore acquires all modules, parameters and buffers of a model at once, or waits.

Claims are served in order of arrival. A thread that holds one model and waits for another lends the first model to the
threads it waits for. It is suspended until they finish, so the loan ends before it continues, as if it had run the
inner explanation itself. Deadlocks cannot occur: among waiting threads, take a group in which each waits, directly or
indirectly, for the others and for no thread outside; each of them may continue.
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

_CLAIMS: "list[Claim]" = []  # in order of arrival; operations on a list are atomic
_WAITING: "list[Claim]" = []
_CHANGED = threading.Condition()  # used only if a thread waits
_POLL_INTERVAL = 1.0  # seconds; a waiting thread polls, since a signal can arrive just before it waits

_SIGNAL_NAMES = (
    "SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGUSR1", "SIGUSR2", "SIGINT",
)  # fmt: skip
_SIGNALS = [getattr(signal, name) for name in _SIGNAL_NAMES if hasattr(signal, name)]

_STANCE_LOCK = threading.RLock()
_EAGER_USERS: set[object] = set()  # users of eager execution; the stance of the compiler is global to the process
_STANCE: list[AbstractContextManager[None]] = []

Handler = Callable[[int, FrameType | None], Any]


class Claim:
    """An exclusive claim of a thread on all parts of a model; the same thread can claim them again without waiting."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.thread = threading.get_ident()
        self.parts: set[int] = set()

    def acquire(self) -> bool:
        """Wait until no other thread holds a part of the model, and claim it; return whether the thread had to wait."""
        self.parts = _parts(self.model)
        _CLAIMS.append(self)
        waits = bool(self.holders())
        if waits:
            self._wait()
        return waits

    def release(self) -> None:
        """Release the claim; idempotent."""
        if self in _CLAIMS:
            _CLAIMS.remove(self)
        if _WAITING:
            with _CHANGED:
                _CHANGED.notify_all()

    def holders(self) -> set[int]:
        """Return the other threads with an earlier claim on a part of the model."""
        earlier = itertools.takewhile(lambda claim: claim is not self, list(_CLAIMS))
        return {
            claim.thread for claim in earlier if claim.thread != self.thread and not claim.parts.isdisjoint(self.parts)
        }

    def _wait(self) -> None:
        with _CHANGED:
            _WAITING.append(self)
            try:
                _CHANGED.notify_all()  # threads that wait for this one may continue now
                while not self.holders() <= _waiting_for(self.thread):
                    _CHANGED.wait(_POLL_INTERVAL)
            finally:
                _WAITING.remove(self)


def _waiting_for(thread: int) -> set[int]:
    """Return the threads that wait for this one, directly or indirectly."""
    waiting: set[int] = set()
    while more := {claim.thread for claim in _WAITING if claim.holders() & {thread, *waiting}} - waiting:
        waiting |= more
    return waiting


def _parts(model: nn.Module) -> set[int]:
    """Return the ids of all modules, parameters and buffers."""
    parts: set[int] = set()
    remaining: list[nn.Module | None] = [model]
    while remaining:
        module = remaining.pop()
        if module is None or id(module) in parts:
            continue
        parts.add(id(module))
        parts.update(map(id, module._parameters.values()), map(id, module._buffers.values()))
        remaining.extend(module._modules.values())
    parts.discard(id(None))
    return parts


class DeferredSignals:
    """Deferral of signal handlers between `begin` and `end`, so that none of them raises in between.

    Python runs signal handlers only in the main thread; in other threads both methods do nothing. `end` restores the
    handlers and then calls them for the signals that have arrived. Both methods may be called again, which completes a
    call that an exception has interrupted.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Handler] = {}
        self._arrived: list[tuple[Handler, int, FrameType | None]] = []

    def begin(self) -> None:
        """Start to defer signals."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler) and number not in self._handlers:  # others do not raise
                self._handlers[number] = handler
                signal.signal(number, self._defer)

    def end(self) -> None:
        """Restore the handlers and call those whose signals have arrived; their exceptions propagate."""
        while self._handlers:  # SIGINT last, so that its exception does not skip the others
            number = next(iter(self._handlers))
            signal.signal(number, self._handlers[number])
            del self._handlers[number]
        while self._arrived:
            handler, number, frame = self._arrived.pop(0)
            handler(number, frame)

    def _defer(self, number: int, frame: FrameType | None) -> None:
        self._arrived.append((self._handlers[number], number, frame))


def force_eager(user: object) -> None:
    """Run compiled code eagerly until every user has called `restore_compiler`; hooks do not run in compiled code."""
    if "torch._dynamo" in sys.modules:  # else nothing is compiled
        _exclusively(lambda: _add_eager_user(user))


def restore_compiler(user: object) -> None:
    """End eager execution for a user, and restore the stance of the compiler after the last one; idempotent."""
    if _STANCE or _EAGER_USERS:
        _exclusively(lambda: _remove_eager_user(user))


def _add_eager_user(user: object) -> None:
    _EAGER_USERS.add(user)
    if not _STANCE:
        _STANCE.append(torch.compiler.set_stance("force_eager"))


def _remove_eager_user(user: object) -> None:
    _EAGER_USERS.discard(user)
    if _STANCE and not _EAGER_USERS:
        _STANCE[0].__exit__(None, None, None)
        _STANCE.clear()


def _exclusively(section: Callable[[], None]) -> None:
    """Run a section under the lock, which is released even if an asynchronous exception occurs at any line."""
    try:
        try:
            _STANCE_LOCK.acquire()
            section()
        finally:
            _release_lock()
    finally:
        _release_lock()


def _release_lock() -> None:
    try:
        _STANCE_LOCK.release()
    except RuntimeError:  # not held by this thread
        return
