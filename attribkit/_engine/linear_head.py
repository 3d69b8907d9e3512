"""The weights of a score that is a weighted sum of the spatial averages of a layer's channels."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import Node

from attribkit._core.autograd import operation_name, reachable_nodes
from attribkit._core.errors import UnsupportedModel
from attribkit._core.layouts import Layout
from attribkit._core.shapes import LayerMaps
from attribkit._engine.forward import gradients_of

_WEIGHTED = {"Addmm", "Mm", "Bmm", "Convolution", "Linear"}
_LINEAR = _WEIGHTED | {
    "AccumulateGrad", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "Add", "Alias", "AsStrided", "AvgPool2D", "AvgPool3D",
    "Cat", "Clone", "CudnnBatchNorm", "Expand", "Gather", "Index", "Max", "Mean", "NativeBatchNorm", "Neg", "Permute",
    "ReshapeAlias", "Select", "Slice", "Squeeze", "Stack", "Sub", "Sum", "T", "ToCopy", "Transpose", "UnsafeView",
    "Unsqueeze", "View",
}  # fmt: skip
_BY_A_NUMBER = {"Mul", "Div"}  # linear if only one operand depends on the layer


def class_weights(score: Tensor, output: Tensor, layout: Layout, layer: str) -> tuple[LayerMaps, Tensor]:
    """Return the maps (b, d, *grid) that are averaged, and their weights (b, d).

    A ReLU between the layer and the average is applied to the maps; a ReLU after the last convolution is ignored.

    Args:
        score: Score of each image, (b,), in the graph of the output.
        output: Output of the layer.
        layout: Layout of the output as a map.
        layer: Printed name of the layer.

    Raises:
        UnsupportedModel: The score is not linear in the averages.
    """
    relus = _head_relus(score.grad_fn)
    handles = [relu.register_hook(_passes_at(layout.to_grid(output).shape[2:])) for relu in relus]
    try:
        (derivative,) = gradients_of(score, [output], [layer], keep=True)
    finally:
        for handle in handles:
            handle.remove()
    gradient = layout.to_grid(derivative).flatten(2)
    spread = (gradient.amax(2) - gradient.amin(2)).amax()
    if spread > torch.finfo(gradient.dtype).eps ** 0.5 * gradient.abs().amax():
        raise _no_cam("the head does not weight all positions of the layer equally")
    maps = layout.to_grid(output.detach())
    return maps.relu() if any(not _weighted_below(relu) for relu in relus) else maps, gradient.sum(2)


def _head_relus(start: Node | None) -> list[Node]:
    """Return the ReLUs of a head that is otherwise linear; raises UnsupportedModel for any other head."""
    nodes = reachable_nodes(start)
    strange = sorted({operation_name(node) for node in nodes if not _is_linear(node)} - {"Relu"})
    if strange:
        raise _no_cam(f"the operation {strange[0]} is between the layer and the score")
    relus = [node for node in nodes if operation_name(node) == "Relu"]
    if any(_weighted_below(relu) and _is_weighted(reachable_nodes(start, (relu,))) for relu in relus):
        raise _no_cam("there is a ReLU between two layers of the head")
    return relus


def _is_linear(node: Node) -> bool:
    operands = sum(below is not None for below, _ in node.next_functions)
    return operation_name(node) in _LINEAR or (operation_name(node) in _BY_A_NUMBER and operands == 1)


def _weighted_below(node: Node) -> bool:
    return _is_weighted(reachable_nodes(node))


def _is_weighted(nodes: Iterable[Node]) -> bool:
    return any(operation_name(node) in _WEIGHTED for node in nodes)


def _passes_at(grid: Sequence[int]) -> Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Return a hook that passes the gradient through a ReLU unchanged, if the ReLU works on maps."""

    def hook(_below: tuple[Tensor, ...], above: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if tuple(above[0].shape[2:]) != tuple(grid):
            raise _no_cam("there is a ReLU after the average")
        return above

    return hook


def _no_cam(why: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"cam requires a score that is a weighted sum of averaged channels, but {why}. Use gradcam, which works with "
        "any head. If the target applies a softmax, use the logit of the class instead."
    )
