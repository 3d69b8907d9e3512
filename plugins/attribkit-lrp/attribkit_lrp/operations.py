"""Rules for operations without weights: how the relevance of their outputs passes to their inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from attribkit import UnsupportedModel

from .graph import LAYERS
from .recording import Operation
from .rules import stabilized

Relevances = Sequence[Tensor | None]  # one for each output or input of an operation


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of the backward pass.

    Args:
        node: Its node in the autograd graph.
        name: Name of the node.
        operation: The recorded operation; None if its values are not needed.
        depends: For each input of the node, whether it depends on the image.
        follows_layer: Whether there is a layer with weights between the images and the operation.
    """

    node: Node
    name: str
    operation: Operation | None
    depends: tuple[bool, ...]
    follows_layer: bool

    @property
    def recorded(self) -> Operation:
        """The recorded operation.

        Raises:
            UnsupportedModel: It was not recorded.
        """
        if self.operation is None or self.operation.name != RECORDED[self.name]:
            raise UnsupportedModel(
                f"The operation {self.name!r} of the model ran in a way that cannot be recorded, such as compiled or "
                "scripted code, so its relevance cannot be computed. Use input_x_gradient or integrated_gradients."
            )
        return self.operation

    def at_inputs(self, relevances: Relevances) -> Relevances:
        """Return relevances of the inputs that required a gradient, with None for the other inputs of the node."""
        remaining = iter(relevances)
        return [None if edge[0] is None else next(remaining) for edge in self.node.next_functions]


OperationRule = Callable[[Step, Relevances], Relevances]


def rearranged(step: Step, relevances: Relevances) -> Relevances:
    """Pass relevance back to where each element was copied from; copies are summed."""
    outputs = [*relevances, *[None] * (len(step.node._input_metadata) - len(relevances))]
    inputs = step.node(*outputs)  # type: ignore[operator]  # nodes are callable
    return inputs if isinstance(inputs, tuple) else (inputs,)


def unchanged(step: Step, relevances: Relevances) -> Relevances:
    """Pass relevance through an operation on single elements."""
    return [relevances[0], *[None] * (len(step.depends) - 1)]


def activation(step: Step, relevances: Relevances) -> Relevances:
    """Pass relevance through an activation that is zero at zero and does not decrease (Bach et al., 2015, sec. 2.3)."""
    saved = {
        name: getattr(step.node, f"_saved_{name}", 0) for name in ("min_val", "max_val", "negative_slope", "alpha")
    }
    is_decreasing = saved["negative_slope"] < 0 or saved["alpha"] < 0
    if is_decreasing or not saved["min_val"] <= 0 <= saved["max_val"]:
        raise UnsupportedModel(
            f"LRP has no rule for the operation {step.name!r} with {saved}: relevance passes through activations that "
            "are zero at zero and do not decrease. Use input_x_gradient or integrated_gradients."
        )
    return unchanged(step, relevances)


def selected(step: Step, relevances: Relevances) -> Relevances:
    """Pass relevance to the elements that the operation selected, such as the maxima of a pooling."""
    (relevance,) = _only(relevances)
    inputs = step.recorded.inputs(relevance.dtype)
    return step.at_inputs(_gradients(step.recorded, inputs, lambda _output: relevance))


def in_proportion(step: Step, relevances: Relevances) -> Relevances:
    """Distribute relevance in proportion to the summands of a sum or an average."""
    (relevance,) = _only(relevances)
    inputs = step.recorded.inputs(relevance.dtype)
    gradients = _gradients(step.recorded, inputs, lambda output: relevance / stabilized(output))
    return step.at_inputs([value * gradient for value, gradient in zip(inputs, gradients, strict=True)])


def addition(step: Step, relevances: Relevances) -> Relevances:
    """Distribute relevance over two summands; a constant takes its share, except before the first layer.

    Before the first layer, adding a constant is part of the preprocessing, which only changes the units of the pixels.
    """
    if step.follows_layer or sum(step.depends) != 1:
        return in_proportion(step, relevances)
    return _to_one_input(step, relevances, relevances[0])


def scaling(step: Step, relevances: Relevances) -> Relevances:
    """Pass relevance through a multiplication by a constant, except where the constant is zero.

    Raises:
        UnsupportedModel: Both factors depend on the image, or the image is the divisor.
    """
    operation, position = step.recorded, _position(step)
    is_division = operation.name == "div"
    if sum(step.depends) != 1 or (is_division and (position != 0 or operation.keywords.get("rounding_mode"))):
        raise UnsupportedModel(
            f"LRP has no rule for the operation {step.name!r} "
            f"{'with a divisor that depends' if is_division else 'of two factors that depend'} on the image, as in "
            "squeeze-and-excitation gates, attention and normalisation. Use input_x_gradient or integrated_gradients."
        )
    (relevance,) = _only(relevances)
    if not is_division:
        factor = operation.argument(1 - position)
        used = torch.as_tensor(factor, device=relevance.device) != 0
        relevance = torch.where(used, relevance, torch.zeros_like(relevance))
    return _to_one_input(step, relevances, relevance)


def batch_norm(step: Step, relevances: Relevances) -> Relevances:
    """Pass relevance through a batch norm, which the layer before it accounts for.

    Raises:
        UnsupportedModel: The normalisation uses the statistics of the image or the batch.
    """
    if step.recorded.argument(5):
        raise UnsupportedModel(
            f"LRP has no rule for the operation {step.name!r} with the statistics of the images themselves, as in "
            "instance norm and in batch norm with track_running_stats=False. Use input_x_gradient or "
            "integrated_gradients."
        )
    return unchanged(step, relevances)


def _gradients(
    operation: Operation, inputs: Sequence[Tensor], relevance_of: Callable[[Tensor], Tensor]
) -> Sequence[Tensor]:
    """Return the gradients of an operation for a gradient of its output that depends on the output."""
    leaves = [each.detach().requires_grad_() for each in inputs]
    with torch.enable_grad():
        output = operation.replay(leaves, inputs[0].dtype)
    return torch.autograd.grad(output, leaves, relevance_of(output.detach()))


def _to_one_input(step: Step, relevances: Relevances, relevance: Tensor | None) -> Relevances:
    """Return relevance for the one input that depends on the image, summed where the input was expanded."""
    position = _position(step)
    if relevance is not None:
        relevance = relevance.sum_to_size(step.recorded.argument(position).shape)
    return [relevance if is_dependent else None for is_dependent in step.depends]


def _position(step: Step) -> int:
    """Return the position of the first argument that depends on the image."""
    required = [depends for depends, edge in zip(step.depends, step.node.next_functions, strict=True) if edge[0]]
    return step.recorded.positions[required.index(True)]


def _only(relevances: Relevances) -> tuple[Tensor]:
    """Return the relevance of the first output; that of indices and statistics does not exist."""
    (first, *_) = relevances
    if first is None:
        raise UnsupportedModel("The score depends on the image through the second output of an operation only.")
    return (first,)


_RECORDED_RULES: dict[str, tuple[str, OperationRule]] = {
    "Add": ("add", addition),
    "AdaptiveAvgPool2D": ("_adaptive_avg_pool2d", in_proportion),
    "AdaptiveAvgPool3D": ("_adaptive_avg_pool3d", in_proportion),
    "AdaptiveMaxPool2D": ("adaptive_max_pool2d", selected),
    "AdaptiveMaxPool3D": ("adaptive_max_pool3d", selected),
    "Amax": ("amax", selected),
    "AvgPool2D": ("avg_pool2d", in_proportion),
    "AvgPool3D": ("avg_pool3d", in_proportion),
    "CudnnBatchNorm": ("cudnn_batch_norm", batch_norm),
    "Div": ("div", scaling),
    "Index": ("index", selected),
    "Max": ("max", selected),
    "MaxPool2DWithIndices": ("max_pool2d_with_indices", selected),
    "MaxPool3DWithIndices": ("max_pool3d_with_indices", selected),
    "Mean": ("mean", in_proportion),
    "MiopenBatchNorm": ("miopen_batch_norm", batch_norm),
    "Mul": ("mul", scaling),
    "NativeBatchNorm": ("native_batch_norm", batch_norm),
    "ReflectionPad2D": ("reflection_pad2d", selected),
    "ReplicationPad2D": ("replication_pad2d", selected),
    "Rsub": ("rsub", addition),
    "Sub": ("sub", addition),
    "Sum": ("sum", in_proportion),
    "UpsampleBicubic2D": ("upsample_bicubic2d", in_proportion),
    "UpsampleBilinear2D": ("upsample_bilinear2d", in_proportion),
    "UpsampleNearest2D": ("upsample_nearest2d", in_proportion),
    "UpsampleNearest3D": ("upsample_nearest3d", in_proportion),
    "UpsampleTrilinear3D": ("upsample_trilinear3d", in_proportion),
}
_REARRANGEMENTS = (
    "Alias", "AsStrided", "Cat", "Clone", "ConstantPadNd", "Expand", "Flip", "Gather", "IndexSelect", "Permute",
    "PixelShuffle", "PixelUnshuffle", "Repeat", "ReshapeAlias", "Roll", "Select", "Slice", "Split", "SplitWithSizes",
    "Squeeze", "Stack", "T", "Transpose", "Unbind", "Unfold", "UnsafeSplit", "UnsafeView", "Unsqueeze", "View",
)  # fmt: skip
_ACTIVATIONS = ("Elu", "Hardtanh", "LeakyRelu", "Relu", "Tanh")

RECORDED = {**LAYERS, **{node: operation for node, (operation, _) in _RECORDED_RULES.items()}}
OPERATION_RULES: dict[str, OperationRule] = {
    **{node: rule for node, (_, rule) in _RECORDED_RULES.items()},
    **dict.fromkeys(_REARRANGEMENTS, rearranged),
    **dict.fromkeys(_ACTIVATIONS, activation),
    **dict.fromkeys(("Neg", "ToCopy"), unchanged),
}
