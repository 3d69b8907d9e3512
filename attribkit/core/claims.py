"""One explanation at a time of modules, parameters and buffers, whichever models they are part of.

Two explanations that share a module cannot overlap: the hooks of one would see the forward of the other, and the flags
that one puts back would be those that the other has set. A lock for the whole process would rule that out, but also two
threads with a model and a GPU each. A lock for each module, taken in a global order, deadlocks where an explanation is
asked for inside of another (by a target or a plugin), since what the inner one needs is not known when the outer one
starts. So a claim takes all that a model consists of at once, or waits.

Who claims first goes first. A thread that holds one model and waits for another lends the first to whoever it waits
for: it is suspended until that thread is done, so the loan ends before it goes on, as if it had made the inner
explanation itself. Therefore nothing deadlocks: among threads that all wait, take a group in which each waits for the
others, directly or not, and for no one else; each of them may go on.
"""

import itertools
import threading

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

    def take(self) -> bool:
        """Wait until no other thread explains a part of the model, and keep them from it; whether it had to wait."""
        self.parts = _parts(self.model)
        _CLAIMS.append(self)
        waits = bool(self.holders())
        if waits:
            self._wait()
        return waits

    def give_back(self) -> None:
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
