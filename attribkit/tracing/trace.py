"""[core/places/dependence] Whether the way through a forward depends on the values of its inputs, and which tensors the inputs reach.
[core/trace] One forward, watched: what every module put out, and through which of it the score reaches the image.
"""

import math
from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils.weak import WeakTensorKeyDictionary

from attribkit.coordinates.coordinates import CellCoordinates, without_expanded_axes
from attribkit.coordinates.grids import layout_of
from attribkit.coordinates.tracking import track_coordinates
from attribkit.core.autograd import operation_name, reachable
from attribkit.core.layouts import Layout
from attribkit.core.nested import Path, entries, tensors_in
from attribkit.state.hooks import observe_modules
from attribkit.targets.class_outputs import Returned
from attribkit.targets.target import Target, outputs_for

_READ = {  # functions that give a tensor's values to Python, which may branch on them
    "__array__", "__bool__", "__complex__", "__float__", "__index__", "__int__", "allclose", "cond", "equal",
    "is_nonzero", "item", "numpy", "tolist",
}  # fmt: skip
_INDEXED = {  # functions that move elements by an index or a mask
    "__getitem__", "__setitem__", "gather", "index_add", "index_copy", "index_fill", "index_put", "index_select",
    "masked_scatter", "masked_select", "scatter", "scatter_add", "scatter_reduce", "take", "take_along_dim",
}  # fmt: skip
_BY_VALUE = {  # functions that order or place elements by their values
    "grid_sample", "grid_sampler", "kthvalue", "msort", "nonzero", "sort", "topk", "unique", "unique_consecutive",
}  # fmt: skip


class record_dependence(TorchFunctionMode):  # used as a context manager, like those of torch
    """Watch one forward for what its inputs decide beside the numbers.

    image: the image from which the forward starts, which requires a gradient; others: tensors that go with it. After
    it, `branches` names a function by which Python read values that depend on them, so that another image may take
    another way; `arranges` one that moved elements by such values, so that the same cell of a layer may lie elsewhere
    for another image. Both are None where there is none.
    """

    def __init__(self, image: Tensor, others: Iterable[Tensor] = ()) -> None:
        TorchFunctionMode.__init__(self)
        self.branches: str | None = None
        self.arranges: str | None = None
        self._from_image = WeakTensorKeyDictionary()  # whether a tensor that depends on any source is from the image
        self._from_image[image] = True
        for other in others:
            self._from_image[other] = False

    def reaches(self, tensor: Tensor) -> bool:
        """Whether the tensor depends on the image."""
        return tensor.requires_grad or self._from_image.get(tensor, False)

    def __torch_function__(
        self, function: Callable[..., Any], _types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        reached = [each for each in tensors_in((args, given)) if each.requires_grad or each in self._from_image]
        outputs = function(*args, **given)
        if reached:
            name = getattr(function, "__name__", "")
            plain = name if name.endswith("__") else name.removesuffix("_")
            fixed = plain.startswith("grid_sample") and all(
                each is not (args[1] if len(args) > 1 else given["grid"]) for each in reached
            )
            self._watch("" if fixed else plain, function, args, reached)
            image = any(map(self.reaches, reached))
            for each in (*tensors_in(outputs), *(args[:1] if name == "__setitem__" else ())):
                self._from_image[each] = image or self.reaches(each)
        return outputs

    def _watch(self, name: str, function: Any, args: tuple[Any, ...], reached: Sequence[Tensor]) -> None:
        if name in _READ:
            self.branches = self.branches or resolve_name(function) or name
        nonzero = name == "where" and len(args) == 1
        indexed = name in _INDEXED and any(not each.is_floating_point() for each in reached)
        if nonzero or indexed or name in _BY_VALUE:
            self.arranges = self.arranges or resolve_name(function) or name


_SELECTIVE = {  # operations whose gradient is zero at some elements, by their values
    "Abs", "Amax", "Amin", "Clamp", "ClampMax", "ClampMin", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh",
    "Max", "Maximum", "MaxPool2DWithIndices", "MaxPool3DWithIndices", "Min", "Minimum", "Relu", "Softshrink", "Sort",
    "Threshold", "Topk", "Where",
}  # fmt: skip
_PRODUCTS = {"Addmm", "Convolution", "Linear", "Mm"}
_CLASS_BY_CLASS = {  # operations that leave the classes apart, or pick one
    "AdaptiveAvgPool2D", "Add", "Alias", "Clone", "Div", "Expand", "Gather", "Index", "Max", "Mean", "Mul", "Neg",
    "Permute", "Relu", "ReshapeAlias", "Select", "Squeeze", "Sub", "Sum", "T", "ToCopy", "Transpose", "UnsafeView",
    "Unsqueeze", "View",
}  # fmt: skip
_NORMALISING = {"LogSoftmax", "Sigmoid", "Softmax"}
_JOINING = {"Cat", "Exp", "Slice", "Stack"} | _NORMALISING


@dataclass(frozen=True, eq=False)
class LayerOutputRecord:
    """A tensor that a module put out: one entry of what it returned, one of the times that it ran."""

    name: str  # the module's dotted name
    module: nn.Module
    run: int  # 0 is its first run in the forward
    path: Path  # keys of the entry; () where the module returned the tensor itself
    shape: tuple[int, ...]  # batch first
    edge: GradientEdge | None  # where it stands in the graph; None where no gradient leads from it to the image
    reached: bool  # whether it depends on the image
    layout: Layout | None = None  # where its elements come from, as far as they could be followed and lie on a grid
    lost: bool = True  # whether none of its elements could be followed

    @property
    def place(self) -> tuple[Any, ...]:
        """Equal for modules that put out the same values, as a container and its last layer do."""
        return (self.name, self.run, self.path) if self.edge is None else (self.edge.node, self.edge.output_nr)


_Record = tuple[LayerOutputRecord, CellCoordinates | None]  # with where its elements come from


class Trace:
    """A forward of one image under a frozen model, with its graph.

    x: (1, c, *space). target: whose score counts; where it cannot be asked about one image, the outputs' sum does.
    inputs: tensors that go through the model with the image.
    """

    def __init__(self, model: nn.Module, x: Tensor, target: Target, inputs: Iterable[Tensor] = ()) -> None:
        self._records: list[_Record] = []
        self.image = x.detach().requires_grad_()
        self._runs: Counter[str] = Counter()
        self.dependence = record_dependence(self.image, inputs)
        with track_coordinates(self.image) as self._places, self.dependence, observe_modules(model, self._record):
            returned = model(self.image.clone())
        self.outputs = _outputs(self._records)
        self.score = _score(returned, target)
        self.returned = {tensor.grad_fn for _, tensor in entries(returned)}
        self.widths = {tensor.shape[1] for _, tensor in entries(returned) if tensor.ndim > 1}  # classes, mostly
        self.nodes = reachable(self.score.grad_fn)

    def runs(self, output: LayerOutputRecord) -> int:
        """How often the module of an output ran."""
        return self._runs[output.name]

    def matters(self, output: LayerOutputRecord) -> bool:
        """Whether the score depends on the output at all."""
        return output.edge is not None and output.edge.node in self.nodes

    def carries_all(self, output: LayerOutputRecord) -> bool:
        """Whether every path from the score to the image goes through the output."""
        return self.matters(output) and not self._sees_image(reachable(self.score.grad_fn, (output.edge.node,)))  # type: ignore[union-attr]

    def reach(self, output: LayerOutputRecord, layout: Layout) -> float:
        """The share of the output's grid at which the score's gradient is not exactly zero."""
        if not self.matters(output):
            return 0.0
        (gradient,) = torch.autograd.grad(self.score, [output.edge], retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
        return 0.0 if gradient is None else gradient_reach(layout.to_grid(gradient))

    def avoids_pooling(self, output: LayerOutputRecord) -> bool:
        """Whether a path from the output to the image passes no pooling to a fixed size."""
        pooled = {node for node in self.nodes if operation_name(node).startswith("AdaptiveAvgPool")}
        return self.matters(output) and self._sees_image(reachable(output.edge.node, pooled))  # type: ignore[union-attr]

    def selects(self, outputs: Iterable[LayerOutputRecord]) -> bool:
        """Whether values decide where the score's gradient is zero at these outputs: at a ReLU above them, say."""
        model = set().union(*map(reachable, self.returned)) & self.nodes
        above = [model - reachable(output.edge.node) for output in outputs if output.edge]
        return any(operation_name(node) in _SELECTIVE for nodes in above for node in nodes)

    def predictions(self) -> set[Node]:
        """The nodes between the score and the convolutions that make it, these included: maps of classes."""
        between: list[Node] = []
        found: set[Node] = set()
        ahead = [self.score.grad_fn]
        while ahead:
            node = ahead.pop()
            if node is not None and operation_name(node) == "Convolution":
                found.add(node)
            elif node is not None and node not in between and operation_name(node) in _CLASS_BY_CLASS | _JOINING:
                between.append(node)
                ahead.extend(following for following, _ in node.next_functions)
        for _ in between:
            found.update(node for node in between if any(following in found for following, _ in node.next_functions))
        return found

    def first_of(self, nodes: Container[Node]) -> list[Node]:
        """Those of the nodes to which a path from the score leads that passes none of the others."""
        found: list[Node] = []
        seen: set[Node] = set()
        ahead = [self.score.grad_fn]
        while ahead:
            node = ahead.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node in nodes:
                found.append(node)
            else:
                ahead.extend(following for following, _ in node.next_functions)
        return found

    @property
    def has_one_head(self) -> bool:
        """Whether each class is a row of the same products, so that all have their scores from the same tensors."""
        ahead = [self.score.grad_fn]
        while ahead:
            node = ahead.pop()
            if node is None or operation_name(node) in _PRODUCTS:
                continue
            if operation_name(node) not in _CLASS_BY_CLASS | _NORMALISING:
                return False
            ahead.extend(following for following, _ in node.next_functions)
        return True

    def _record(self, name: str, module: nn.Module, output: Any) -> None:
        for path, tensor in entries(output):
            edge = get_gradient_edge(tensor) if tensor.requires_grad else None
            reached, shape = self.dependence.reaches(tensor), tuple(tensor.shape)
            output = LayerOutputRecord(name, module, self._runs[name], path, shape, edge, reached)
            self._records.append((output, self._places.of(tensor)))
        self._runs[name] += 1

    def _sees_image(self, nodes: set[Node]) -> bool:
        return any(getattr(node, "variable", None) is self.image for node in nodes)


def _outputs(records: Iterable[_Record]) -> list[LayerOutputRecord]:
    """The outputs that were recorded, and how those that could be followed are maps of the image."""
    layouts: dict[Hashable, Layout | None] = {}
    outputs: list[LayerOutputRecord] = []
    for output, places in records:
        narrow = () if places is None else without_expanded_axes(places.rows)
        if places is None or bool(narrow[0].isnan().all()):
            outputs.append(output)
            continue
        key = output.shape, places.sampling, *((tuple(each.shape), each.cpu().numpy().tobytes()) for each in narrow)
        if key not in layouts:
            layouts[key] = layout_of(places)
        outputs.append(replace(output, layout=layouts[key], lost=False))
    return outputs


def gradient_reach(gradient: Tensor) -> float:
    """The share of positions at which some channel's gradient is not exactly zero; gradient: (b, d, *grid)."""
    return math.nan if gradient.numel() == 0 else gradient.ne(0).any(1).float().mean().item()


def _score(returned: Any, target: Target) -> Tensor:
    try:
        return target(outputs_for(target, Returned(returned, 1))).sum()
    except Exception:  # a function of the whole batch, or a target that does not fit: the real call will tell
        return sum(
            (tensor.sum() for _, tensor in entries(returned)), torch.zeros((), dtype=torch.float32, device="cpu")
        )
