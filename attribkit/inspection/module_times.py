"""In which module an operation of the autograd graph was recorded."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node


class ModuleTimes:
    """When each module ran, on the clock by which autograd numbers its operations."""

    def __init__(self) -> None:
        self._running: list[int] = []
        self._runs: list[tuple[int, int, str]] = []  # start, end, dotted name; the inner before the outer

    def module_of(self, node: Node) -> str:
        """The dotted name of the innermost module that was running; "" is the model itself."""
        time = node._sequence_nr()  # type: ignore[attr-defined]
        return next((name for start, end, name in self._runs if start <= time < end), "")

    def enter(self, _module: nn.Module, _args: Any) -> None:
        """A module starts."""
        self._running.append(_now())

    def leave(self, name: str) -> Callable[..., None]:
        """What to call when the module of this name ends."""
        return lambda _module, _args, _output: self._runs.append((self._running.pop(), _now(), name))


@contextmanager
def module_times(model: nn.Module) -> Iterator[ModuleTimes]:
    """Watch the modules of a forward."""
    times = ModuleTimes()
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(times.enter))
            hooks.enter_context(module.register_forward_hook(times.leave(name)))
        yield times


def _now() -> int:
    with torch.enable_grad():
        node = torch.empty(0, requires_grad=True, dtype=torch.float32, device="cpu").view(0).grad_fn
    return int(node._sequence_nr())  # type: ignore[union-attr]
