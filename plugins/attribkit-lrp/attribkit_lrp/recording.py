"""Recording of the operations of a forward pass, with the values that they received."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode

from attribkit import UnsupportedModel


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation of a forward pass.

    Args:
        name: Name of the ATen operation, without the underscore of its in-place form.
        function: The operation.
        arguments: Its positional arguments; tensors without a graph.
        keywords: Its keyword arguments.
        positions: Positions of the arguments that required a gradient.
        versions: Each argument that is a tensor, as the model holds it, and its version, by position.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    positions: tuple[int, ...]
    versions: dict[int, tuple[Tensor, int]]

    def argument(self, position: int) -> Any:
        """Return an argument as the operation received it, or None if it was called with fewer.

        Raises:
            UnsupportedModel: A later operation overwrote it.
        """
        if position >= len(self.arguments):
            return None
        value = self.arguments[position]
        original, version = self.versions.get(position, (None, 0))
        if original is not None and original._version != version:
            raise UnsupportedModel(
                f"An input of the operation {self.name!r}, of shape {tuple(value.shape)}, was overwritten by a later "
                "in-place operation of the model, so its relevance cannot be computed. Use the form of the later "
                "operation that is not in place, such as nn.ReLU(inplace=False)."
            )
        return value

    def inputs(self, dtype: torch.dtype) -> list[Tensor]:
        """Return the arguments that required a gradient, in another dtype."""
        return [self.argument(position).to(dtype) for position in self.positions]

    def replay(self, inputs: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Run the operation again, in another dtype and with other values of the inputs; return its first output."""
        arguments = [_cast(self.argument(position), dtype) for position in range(len(self.arguments))]
        for position, value in zip(self.positions, inputs, strict=True):
            arguments[position] = value.clone()  # the operation may be in place
        output = self.function(*arguments, **self.keywords)
        first: Tensor = output if isinstance(output, Tensor) else output[0]
        return first


class Recorder(TorchDispatchMode):
    """Record the operations of a forward pass that require a gradient, by their nodes in the autograd graph.

    Args:
        names: Names of the ATen operations to record.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.operations: dict[Node, Operation] = {}
        self._names = frozenset(names)
        self._last: tuple[Tensor, Operation] | None = None  # its node exists from the next operation on

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._assign_node()
        keywords = kwargs or {}
        operation = self._operation(function, args, keywords)
        output = function(*args, **keywords)
        if operation is not None:
            self._last = (output if isinstance(output, Tensor) else output[0]), operation
        return output

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._assign_node()
        super().__exit__(kind, error, trace)

    def _operation(self, function: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Operation | None:
        called = function.overloadpacket.__name__
        name = called.removesuffix("_")
        positions = tuple(i for i, each in enumerate(args) if isinstance(each, Tensor) and each.requires_grad)
        if name not in self._names or not positions:
            return None
        arguments = [each.detach() if isinstance(each, Tensor) else each for each in args]
        versions = {i: (each, each._version) for i, each in enumerate(args) if isinstance(each, Tensor)}
        if called != name:
            arguments[0] = arguments[0].clone()  # the in-place operation overwrites it
            del versions[0]
        return Operation(name, function, tuple(arguments), keywords, positions, versions)

    def _assign_node(self) -> None:
        if self._last is not None:
            output, operation = self._last
            self._last = None
            if output.grad_fn is not None:
                self.operations[output.grad_fn] = operation


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
