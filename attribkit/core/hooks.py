"""All that touches a model, as context managers that leave it as it was."""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import count
from threading import RLock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from attribkit.core.entries import Path, entry, with_entry
from attribkit.core.snapshot import Snapshot

_LOCKS: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()  # type: ignore[valid-type]  # RLock is a function


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, parameters without gradients, gradients on; one thread at a time; everything is put back after.

    Put back, also when an exception passes: training flags, ``requires_grad``, ``.grad``, hooks, buffers, the identity
    of submodules, parameters and buffers, and the state of the random number generators of Python, NumPy and PyTorch.
    """
    with _LOCKS.setdefault(model, RLock()), random_kept(model), _eager():
        snapshot = Snapshot(model)
        try:
            snapshot.freeze()
            with torch.inference_mode(False), torch.enable_grad():
                yield
        finally:
            snapshot.put_back()


class Wanted(NamedTuple):
    """A tensor that a module puts out."""

    module: nn.Module
    run: int | None = None  # which of the module's runs in a forward, from 0; None is the last that has the entry
    path: Path = ()  # keys of the entry in what the module returns; () is the output itself


class Captured:
    """What was kept of a wanted tensor in one forward."""

    def __init__(self, wanted: Wanted) -> None:
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
def captured(wanted: Sequence[Wanted]) -> Iterator[list[Captured]]:
    """Keep tensors that modules put out, in the order in which they are wanted.

    The first tensor that is kept becomes a leaf: the graph starts there, and nothing below it is recorded. Tensors that
    already depend on a leaf stay in its graph. The model goes on with a clone, so an in-place operation further on
    cannot change what was kept.
    """
    kept = [Captured(each) for each in wanted]
    with ExitStack() as hooks:
        for each in kept:
            hooks.enter_context(each.wanted.module.register_forward_hook(each.keep))
        yield kept


@contextmanager
def layer_returned(model: nn.Module, wanted: Wanted, read: Callable[[Tensor | None], Any]) -> Iterator[None]:
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
def observed(model: nn.Module, record: Callable[[str, nn.Module, Any], None]) -> Iterator[None]:
    """Call record(name, module, output) for every submodule in the order in which they finish."""

    def recorder(name: str) -> Callable[..., None]:
        return lambda module, _args, output: record(name, module, output)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if name:
                hooks.enter_context(module.register_forward_hook(recorder(name)))
        yield


@contextmanager
def running(model: nn.Module) -> Iterator[list[str]]:
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


@contextmanager
def random_kept(model: nn.Module) -> Iterator[None]:
    """Put back the random states of Python, NumPy and PyTorch, of the CPU and of the GPUs that the model is on."""
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # the global state is what is kept
    try:
        with torch.random.fork_rng(sorted(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _eager() -> AbstractContextManager[Any]:
    """Hooks never fire in compiled code; where nothing has imported the compiler, nothing is compiled."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
