"""Gates: what a forward multiplies maps by, once squashed, as attention modules in convolutional networks do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from attribkit.coordinates.coordinates import without_expanded_axes
from attribkit.core.layouts import Layout
from attribkit.core.spec import ModelSpec
from attribkit.state.hooks import track_running_modules

GateKind = Literal["channel", "spatial", "both"]

_SQUASHING = {"sigmoid", "sigmoid_", "hardsigmoid", "expit", "tanh", "tanh_", "softmax"}
_CLIPPING = {"relu6", "hardtanh", "hardtanh_", "clamp", "clamp_", "clip", "clip_"}  # divided next, a hard sigmoid
_SCALING = {"mul", "mul_", "multiply", "__rmul__", "div", "div_", "divide", "true_divide"}
_PRODUCTS = {"mul", "mul_", "multiply", "multiply_", "__rmul__"}
_POINTWISE = {  # a value of the result comes from the value at the same place, and from numbers or parameters
    "add", "add_", "__radd__", "sub", "sub_", "rsub", "__rsub__", "neg", "pow", "pow_", "square", "__pow__", "exp",
    "log", "log1p", "sqrt", "abs", "erf", "relu", "relu_", "softplus", "clone", "contiguous", "to", "float", "half",
    "double", "bfloat16", "detach", "dropout", *_SCALING,
}  # fmt: skip
_MOVING = {  # values are only put elsewhere
    "view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "expand", "expand_as", "broadcast_to", "repeat",
    "permute", "transpose", "movedim", "interpolate", "__getitem__", "chunk", "split", "unbind", "view_as",
    "reshape_as", "type_as", "repeat_interleave", "tile", "select", "narrow",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Gate:
    """What a map was multiplied by."""

    name: str  # dotted, of the innermost module that was running
    kind: GateKind
    values: Float[Tensor, "b ..."]  # channel: (b, c); spatial: (b, *grid); both: (b, c, *grid)


@contextmanager
def record_gates(model: nn.Module, images: tuple[int, ...], spec: ModelSpec) -> Iterator[list[Gate]]:
    """Collect the gates of a forward, in the order in which they are applied.

    images: the shape of the batch. A gate is a tensor that a sigmoid, hard sigmoid, tanh, or softmax over paths, made,
    or such a one moved, scaled or shifted by numbers, that a map of the image is multiplied by. A map times a function
    of its own values is an activation (SiLU, Hardswish, GELU), not a gate; nor is what comes from parameters alone.
    """
    with track_running_modules(model) as names, _Watcher(images, spec, names) as watcher:
        yield watcher.gates


@dataclass(frozen=True)
class _Past:
    """How a tensor came about."""

    origin: object  # the same for tensors whose values are functions of the same values
    squashed: bool = False
    clipped: bool = False
    shared: bool = False  # by a softmax; a gate only where it shares among paths
    constant: bool = False  # a parameter, or made of one


class _Watcher(TorchFunctionMode):
    """Follows squashed tensors through a forward to the products that they enter."""

    def __init__(self, images: tuple[int, ...], spec: ModelSpec, names: Sequence[str]) -> None:
        self.gates: list[Gate] = []
        self._images = images
        self._spec = spec
        self._running = names  # of modules, innermost last
        self._pasts = WeakTensorKeyDictionary()

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        inputs = [each for each in (*args, *given.values()) if isinstance(each, Tensor) and each.ndim]
        past = self._past_of_result(getattr(function, "__name__", ""), inputs)
        outputs = function(*args, **given)
        for output in outputs if isinstance(outputs, tuple | list) else [outputs]:
            if isinstance(output, Tensor):
                self._pasts[output] = past
        return outputs

    def _past_of_result(self, name: str, inputs: list[Tensor]) -> _Past:
        """What is known of a function's result; a gate that it applies is recorded."""
        known = name in _SQUASHING or name in _CLIPPING or name in _POINTWISE or name in _MOVING
        pasts = [self._past(each) for each in (inputs[:1] if name in _MOVING else inputs)]  # others tell a shape
        varying = [each for each in pasts if not each.constant]
        if not known or not pasts:
            return _Past(object())
        if not varying:
            return _Past(object(), constant=True)
        if len({past.origin for past in varying}) > 1:
            return self._product(inputs) if name in _PRODUCTS and len(varying) == len(inputs) else _Past(object())
        past = varying[0] if len(varying) == 1 else _Past(varying[0].origin)
        if name in _SQUASHING:
            return _Past(object(), squashed=True, shared=True) if name == "softmax" else replace(past, squashed=True)
        if name in _CLIPPING:
            return replace(past, clipped=True)
        return replace(past, squashed=True) if past.clipped and name in _SCALING else past

    def _past(self, tensor: Tensor) -> _Past:
        if tensor not in self._pasts:
            self._pasts[tensor] = _Past(object(), constant=isinstance(tensor, nn.Parameter))
        return self._pasts[tensor]

    def _product(self, factors: list[Tensor]) -> _Past:
        """Two tensors of different origins multiplied: a map by a gate, or a gate by a gate."""
        shape = torch.broadcast_shapes(*(each.shape for each in factors))
        squashed = [self._past(each).squashed for each in factors]
        sizes = [without_expanded_axes((each,))[0].numel() for each in factors]
        for gate, other in ((0, 1), (1, 0)):
            is_map = factors[other].shape == shape and not (squashed[other] and sizes[gate] >= sizes[other])
            if squashed[gate] and is_map:
                self._record(factors[gate], tuple(shape))
                return _Past(object())
        return _Past(object(), squashed=all(squashed))

    def _record(self, gate: Tensor, shape: tuple[int, ...]) -> None:
        """Keep a gate on a map of this shape, if it is a map of the images and more than a number for each."""
        if self._past(gate).shared and len(shape) != len(self._images) + 1:
            return
        gate = without_expanded_axes((gate,))[0][(None,) * (len(shape) - gate.ndim)]
        if len(shape) == len(self._images) + 1:  # the paths of selective kernels and split attention, put in a row
            gate = gate.expand(-1, *shape[1:3], *gate.shape[3:]).flatten(1, 2)
            shape = (shape[0], shape[1] * shape[2], *shape[3:])
        layout = self._spec.layout(shape, self._images)
        if layout is None or layout.kind == "tokens" or len(gate) != shape[0]:
            return
        wide = [side > 1 for side in gate.shape[1:]]
        if layout.ambiguous and len(set(wide[:-1])) == 1 and wide[-1] != wide[0]:
            layout = Layout("channels last", shape[1:-1])  # as the gate itself has it
        values = layout.to_grid(gate).detach().clone()
        over_channels, over_space = values.shape[1] > 1, any(side > 1 for side in values.shape[2:])
        if over_space:
            values = values.expand(-1, -1, *layout.grid)
        if over_space and over_channels:
            self.gates.append(Gate(self._running[-1], "both", values))
        elif over_space:
            self.gates.append(Gate(self._running[-1], "spatial", values[:, 0]))
        elif over_channels:
            self.gates.append(Gate(self._running[-1], "channel", values.flatten(1)))
