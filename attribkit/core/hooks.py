"""All that touches a model, as context managers that leave it as it was."""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import count
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

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


@contextmanager
def captured(wanted: Sequence[tuple[nn.Module, int | None]]) -> Iterator[list[list[Tensor]]]:
    """Keep what modules output: a list per module, with one tensor for each time that it ran.

    wanted: modules, each with the one of its runs (from 0) that is wanted, or None for all.

    The first output that is kept becomes a leaf: the graph starts there, and nothing below it is recorded. Outputs that
    already depend on a leaf stay in its graph. The model goes on with a clone, so an in-place operation further on
    cannot change what was kept.
    """
    kept: list[list[Tensor]] = [[] for _ in wanted]
    with ExitStack() as hooks:
        for (module, run), outputs in zip(wanted, kept, strict=True):
            hooks.enter_context(module.register_forward_hook(_keeper(outputs, run)))
        yield kept


@contextmanager
def layer_returned(model: nn.Module, layer: nn.Module, read: Callable[[Sequence[Tensor]], Any]) -> Iterator[None]:
    """Let a model return what one of its layers put out, in place of its own answer.

    read: the layer's output in each of its runs, to what is returned. The outputs stay in the graph; the model goes on
    with a clone, so an in-place operation further on cannot change them.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Any) -> Any:
        tensor = first_tensor(output)
        if tensor is None or not tensor.is_floating_point():
            return None
        kept.append(tensor)
        return with_first(output, tensor.clone())

    def answer(_module: nn.Module, _args: object, _output: Any) -> Any:
        outputs, kept[:] = list(kept), []
        return read(outputs)

    with layer.register_forward_hook(keep), model.register_forward_hook(answer):
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


def first_tensor(output: Any) -> Tensor | None:
    """The tensor that a module is said to output: its output, or the first entry of a tuple or list."""
    while isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def _keeper(outputs: list[Tensor], wanted: int | None) -> Callable[..., Any]:
    runs = count()

    def keep(_module: nn.Module, _args: object, output: Any) -> Any:
        tensor = first_tensor(output)
        if (next(runs) != wanted and wanted is not None) or tensor is None or not tensor.is_floating_point():
            return None
        outputs.append(tensor if tensor.requires_grad else tensor.detach().requires_grad_())
        return with_first(output, outputs[-1].clone())

    return keep


def with_first(output: Any, tensor: Tensor) -> Any:
    """The module's output with its first tensor exchanged."""
    if isinstance(output, Tensor):
        return tensor
    entries = [with_first(output[0], tensor), *output[1:]]
    return type(output)(*entries) if hasattr(output, "_fields") else type(output)(entries)


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
