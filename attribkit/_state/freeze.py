"""Preparation of a model for explanations, and restoration of its state."""

from contextlib import ExitStack

import torch
from torch import nn

from attribkit._state.concurrency import Claim, DeferredSignals, force_eager, restore_compiler
from attribkit._state.randomness import RandomDraws
from attribkit._state.snapshot import Snapshot


class Freeze:
    """All changes to a model, and to global state, while the model is explained.

    Signals are deferred while the model is prepared and restored, so that these steps are not interrupted. `restore`
    and `release` may be called again, which completes a call that an exception in their own code has interrupted.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._claim = Claim(model)
        self._signals = DeferredSignals()
        self._draws: RandomDraws | None = None
        self._snapshot: Snapshot | None = None
        self._modes = ExitStack()  # record gradients

    def begin(self) -> None:
        """Wait until no other thread explains a part of the model, save its state, and freeze it."""
        self._draws = RandomDraws()
        if self._claim.acquire():
            self._draws = RandomDraws()
        self._signals.begin()
        self._snapshot = Snapshot(self._model)
        force_eager(self)
        self._modes.enter_context(torch.inference_mode(False))
        self._modes.enter_context(torch.enable_grad())
        self._snapshot.freeze()
        self._signals.end()

    def restore(self) -> None:
        """Restore the saved state; signals are deferred from here until `release`."""
        self._signals.begin()
        self._modes.close()
        restore_compiler(self)
        if self._snapshot:
            self._snapshot.restore()
            self._snapshot = None
        if self._draws:
            self._draws.undo()
            self._draws = None

    def release(self) -> None:
        """Release the model for other threads, then run deferred signal handlers; their exceptions propagate."""
        self._claim.release()
        self._signals.end()
