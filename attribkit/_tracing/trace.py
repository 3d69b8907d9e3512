"""Trace a forward: the output of every module, and the paths from the score to the image."""

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

from attribkit._coordinates.coordinates import CellCoordinates, without_expanded_axes
from attribkit._coordinates.grids import layout_of
from attribkit._coordinates.tracking import track_coordinates
from attribkit._core.autograd import operation_name, reachable_nodes
from attribkit._core.layouts import Layout
from attribkit._core.nested import Path, tensor_entries, tensors_in
from attribkit._state.hooks import observe_modules
from attribkit._targets.class_outputs import Returned
from attribkit._targets.target import Target, outputs_for

_TO_PYTHON = {  # return values to Python, which may branch on them
    "__array__", "__bool__", "__complex__", "__float__", "__index__", "__int__", "allclose", "cond", "equal",
    "is_nonzero", "item", "numpy", "tolist",
}  # fmt: skip
_INDEXED = {  # select or move elements by an index or a mask
    "__getitem__", "__setitem__", "gather", "index_add", "index_copy", "index_fill", "index_put", "index_select",
    "masked_scatter", "masked_select", "scatter", "scatter_add", "scatter_reduce", "take", "take_along_dim",
}  # fmt: skip
_BY_VALUE = {  # order or position elements by their values
    "grid_sample", "grid_sampler", "kthvalue", "msort", "nonzero", "sort", "topk", "unique", "unique_consecutive",
}  # fmt: skip
_SELECTIVE = {  # operations with zero gradient at some elements, depending on values
    "Abs", "Amax", "Amin", "Clamp", "ClampMax", "ClampMin", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh",
    "Max", "Maximum", "MaxPool2DWithIndices", "MaxPool3DWithIndices", "Min", "Minimum", "Relu", "Softshrink", "Sort",
    "Threshold", "Topk", "Where",
}  # fmt: skip
_PRODUCTS = {"Addmm", "Convolution", "Linear", "Mm"}
_CLASS_BY_CLASS = {  # operations that keep classes separate, or select one
    "AdaptiveAvgPool2D", "Add", "Alias", "Clone", "Div", "Expand", "Gather", "Index", "Max", "Mean", "Mul", "Neg",
    "Permute", "Relu", "ReshapeAlias", "Select", "Squeeze", "Sub", "Sum", "T", "ToCopy", "Transpose", "UnsafeView",
    "Unsqueeze", "View",
}  # fmt: skip
_NORMALISING = {"LogSoftmax", "Sigmoid", "Softmax"}
_COMBINING = {"Cat", "Exp", "Slice", "Stack"} | _NORMALISING


class record_dependence(TorchFunctionMode):  # used as a context manager, like those of torch
    """Context manager that records whether input values affect the control flow or the order of elements.

    Afterwards `branching_function` names a function by which Python read values that depend on the inputs, which means
    that another image may take another path through the model. `rearranging_function` names a function that moved
    elements by such values, which means that a cell of a layer may be at another position for another image. Both are
    None if no such function ran.

    Args:
        image: The image with which the forward starts; requires a gradient.
        others: Further input tensors.
    """

    def __init__(self, image: Tensor, others: Iterable[Tensor] = ()) -> None:
        TorchFunctionMode.__init__(self)
        self.branching_function: str | None = None
        self.rearranging_function: str | None = None
        self._from_image = WeakTensorKeyDictionary()  # whether input-dependent tensors depend on the image
        self._from_image[image] = True
        for other in others:
            self._from_image[other] = False

    def reaches(self, tensor: Tensor) -> bool:
        """Return whether the tensor depends on the image."""
        return tensor.requires_grad or self._from_image.get(tensor, False)

    def __torch_function__(
        self, function: Callable[..., Any], _types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        keywords = kwargs or {}
        reached = [each for each in tensors_in((args, keywords)) if each.requires_grad or each in self._from_image]
        outputs = function(*args, **keywords)
        if reached:
            name = getattr(function, "__name__", "")
            base_name = name if name.endswith("__") else name.removesuffix("_")
            is_fixed_grid = base_name.startswith("grid_sample") and all(
                each is not (args[1] if len(args) > 1 else keywords["grid"]) for each in reached
            )
            self._record_function("" if is_fixed_grid else base_name, function, args, reached)
            image = any(map(self.reaches, reached))
            for each in (*tensors_in(outputs), *(args[:1] if name == "__setitem__" else ())):
                self._from_image[each] = image or self.reaches(each)
        return outputs

    def _record_function(self, name: str, function: Any, args: tuple[Any, ...], reached: Sequence[Tensor]) -> None:
        if name in _TO_PYTHON:
            self.branching_function = self.branching_function or resolve_name(function) or name
        nonzero = name == "where" and len(args) == 1
        indexed = name in _INDEXED and any(not each.is_floating_point() for each in reached)
        if nonzero or indexed or name in _BY_VALUE:
            self.rearranging_function = self.rearranging_function or resolve_name(function) or name


@dataclass(frozen=True, eq=False)
class LayerOutputRecord:
    """A tensor that a module returned: one entry of one output.

    Args:
        name: Dotted name of the module.
        module: The module.
        run: Index of the module's run in the forward.
        path: Keys of the entry; () if the module returned the tensor itself.
        shape: Shape of the tensor, batch first.
        edge: Position in the autograd graph; None if no gradient leads from the tensor to the image.
        reached: Whether the tensor depends on the image.
        layout: Grid of the elements, if they could be tracked and form one.
        is_untracked: Whether the coordinates of all elements are unknown.
    """

    name: str
    module: nn.Module
    run: int
    path: Path
    shape: tuple[int, ...]
    edge: GradientEdge | None
    reached: bool
    layout: Layout | None = None
    is_untracked: bool = True

    @property
    def value_key(self) -> tuple[Any, ...]:
        """A key that is equal for modules that return the same values, such as a container and its last layer."""
        return (self.name, self.run, self.path) if self.edge is None else (self.edge.node, self.edge.output_nr)


_Record = tuple[LayerOutputRecord, CellCoordinates | None]  # output and the coordinates of its elements


class Trace:
    """A forward of one image through a frozen model, with its graph.

    Args:
        model: The frozen model.
        x: One image, (1, c, *space).
        target: Defines the score; the sum of the outputs replaces it if it cannot be computed for one image.
        inputs: Further input tensors.
    """

    def __init__(self, model: nn.Module, x: Tensor, target: Target, inputs: Iterable[Tensor] = ()) -> None:
        self._records: list[_Record] = []
        self.image = x.detach().requires_grad_()
        self._runs: Counter[str] = Counter()
        self.dependence = record_dependence(self.image, inputs)
        with track_coordinates(self.image) as self._tracker, self.dependence, observe_modules(model, self._record):
            returned = model(self.image.clone())
        self.outputs = _outputs(self._records)
        self.score = _score(returned, target)
        self.returned = {tensor.grad_fn for _, tensor in tensor_entries(returned)}
        self.widths = {
            tensor.shape[1] for _, tensor in tensor_entries(returned) if tensor.ndim > 1
        }  # mostly the number of classes
        self.nodes = reachable_nodes(self.score.grad_fn)

    def runs(self, output: LayerOutputRecord) -> int:
        """Return how often the module of an output ran."""
        return self._runs[output.name]

    def affects_score(self, output: LayerOutputRecord) -> bool:
        """Return whether the score depends on the output."""
        return output.edge is not None and output.edge.node in self.nodes

    def is_on_every_path(self, output: LayerOutputRecord) -> bool:
        """Return whether every path from the score to the image passes through the output."""
        if not self.affects_score(output):
            return False
        return not self._contains_image(reachable_nodes(self.score.grad_fn, (output.edge.node,)))  # type: ignore[union-attr]

    def nonzero_gradient_fraction(self, output: LayerOutputRecord, layout: Layout) -> float:
        """Return the fraction of the output's grid where the score's gradient is not exactly zero."""
        if not self.affects_score(output):
            return 0.0
        (gradient,) = torch.autograd.grad(self.score, [output.edge], retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
        return 0.0 if gradient is None else nonzero_gradient_fraction(layout.to_grid(gradient))

    def bypasses_pooling(self, output: LayerOutputRecord) -> bool:
        """Return whether some path from the output to the image avoids all poolings to a fixed size."""
        pooled = {node for node in self.nodes if operation_name(node).startswith("AdaptiveAvgPool")}
        return self.affects_score(output) and self._contains_image(reachable_nodes(output.edge.node, pooled))  # type: ignore[union-attr]

    def is_value_dependent(self, outputs: Iterable[LayerOutputRecord]) -> bool:
        """Return whether values, as at a ReLU, decide where the score's gradient is zero at these outputs."""
        model = set().union(*map(reachable_nodes, self.returned)) & self.nodes
        above = [model - reachable_nodes(output.edge.node) for output in outputs if output.edge]
        return any(operation_name(node) in _SELECTIVE for nodes in above for node in nodes)

    def predictions(self) -> set[Node]:
        """Return the nodes from the score to the convolutions that predict it, inclusive: maps of classes."""
        between: list[Node] = []
        predictions: set[Node] = set()
        stack = [self.score.grad_fn]
        while stack:
            node = stack.pop()
            if node is not None and operation_name(node) == "Convolution":
                predictions.add(node)
            elif node is not None and node not in between and operation_name(node) in _CLASS_BY_CLASS | _COMBINING:
                between.append(node)
                stack.extend(following for following, _ in node.next_functions)
        for _ in between:
            predictions.update(
                node for node in between if any(following in predictions for following, _ in node.next_functions)
            )
        return predictions

    def first_reached(self, nodes: Container[Node]) -> list[Node]:
        """Return the nodes that some path from the score reaches before it reaches any other of the nodes."""
        found: list[Node] = []
        visited: set[Node] = set()
        stack = [self.score.grad_fn]
        while stack:
            node = stack.pop()
            if node is None or node in visited:
                continue
            visited.add(node)
            if node in nodes:
                found.append(node)
            else:
                stack.extend(following for following, _ in node.next_functions)
        return found

    @property
    def has_one_head(self) -> bool:
        """Whether all classes are rows of one product, so that their scores depend on the same tensors."""
        stack = [self.score.grad_fn]
        while stack:
            node = stack.pop()
            if node is None or operation_name(node) in _PRODUCTS:
                continue
            if operation_name(node) not in _CLASS_BY_CLASS | _NORMALISING:
                return False
            stack.extend(following for following, _ in node.next_functions)
        return True

    def _record(self, name: str, module: nn.Module, output: Any) -> None:
        for path, tensor in tensor_entries(output):
            edge = get_gradient_edge(tensor) if tensor.requires_grad else None
            reached, shape = self.dependence.reaches(tensor), tuple(tensor.shape)
            output = LayerOutputRecord(name, module, self._runs[name], path, shape, edge, reached)
            self._records.append((output, self._tracker.of(tensor)))
        self._runs[name] += 1

    def _contains_image(self, nodes: set[Node]) -> bool:
        return any(getattr(node, "variable", None) is self.image for node in nodes)


def _outputs(records: Iterable[_Record]) -> list[LayerOutputRecord]:
    """Return the recorded outputs, with the layouts of those that could be tracked."""
    layouts: dict[Hashable, Layout | None] = {}
    outputs: list[LayerOutputRecord] = []
    for output, coordinates in records:
        positions = () if coordinates is None else without_expanded_axes(coordinates.positions)
        if coordinates is None or bool(positions[0].isnan().all()):
            outputs.append(output)
            continue
        key = (
            output.shape,
            coordinates.sampling,
            *((tuple(each.shape), each.cpu().numpy().tobytes()) for each in positions),
        )
        if key not in layouts:
            layouts[key] = layout_of(coordinates)
        outputs.append(replace(output, layout=layouts[key], is_untracked=False))
    return outputs


def nonzero_gradient_fraction(gradient: Tensor) -> float:
    """Return the fraction of cells at which some channel of a gradient, (b, d, *grid), is not exactly zero."""
    return math.nan if gradient.numel() == 0 else gradient.ne(0).any(1).float().mean().item()


def _score(returned: Any, target: Target) -> Tensor:
    try:
        return target(outputs_for(target, Returned(returned, 1))).sum()
    except Exception:  # a function of the whole batch, or an invalid target; the actual call reports it
        return sum(
            (tensor.sum() for _, tensor in tensor_entries(returned)), torch.zeros((), dtype=torch.float32, device="cpu")
        )
