"""[core/targets/output_kinds] Whether class scores are logits, probabilities or log-probabilities: by their values, and by their graph.
[core/spec] What an architecture says of itself.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.graph import Node

from attribkit.core.autograd import operation_name
from attribkit.core.axes import ImageAxes
from attribkit.core.errors import InvalidInput
from attribkit.core.layouts import Layout, find_layout

OutputKind = Literal["logits", "probabilities", "log_probabilities"]

_VIEWS = {
    "Alias", "AsStrided", "Clone", "Expand", "Gather", "Index", "IndexSelect", "Permute", "ReshapeAlias", "Select",
    "Slice", "Split", "Squeeze", "T", "ToCopy", "Transpose", "Unbind", "UnsafeSplit", "UnsafeView", "Unsqueeze", "View",
}  # fmt: skip
_AFFINE = _VIEWS | {
    "AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "Add", "AvgPool2D", "AvgPool3D", "Cat", "CudnnBatchNorm", "Mean",
    "NativeBatchNorm", "Neg", "Rsub", "Stack", "Sub", "Sum", "UpsampleBilinear2D", "UpsampleNearest2D",
}  # fmt: skip
_COMBINING = _AFFINE | {
    "Amax", "Amin", "Clamp", "ClampMax", "ClampMin", "Div", "Exp", "Log", "Max", "Maximum", "Min", "Minimum", "Mul",
    "NanToNum", "Prod", "Reciprocal", "Sort", "Topk", "UpsampleTrilinear3D", "Where",
}  # fmt: skip
_WEIGHTED = {"Addmm", "Bmm", "Addbmm", "Baddbmm", "Addmv", "Convolution", "Linear", "Mm", "Mv"}
_SQUASHING = {"Hardsigmoid", "LogSigmoid", "LogSoftmax", "Sigmoid", "Softmax"}
_LOGARITHMS = {"Log", "LogSigmoid", "LogSoftmax"}


def kind_by_values(scores: Tensor) -> tuple[OutputKind, bool]:
    """What scores (b, classes, *cells) may be by their values alone, and whether the classes' probabilities sum to one.

    It is "logits" where they cannot be anything else. Rounding of their precision is allowed for.
    """
    tolerance = torch.finfo(scores.dtype).eps ** 0.5
    if not scores.numel():
        return "logits", False
    low, high = torch.stack(scores.detach().aminmax()).tolist()
    if low >= -tolerance and high <= 1 + tolerance:
        sums = scores.detach().float().sum(1)
        return "probabilities", scores.shape[1] > 1 and bool(((sums - 1).abs() <= max(tolerance, 1e-4)).all())
    if high <= tolerance:
        sums = scores.detach().float().logsumexp(1)
        return "log_probabilities", scores.shape[1] > 1 and bool((sums.abs() <= max(tolerance, 1e-4)).all())
    return "logits", False


def kind_by_graph(scores: Tensor, by_values: OutputKind, sums_to_one: bool) -> OutputKind:
    """What scores that may be probabilities are by the operations that computed them.

    They are where the classes sum to one and the last operations are not linear ones, or where every way back from them
    comes to a sigmoid, a softmax or the like before it comes to a layer with weights.
    """
    if scores.grad_fn is None:
        return by_values if sums_to_one else "logits"
    if sums_to_one:
        return "logits" if _is_affine(scores.grad_fn) else by_values
    return by_values if all(_ends(scores.grad_fn)) else "logits"


def _is_affine(start: Node) -> bool:
    """Whether the scores are put out by layers with weights, and at most averaged or added up behind them."""
    ahead, seen = [start], set()
    while ahead:
        node = ahead.pop()
        if node in seen or operation_name(node) in _WEIGHTED or operation_name(node) == "AccumulateGrad":
            continue
        seen.add(node)
        below = _below(node)
        if operation_name(node) not in _AFFINE and not (operation_name(node) in ("Mul", "Div") and len(below) == 1):
            return False
        ahead += below
    return True


def _ends(start: Node) -> Iterable[bool]:
    """For each way back from the scores, whether it comes to an operation that maps numbers to 0 to 1."""
    ahead, seen = [(start, frozenset[str]())], set()
    while ahead:
        node, passed = ahead.pop()
        if (node, passed) in seen:
            continue
        seen.add((node, passed))
        name = operation_name(node)
        if name in _SQUASHING or _squashes_with(name, passed):
            yield True
        elif name not in _COMBINING or _enlarges(node):
            yield False
        else:
            ahead += [(each, passed | ({name} - _VIEWS)) for each in _below(node)]


def _squashes_with(name: str, passed: frozenset[str]) -> bool:
    """Whether an operation is a sigmoid together with those behind it, as in 1 / (1 + exp(-x)) or (1 + tanh(x)) / 2."""
    if name == "Exp":
        return bool(passed & {"Div", "Reciprocal"})
    return name in ("Tanh", "Erf") and bool(passed & {"Add", "Rsub", "Sub"}) and bool(passed & {"Mul", "Div"})


def _enlarges(node: Node) -> bool:
    """Whether a node multiplies by a constant above one."""
    if operation_name(node) != "Mul" or len(_below(node)) != 1:
        return False
    constants = [getattr(node, name, None) for name in ("_saved_self", "_saved_other")]
    return any(isinstance(each, Tensor) and bool((each.abs() > 1).any()) for each in constants)


def _below(node: Node) -> list[Node]:
    return [below for below, _ in node.next_functions if below is not None]


@dataclass(frozen=True)
class ModelSpec:
    """Facts of an architecture that a forward does not show; every one may be left out.

    A plugin describes its family with this; a user passes it as ``Explainer(model, spec=ModelSpec(...))``.
    """

    layer: str | None = None  # dotted name of the layer that methods read; None is chosen from the first forward
    reason: str = "named by the model's spec"  # why that layer
    prefix_tokens: int | None = None  # tokens before those of the patches; None where it is not known
    patch: tuple[int, ...] | None = None  # pixels per token along each axis, where they differ
    channels_last: bool = False  # whether its maps are (b, h, w, c)
    is_embedding_model: bool = False  # whether it has no classes: what it returns is an embedding or a map
    outputs: OutputKind | None = None  # what its class scores are; None is seen from a forward
    input_size: tuple[int, ...] | None = None  # (c, *space) that it was made for
    mean: tuple[float, ...] | None = None  # of the training images, per channel, values 0 to 1; what was subtracted
    std: tuple[float, ...] | None = None  # what was divided by
    labels: Sequence[str] | Callable[[], Sequence[str]] | None = None  # the classes' names in order, or what makes them
    image: str | None = None  # the parameter of the forward that takes the images; None is the first
    axes: str | None = None  # of the images, as the forward takes them, such as "btchw"; None is told by a forward

    def __post_init__(self) -> None:
        if self.axes is not None:
            ImageAxes(self.axes)
        if self.outputs not in (None, *get_args(OutputKind)):
            known = ", ".join(map(repr, get_args(OutputKind)))
            raise InvalidInput(f"outputs={self.outputs!r} is no kind of outputs: give one of {known}, or None.")

    def layout(self, shape: tuple[int, ...], images: tuple[int, ...]) -> Layout | None:
        """How an output of this shape is a map of images of that shape, both batch first; None if it is not one."""
        if shape[:1] != images[:1]:
            return None
        return find_layout(
            tuple(shape),
            tuple(images[2:]),
            prefix_tokens=self.prefix_tokens,
            channels_last=self.channels_last,
            patch=self.patch,
        )

    def in_own_axes(self, images: Tensor) -> Tensor:
        """Images (b, c, *space) in the order of axes that is declared."""
        return images if self.axes is None else ImageAxes(self.axes).restored(images).contiguous()

    def arguments(self, images: Tensor, inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the model's forward is called with: positional and keyword arguments; images: (b, c, *space)."""
        images = self.in_own_axes(images)
        return ((images,), inputs) if self.image is None else ((), {self.image: images, **inputs})

    def normalisation(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation of the training images, where both are known for so many channels."""
        if self.mean is None or self.std is None or not len(self.mean) == len(self.std) == channels:
            return None
        return self.mean, self.std
