"""Model specifications, and detection of the kind of class scores: logits, probabilities or log-probabilities."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.graph import Node

from attribkit._core.autograd import operation_name
from attribkit._core.axes import ImageAxes
from attribkit._core.errors import InvalidInput
from attribkit._core.layouts import Layout, find_layout
from attribkit._display.representations import repr_of_changes

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


def output_kind_by_values(scores: Tensor) -> tuple[OutputKind, bool]:
    """Return the kind that the values of class scores allow, and whether the probabilities sum to one over classes.

    Args:
        scores: Class scores or maps of them, (b, classes, *cells).

    Returns:
        "probabilities" or "log_probabilities" if the values are in their range, up to rounding, else "logits"; and
        whether the probabilities of more than one class sum to one.
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


def output_kind_by_graph(scores: Tensor, by_values: OutputKind, sums_to_one: bool) -> OutputKind:
    """Decide by the autograd graph whether scores in the range of probabilities are logits.

    The scores are of the kind `by_values` if they sum to one over the classes and the last operations are not linear,
    or if every path back through the graph reaches a sigmoid, softmax or similar function before a layer with weights.

    Args:
        scores: Class scores or maps of them.
        by_values: The kind that the values allow, from `output_kind_by_values`.
        sums_to_one: Whether the probabilities sum to one over the classes.
    """
    if scores.grad_fn is None:
        return by_values if sums_to_one else "logits"
    if sums_to_one:
        return "logits" if _is_affine(scores.grad_fn) else by_values
    return by_values if all(_ends_in_squashing(scores.grad_fn)) else "logits"


def _is_affine(start: Node) -> bool:
    """Return whether only averages, sums and other affine operations follow the last layers with weights."""
    stack, visited = [start], set()
    while stack:
        node = stack.pop()
        if node in visited or operation_name(node) in _WEIGHTED or operation_name(node) == "AccumulateGrad":
            continue
        visited.add(node)
        inputs = _inputs(node)
        if operation_name(node) not in _AFFINE and not (operation_name(node) in ("Mul", "Div") and len(inputs) == 1):
            return False
        stack += inputs
    return True


def _ends_in_squashing(start: Node) -> Iterable[bool]:
    """Yield for each path back from the scores whether it reaches an operation whose range is 0 to 1."""
    stack, visited = [(start, frozenset[str]())], set()
    while stack:
        node, passed = stack.pop()
        if (node, passed) in visited:
            continue
        visited.add((node, passed))
        name = operation_name(node)
        if name in _SQUASHING or _squashes_with(name, passed):
            yield True
        elif name not in _COMBINING or _enlarges(node):
            yield False
        else:
            stack += [(below, passed | ({name} - _VIEWS)) for below in _inputs(node)]


def _squashes_with(name: str, passed: frozenset[str]) -> bool:
    """Return whether an operation and those after it form a sigmoid, as in 1 / (1 + exp(-x)) or (1 + tanh(x)) / 2."""
    if name == "Exp":
        return bool(passed & {"Div", "Reciprocal"})
    return name in ("Tanh", "Erf") and bool(passed & {"Add", "Rsub", "Sub"}) and bool(passed & {"Mul", "Div"})


def _enlarges(node: Node) -> bool:
    """Return whether a node multiplies by a constant > 1."""
    if operation_name(node) != "Mul" or len(_inputs(node)) != 1:
        return False
    constants = [getattr(node, name, None) for name in ("_saved_self", "_saved_other")]
    return any(isinstance(constant, Tensor) and bool((constant.abs() > 1).any()) for constant in constants)


def _inputs(node: Node) -> list[Node]:
    return [below for below, _ in node.next_functions if below is not None]


@dataclass(frozen=True)
class ModelSpec:
    """Properties of an architecture that a forward pass does not show; all of them are optional.

    A plugin describes its model family with it; a user passes it as ``Explainer(model, spec=ModelSpec(...))``.

    Args:
        layer: Dotted name of the default layer of methods; None chooses it in the first forward pass.
        reason: Why that layer is the default.
        prefix_tokens: Number of tokens before the patch tokens; None if unknown.
        patch: Pixels per token along each axis, if they differ.
        channels_last: Whether the feature maps are (b, h, w, c).
        is_embedding_model: Whether the model returns an embedding or a map instead of class scores.
        outputs: Kind of the class scores: "logits", "probabilities" or "log_probabilities"; None detects it from a
            forward pass.
        input_size: Size of the training images, (c, *space).
        mean: Mean of the training images per channel, for values 0 to 1, which preprocessing subtracts.
        std: Standard deviation per channel, by which preprocessing divides.
        labels: Names of the classes in order, or a function that returns them.
        image: Parameter of the forward that receives the images; None means the first.
        axes: Order of the axes of the images in the forward, such as "btchw"; None detects it from a forward pass.

    Raises:
        InvalidInput: `axes` or `outputs` is invalid.
    """

    layer: str | None = None
    reason: str = "named by the model's spec"
    prefix_tokens: int | None = None
    patch: tuple[int, ...] | None = None
    channels_last: bool = False
    is_embedding_model: bool = False
    outputs: OutputKind | None = None
    input_size: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: Sequence[str] | Callable[[], Sequence[str]] | None = None
    image: str | None = None
    axes: str | None = None

    def __post_init__(self) -> None:
        if self.axes is not None:
            ImageAxes(self.axes)
        if self.outputs not in (None, *get_args(OutputKind)):
            kinds = ", ".join(map(repr, get_args(OutputKind)))
            raise InvalidInput(f"outputs must be one of {kinds}, or None, got {self.outputs!r}.")

    __repr__ = repr_of_changes

    def layout(self, shape: tuple[int, ...], images: tuple[int, ...]) -> Layout | None:
        """Infer the layout of a layer's output.

        Args:
            shape: Shape of the output, batch first.
            images: Shape of the images, batch first.

        Returns:
            The layout; None if the output is not a map of the images.
        """
        if shape[:1] != images[:1]:
            return None
        return find_layout(
            tuple(shape),
            tuple(images[2:]),
            prefix_tokens=self.prefix_tokens,
            channels_last=self.channels_last,
            patch=self.patch,
        )

    def to_model_axes(self, images: Tensor) -> Tensor:
        """Return images (b, c, *space) in the order of axes of the model."""
        return images if self.axes is None else ImageAxes(self.axes).from_channels_first(images).contiguous()

    def arguments(self, images: Tensor, inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and keyword arguments of the model's forward.

        Args:
            images: Images, (b, c, *space).
            inputs: The other inputs by name.
        """
        images = self.to_model_axes(images)
        return ((images,), inputs) if self.image is None else ((), {self.image: images, **inputs})

    def normalisation(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return mean and standard deviation of the training images; None unless both have this number of channels."""
        if self.mean is None or self.std is None or not len(self.mean) == len(self.std) == channels:
            return None
        return self.mean, self.std
