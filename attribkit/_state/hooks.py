"""Context managers that freeze a model, or install hooks on it, and restore it afterwards."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attribkit._core.nested import Path, tensor_at, with_tensor_at
from attribkit._state.concurrency import Claim, DeferredSignals, force_eager, restore_compiler
from attribkit._state.randomness import RandomDraws
from attribkit._state.snapshot import Snapshot


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Freeze a model in evaluation mode, with gradients enabled except for its parameters, and restore it afterwards.

    The following is restored, even after an exception or an interrupt: training flags, ``requires_grad``, ``.grad``,
    hooks, buffers, the identity of submodules, parameters and buffers, and the global random number generators of
    Python, NumPy and PyTorch as far as this thread has advanced them (see `RandomDraws`). Another thread that freezes a
    model which shares a module, parameter or buffer with this one waits; the same thread may freeze it again.
    """
    freeze = Freeze(model)
    try:
        try:
            try:
                freeze.begin()
                yield
            finally:
                freeze.restore()
        finally:
            freeze.restore()  # completes what an exception in the first call cut short; so does the next line
            freeze.release()
    finally:
        freeze.release()


class TensorRequest(NamedTuple):
    """A tensor in the output of a module."""

    module: nn.Module
    run: int | None = None  # index of the call of the module in a forward pass; None is the last call with this entry
    path: Path = ()  # path of the tensor in the output of the module; () is the output itself


class CapturedTensor:
    """The tensor that was captured for a request in one forward pass."""

    def __init__(self, request: TensorRequest) -> None:
        self.request = request
        self.tensor: Tensor | None = None  # None until the module has returned it
        self.runs = 0  # number of calls of the module

    def keep(self, _module: nn.Module, _args: object, output: Any) -> Any:
        """Make the tensor a leaf unless it depends on one, and pass a clone on to the model (a forward hook)."""
        run, self.runs = self.runs, self.runs + 1
        tensor = tensor_at(output, self.request.path) if self.request.run in (None, run) else None
        if tensor is None:
            return None
        self.tensor = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        return with_tensor_at(output, self.request.path, self.tensor.clone())


@contextmanager
def capture(requests: Sequence[TensorRequest]) -> Iterator[list[CapturedTensor]]:
    """Capture outputs of modules, in the order of the requests.

    The first captured tensor becomes a leaf: the graph starts there, and nothing before it is recorded. Tensors that
    already depend on a leaf stay in its graph. The model continues with a clone, so that later in-place operations
    cannot change the captured tensor.
    """
    captured = [CapturedTensor(request) for request in requests]
    with ExitStack() as hooks:
        for tensor in captured:
            hooks.enter_context(tensor.request.module.register_forward_hook(tensor.keep))
        yield captured


@contextmanager
def return_layer(model: nn.Module, request: TensorRequest, read: Callable[[Tensor | None], Any]) -> Iterator[None]:
    """Make a model return a function of the output of one of its layers instead of its own outputs.

    The tensor stays in the graph; the model continues with a clone, so that later in-place operations cannot change it.

    Args:
        model: The model.
        request: The tensor.
        read: Computes the outputs from that tensor, or from None if the layer has not returned it.
    """
    captured: list[Tensor | None] = [None]
    runs = count()

    def keep(_module: nn.Module, _args: object, output: Any) -> Any:
        run = next(runs)
        tensor = tensor_at(output, request.path) if request.run in (None, run) else None
        if tensor is None:
            return None
        captured[0] = tensor
        return with_tensor_at(output, request.path, tensor.clone())

    def exchange(_module: nn.Module, _args: object, _output: Any) -> Any:
        nonlocal runs
        tensor, captured[0], runs = captured[0], None, count()
        return read(tensor)

    with request.module.register_forward_hook(keep), model.register_forward_hook(exchange):
        yield


@contextmanager
def observe_modules(model: nn.Module, record: Callable[[str, nn.Module, Any], None]) -> Iterator[None]:
    """Call record(name, module, output) after each call of a submodule, in the order in which the calls finish."""

    def recorder(name: str) -> Callable[..., None]:
        return lambda module, _args, output: record(name, module, output)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if name:
                hooks.enter_context(module.register_forward_hook(recorder(name)))
        yield


@contextmanager
def track_running_modules(model: nn.Module) -> Iterator[list[str]]:
    """Yield a list of the dotted names of the running modules, innermost last; "" is the model itself."""
    names: list[str] = []

    def enter(name: str) -> Callable[..., None]:
        return lambda _module, _args: names.append(name)

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        names.pop()

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(enter(name)))
            hooks.enter_context(module.register_forward_hook(leave))
        yield names


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
