"""All that touches a model, as context managers that leave it as it was."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any, NamedTuple

from torch import Tensor, nn

from attribkit.core.nested import Path, entry, with_entry
from attribkit.state.freeze import Freeze


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, parameters without gradients, gradients on; everything is put back after.

    Put back, also when an exception or an interrupt passes: training flags, ``requires_grad``, ``.grad``, hooks,
    buffers, the identity of submodules, parameters and buffers, and what this thread drew from the global random number
    generators of Python, NumPy and PyTorch (`Draws` has the rule). Another thread that asks for a model with a module,
    parameter or buffer of this one waits; the same thread may ask again.
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
    """A tensor that a module puts out."""

    module: nn.Module
    run: int | None = None  # which of the module's runs in a forward, from 0; None is the last that has the entry
    path: Path = ()  # keys of the entry in what the module returns; () is the output itself


class CapturedTensor:
    """What was kept of a wanted tensor in one forward."""

    def __init__(self, wanted: TensorRequest) -> None:
        self.wanted = wanted
        self.tensor: Tensor | None = None  # None until the module has put it out
        self.runs = 0  # how often the module ran

    def keep(self, _module: nn.Module, _args: object, output: Any) -> Any:
        """A forward hook: the tensor becomes a leaf, or stays in the graph of one; the model goes on with a clone."""
        run, self.runs = self.runs, self.runs + 1
        tensor = entry(output, self.wanted.path) if self.wanted.run in (None, run) else None
        if tensor is None:
            return None
        self.tensor = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        return with_entry(output, self.wanted.path, self.tensor.clone())


@contextmanager
def capture(wanted: Sequence[TensorRequest]) -> Iterator[list[CapturedTensor]]:
    """Keep tensors that modules put out, in the order in which they are wanted.

    The first tensor that is kept becomes a leaf: the graph starts there, and nothing below it is recorded. Tensors that
    already depend on a leaf stay in its graph. The model goes on with a clone, so an in-place operation further on
    cannot change what was kept.
    """
    kept = [CapturedTensor(each) for each in wanted]
    with ExitStack() as hooks:
        for each in kept:
            hooks.enter_context(each.wanted.module.register_forward_hook(each.keep))
        yield kept


@contextmanager
def return_layer(model: nn.Module, wanted: TensorRequest, read: Callable[[Tensor | None], Any]) -> Iterator[None]:
    """Let a model return what is made of a tensor that one of its layers put out, in place of its own outputs.

    read: that tensor, or None where the layer did not put it out, to what is returned. The tensor stays in the graph;
    the model goes on with a clone, so an in-place operation further on cannot change it.
    """
    kept: list[Tensor | None] = [None]
    runs = count()

    def keep(_module: nn.Module, _args: object, output: Any) -> Any:
        run = next(runs)
        tensor = entry(output, wanted.path) if wanted.run in (None, run) else None
        if tensor is None:
            return None
        kept[0] = tensor
        return with_entry(output, wanted.path, tensor.clone())

    def exchange(_module: nn.Module, _args: object, _output: Any) -> Any:
        nonlocal runs
        tensor, kept[0], runs = kept[0], None, count()
        return read(tensor)

    with wanted.module.register_forward_hook(keep), model.register_forward_hook(exchange):
        yield


@contextmanager
def observe_modules(model: nn.Module, record: Callable[[str, nn.Module, Any], None]) -> Iterator[None]:
    """Call record(name, module, output) for every submodule in the order in which they finish."""

    def recorder(name: str) -> Callable[..., None]:
        return lambda module, _args, output: record(name, module, output)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if name:
                hooks.enter_context(module.register_forward_hook(recorder(name)))
        yield


@contextmanager
def track_running_modules(model: nn.Module) -> Iterator[list[str]]:
    """The dotted names of the modules that are running, innermost last; "" is the model itself."""
    names: list[str] = []

    def entering(name: str) -> Callable[..., None]:
        return lambda _module, _args: names.append(name)

    def leaving(_module: nn.Module, _args: Any, _output: Any) -> None:
        names.pop()

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(entering(name)))
            hooks.enter_context(module.register_forward_hook(leaving))
        yield names
