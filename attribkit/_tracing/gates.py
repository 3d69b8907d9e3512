"""Record gates: the squashed tensors that a forward multiplies maps by, as attention modules in CNNs do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from attribkit._coordinates.coordinates import without_expanded_axes
from attribkit._core.layouts import Layout
from attribkit._core.spec import ModelSpec
from attribkit._display.representations import short_repr
from attribkit._state.hooks import track_running_modules

GateKind = Literal["channel", "spatial", "both"]

_SQUASHING = {"sigmoid", "sigmoid_", "hardsigmoid", "expit", "tanh", "tanh_", "softmax"}
_CLIPPING = {"relu6", "hardtanh", "hardtanh_", "clamp", "clamp_", "clip", "clip_"}  # a hard sigmoid if then divided
_SCALING = {"mul", "mul_", "multiply", "__rmul__", "div", "div_", "divide", "true_divide"}
_PRODUCTS = {"mul", "mul_", "multiply", "multiply_", "__rmul__"}
_POINTWISE = {  # elementwise in one tensor; other operands are numbers or parameters
    "add", "add_", "__radd__", "sub", "sub_", "rsub", "__rsub__", "neg", "pow", "pow_", "square", "__pow__", "exp",
    "log", "log1p", "sqrt", "abs", "erf", "relu", "relu_", "softplus", "clone", "contiguous", "to", "float", "half",
    "double", "bfloat16", "detach", "dropout", *_SCALING,
}  # fmt: skip
_REARRANGING = {  # rearrange or copy elements
    "view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "expand", "expand_as", "broadcast_to", "repeat",
    "permute", "transpose", "movedim", "interpolate", "__getitem__", "chunk", "split", "unbind", "view_as",
    "reshape_as", "type_as", "repeat_interleave", "tile", "select", "narrow",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Gate:
    """A tensor that a model multiplies a map by.

    Args:
        name: Dotted name of the innermost module that ran.
        kind: Whether the gate varies over channels, over space, or both.
        values: Values per image: "channel" (b, c), "spatial" (b, *grid), "both" (b, c, *grid).
    """

    name: str
    kind: GateKind
    values: Float[Tensor, "b ..."]

    __repr__ = short_repr


@contextmanager
def record_gates(model: nn.Module, images: tuple[int, ...], spec: ModelSpec) -> Iterator[list[Gate]]:
    """Collect the gates of a forward, in the order in which they are applied.

    A gate multiplies a map of the image. It is the result of a sigmoid, hard sigmoid, tanh, or softmax over paths,
    possibly rearranged, scaled or shifted by numbers. A map times a function of its own values is an activation (SiLU,
    Hardswish, GELU) and not a gate; neither is a tensor computed from parameters alone.

    Args:
        model: The model that runs.
        images: Shape of the batch of images.
        spec: Describes the layouts of the model's tensors.
    """
    with track_running_modules(model) as names, _GateRecorder(images, spec, names) as recorder:
        yield recorder.gates


@dataclass(frozen=True)
class _Provenance:
    """The provenance of a tensor.

    Args:
        origin: Equal for tensors that are functions of the same values.
        squashed: Whether a sigmoid, tanh or softmax bounded it.
        clipped: Whether it was clipped.
        softmax: Whether a softmax computed it; then it is a gate only if the softmax is over paths.
        constant: Whether it is a parameter or computed from parameters alone.
    """

    origin: object
    squashed: bool = False
    clipped: bool = False
    softmax: bool = False
    constant: bool = False


class _GateRecorder(TorchFunctionMode):
    """Recorder that follows squashed tensors through a forward to the products with maps."""

    def __init__(self, images: tuple[int, ...], spec: ModelSpec, names: Sequence[str]) -> None:
        self.gates: list[Gate] = []
        self._images = images
        self._spec = spec
        self._running = names  # names of running modules, innermost last
        self._provenances = WeakTensorKeyDictionary()

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        inputs = [each for each in (*args, *keywords.values()) if isinstance(each, Tensor) and each.ndim]
        provenance = self._result_provenance(getattr(function, "__name__", ""), inputs)
        outputs = function(*args, **keywords)
        for output in outputs if isinstance(outputs, tuple | list) else [outputs]:
            if isinstance(output, Tensor):
                self._provenances[output] = provenance
        return outputs

    def _result_provenance(self, name: str, inputs: list[Tensor]) -> _Provenance:
        """Return the provenance of a function's result; record the gate if it applies one."""
        has_rule = name in _SQUASHING or name in _CLIPPING or name in _POINTWISE or name in _REARRANGING
        provenances = [
            self._provenance_of(each) for each in (inputs[:1] if name in _REARRANGING else inputs)
        ]  # further tensors only give a shape
        varying = [each for each in provenances if not each.constant]
        if not has_rule or not provenances:
            return _Provenance(object())
        if not varying:
            return _Provenance(object(), constant=True)
        if len({provenance.origin for provenance in varying}) > 1:
            return self._product(inputs) if name in _PRODUCTS and len(varying) == len(inputs) else _Provenance(object())
        provenance = varying[0] if len(varying) == 1 else _Provenance(varying[0].origin)
        if name in _SQUASHING:
            return (
                _Provenance(object(), squashed=True, softmax=True)
                if name == "softmax"
                else replace(provenance, squashed=True)
            )
        if name in _CLIPPING:
            return replace(provenance, clipped=True)
        return replace(provenance, squashed=True) if provenance.clipped and name in _SCALING else provenance

    def _provenance_of(self, tensor: Tensor) -> _Provenance:
        if tensor not in self._provenances:
            self._provenances[tensor] = _Provenance(object(), constant=isinstance(tensor, nn.Parameter))
        return self._provenances[tensor]

    def _product(self, factors: list[Tensor]) -> _Provenance:
        """Multiply two tensors of different origins: a map by a gate, or a gate by a gate."""
        shape = torch.broadcast_shapes(*(each.shape for each in factors))
        squashed = [self._provenance_of(each).squashed for each in factors]
        sizes = [without_expanded_axes((each,))[0].numel() for each in factors]
        for gate, other in ((0, 1), (1, 0)):
            is_map = factors[other].shape == shape and not (squashed[other] and sizes[gate] >= sizes[other])
            if squashed[gate] and is_map:
                self._record_gate(factors[gate], tuple(shape))
                return _Provenance(object())
        return _Provenance(object(), squashed=all(squashed))

    def _record_gate(self, gate: Tensor, shape: tuple[int, ...]) -> None:
        """Record a gate on a map of this shape, if the map is spatial and the gate has several values per image."""
        if self._provenance_of(gate).softmax and len(shape) != len(self._images) + 1:
            return
        gate = without_expanded_axes((gate,))[0][(None,) * (len(shape) - gate.ndim)]
        if len(shape) == len(self._images) + 1:  # concatenate the paths of selective kernels and split attention
            gate = gate.expand(-1, *shape[1:3], *gate.shape[3:]).flatten(1, 2)
            shape = (shape[0], shape[1] * shape[2], *shape[3:])
        layout = self._spec.layout(shape, self._images)
        if layout is None or layout.kind == "tokens" or len(gate) != shape[0]:
            return
        has_extent = [side > 1 for side in gate.shape[1:]]
        if layout.ambiguous and len(set(has_extent[:-1])) == 1 and has_extent[-1] != has_extent[0]:
            layout = Layout("channels last", shape[1:-1])  # same layout as the gate
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
