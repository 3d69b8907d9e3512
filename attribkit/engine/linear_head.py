"""Whether a score is a weighted sum of a layer's channels, averaged over the image; if so, the weights."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import Node

from attribkit.core.autograd import operation, reachable
from attribkit.core.errors import UnsupportedModel
from attribkit.core.layouts import Layout
from attribkit.core.shapes import LayerMaps
from attribkit.engine.forward import gradients_of

_WEIGHTED = {"Addmm", "Mm", "Bmm", "Convolution", "Linear"}
_LINEAR = _WEIGHTED | {
    "AccumulateGrad", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "Add", "Alias", "AsStrided", "AvgPool2D", "AvgPool3D",
    "Cat", "Clone", "CudnnBatchNorm", "Expand", "Gather", "Index", "Max", "Mean", "NativeBatchNorm", "Neg", "Permute",
    "ReshapeAlias", "Select", "Slice", "Squeeze", "Stack", "Sub", "Sum", "T", "ToCopy", "Transpose", "UnsafeView",
    "Unsqueeze", "View",
}  # fmt: skip
_BY_A_NUMBER = {"Mul", "Div"}  # linear where only one side depends on the layer


def class_weights(score: Tensor, output: Tensor, layout: Layout, layer: str) -> tuple[LayerMaps, Tensor]:
    """The maps that are averaged and their weights (b, d), where the score is linear in their averages.

    output: of the layer of this name, at which the score's graph starts. A ReLU may stand between the layer and the
    average, or behind the last convolution; the maps are those behind the one and before the other. Raises
    UnsupportedModel.
    """
    relus = _checked(score.grad_fn)
    handles = [relu.register_hook(_passes_at(layout.to_grid(output).shape[2:])) for relu in relus]
    try:
        (derivative,) = gradients_of(score, [output], [layer], keep=True)
    finally:
        for handle in handles:
            handle.remove()
    gradient = layout.to_grid(derivative).flatten(2)
    spread = (gradient.amax(2) - gradient.amin(2)).amax()
    if spread > torch.finfo(gradient.dtype).eps ** 0.5 * gradient.abs().amax():
        raise _no_cam("its head weighs some places of the layer more than others")
    maps = layout.to_grid(output.detach())
    return maps.relu() if any(not _weighted_below(relu) for relu in relus) else maps, gradient.sum(2)


def _checked(start: Node | None) -> list[Node]:
    """The ReLUs of a head that is linear but for them, each where it does no harm."""
    nodes = reachable(start)
    strange = sorted({operation(node) for node in nodes if not _is_linear(node)} - {"Relu"})
    if strange:
        raise _no_cam(f"{strange[0]} stands between the layer and the score")
    relus = [node for node in nodes if operation(node) == "Relu"]
    if any(_weighted_below(relu) and _is_weighted(reachable(start, (relu,))) for relu in relus):
        raise _no_cam("a ReLU stands between two layers of its head")
    return relus


def _is_linear(node: Node) -> bool:
    operands = sum(below is not None for below, _ in node.next_functions)
    return operation(node) in _LINEAR or (operation(node) in _BY_A_NUMBER and operands == 1)


def _weighted_below(node: Node) -> bool:
    return _is_weighted(reachable(node))


def _is_weighted(nodes: Iterable[Node]) -> bool:
    return any(operation(node) in _WEIGHTED for node in nodes)


def _passes_at(grid: Sequence[int]) -> Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Let the gradient through a ReLU as it comes, where the ReLU works on maps."""

    def hook(_below: tuple[Tensor, ...], above: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if tuple(above[0].shape[2:]) != tuple(grid):
            raise _no_cam("a ReLU follows the average")
        return above

    return hook


def _no_cam(why: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"The class activation map needs a score that is a weighted sum of averaged channels; here {why}. Use gradcam, "
        "which asks nothing of the head; a softmax may be the target's: ask for the class's logit."
    )
