"""Layers with weights, with the batch norm that follows them merged into the weights."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from attribkit import UnsupportedModel

from .recording import Operation

Apply = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # input, weight and bias to output


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or a linear layer in one forward pass.

    Args:
        kind: What the rule of the layer is chosen by.
        x: The input, (n, features) or (b, c, *space).
        weight: The weights.
        bias: The bias, if there is one.
        apply: Computes the output from input, weights and bias.
        groups: Number of groups of a transposed convolution, whose output channels are the second axis of the weights;
            None if the output channels are the axis `channel_axis`.
        channel_axis: Axis of the output channels in the weights.
    """

    kind: Literal["convolution", "linear"]
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    apply: Apply
    groups: int | None = None
    channel_axis: int = 0

    def followed_by_batch_norm(self, operation: Operation) -> "Layer":
        """Return the layer with the weights and the bias of the layer and a batch norm together."""
        dtype = self.x.dtype
        weight, bias = (None if each is None else each.to(dtype) for each in map(operation.argument, (1, 2)))
        mean, variance = (operation.argument(position).to(dtype) for position in (3, 4))
        eps = operation.argument(7)
        scale = (variance + eps).rsqrt() if weight is None else weight * (variance + eps).rsqrt()
        shift = -mean if self.bias is None else self.bias - mean
        shift = shift * scale if bias is None else shift * scale + bias
        return replace(self, weight=self._scaled(scale), bias=shift)

    def _scaled(self, scale: Tensor) -> Tensor:
        """Return the weights times a factor for each output channel."""
        if self.groups is None:
            shape = [1] * self.weight.ndim
            shape[self.channel_axis] = -1
            return self.weight * scale.reshape(shape)
        by_group = self.weight.unflatten(0, (self.groups, -1))
        factors = scale.reshape(self.groups, 1, -1, *[1] * (self.weight.ndim - 2))
        return (by_group * factors).flatten(0, 1)


def layer_of(operation: Operation, dtype: torch.dtype) -> Layer:
    """Return the layer that an operation computes, in another dtype.

    Raises:
        UnsupportedModel: The weights depend on the image.
    """
    if operation.name == "convolution":
        return _convolution(operation, dtype)
    return _linear(operation, dtype)


def _convolution(operation: Operation, dtype: torch.dtype) -> Layer:
    x, weight = (operation.argument(position).to(dtype) for position in (0, 1))
    bias = None if operation.argument(2) is None else operation.argument(2).to(dtype)
    transposed, groups = operation.argument(6), operation.argument(8)
    apply = partial(_convolve, geometry=operation.arguments[3:])
    return Layer("convolution", x, weight, bias, apply, groups if transposed else None)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple[object, ...]) -> Tensor:
    output: Tensor = torch.ops.aten.convolution(x, weight, bias, *geometry)
    return output


def _linear(operation: Operation, dtype: torch.dtype) -> Layer:
    if operation.name == "mm":
        x, weight = (operation.argument(i).to(dtype) for i in (0, 1))
        return Layer("linear", x, weight, None, _multiply, channel_axis=1)
    bias, x, weight = (operation.argument(i).to(dtype) for i in (0, 1, 2))
    beta, alpha = operation.keywords.get("beta", 1), operation.keywords.get("alpha", 1)
    return Layer("linear", x, alpha * weight, beta * bias, _multiply, channel_axis=1)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight if bias is None else torch.addmm(bias, x, weight)


def input_edge(operation: Operation, depends: list[bool]) -> int:
    """Return which input of a layer the image enters by.

    Args:
        operation: The operation of the layer.
        depends: For each argument that required a gradient, whether it depends on the image.

    Raises:
        UnsupportedModel: The weights or the bias depend on the image.
    """
    position = 1 if operation.name == "addmm" else 0
    from_image = [each for each, is_dependent in zip(operation.positions, depends, strict=True) if is_dependent]
    if from_image != [position]:
        raise UnsupportedModel(
            f"LRP has no rule for the operation {operation.name!r} where weights or bias depend on the image, as in "
            "attention, hypernetworks and dynamic convolutions. Use input_x_gradient or integrated_gradients."
        )
    return operation.positions.index(position)
