"""A model made ready to be explained, and put back."""

from contextlib import ExitStack

import torch
from torch import nn

from attribkit.state.concurrency import Claim, DeferredSignals, force_eager, restore_compiler
from attribkit.state.randomness import RandomDraws
from attribkit.state.snapshot import Snapshot


class Freeze:
    """All that is changed while a model is explained.

    Signals wait while it is made ready and while it is put back, so that no interrupt comes in between. `put_back` and
    `let_go` may be called again, which completes what an exception in their own code cut short.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._claim = Claim(model)
        self._deferral = DeferredSignals()
        self._draws: RandomDraws | None = None
        self._snapshot: Snapshot | None = None
        self._modes = ExitStack()  # in which gradients are recorded

    def begin(self) -> None:
        """Wait until no other thread explains a part of the model, keep its state, and change it."""
        self._draws = RandomDraws()
        if self._claim.acquire():
            self._draws = RandomDraws()
        self._deferral.begin()
        self._snapshot = Snapshot(self._model)
        force_eager(self)
        self._modes.enter_context(torch.inference_mode(False))
        self._modes.enter_context(torch.enable_grad())
        self._snapshot.freeze()
        self._deferral.end()

    def restore(self) -> None:
        """Make everything as it was; from here on signals wait until `let_go`."""
        self._deferral.begin()
        self._modes.close()
        restore_compiler(self)
        if self._snapshot:
            self._snapshot.restore()
            self._snapshot = None
        if self._draws:
            self._draws.undo()
            self._draws = None

    def release(self) -> None:
        """Let other threads have the model; then raise what the handlers of the signals raise that have arrived."""
        self._claim.release()
        self._deferral.end()
