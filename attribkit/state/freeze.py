"""A model made ready to be explained, and put back."""

from contextlib import ExitStack

import torch
from torch import nn

from attribkit.state.concurrency import Claim, Deferral, let_compile, run_eagerly
from attribkit.state.randomness import Draws
from attribkit.state.snapshot import Snapshot


class Freeze:
    """All that is changed while a model is explained.

    Signals wait while it is made ready and while it is put back, so that no interrupt comes in between. `put_back` and
    `let_go` may be called again, which completes what an exception in their own code cut short.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._claim = Claim(model)
        self._deferral = Deferral()
        self._draws: Draws | None = None
        self._snapshot: Snapshot | None = None
        self._modes = ExitStack()  # in which gradients are recorded

    def begin(self) -> None:
        """Wait until no other thread explains a part of the model, keep its state, and change it."""
        self._draws = Draws()
        if self._claim.take():
            self._draws = Draws()
        self._deferral.begin()
        self._snapshot = Snapshot(self._model)
        run_eagerly(self)
        self._modes.enter_context(torch.inference_mode(False))
        self._modes.enter_context(torch.enable_grad())
        self._snapshot.freeze()
        self._deferral.end()

    def put_back(self) -> None:
        """Make everything as it was; from here on signals wait until `let_go`."""
        self._deferral.begin()
        self._modes.close()
        let_compile(self)
        if self._snapshot:
            self._snapshot.put_back()
            self._snapshot = None
        if self._draws:
            self._draws.undo()
            self._draws = None

    def let_go(self) -> None:
        """Let other threads have the model; then raise what the handlers of the signals raise that have arrived."""
        self._claim.give_back()
        self._deferral.end()
