"""Find the first convolution or linear layer that an image reaches, and how their axes correspond."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attribkit._coordinates.coordinates import CellCoordinates, without_expanded_axes
from attribkit._coordinates.tracking import track_coordinates

_CONVOLUTIONS = {f"conv{axes}d" for axes in (1, 2, 3)}
_TRANSPOSED = {f"conv_transpose{axes}d" for axes in (1, 2, 3)}
_EPSILON = 1e-4  # fraction of the image


@dataclass(frozen=True, eq=False)
class FirstLayer:
    """The first layer with weights that an image reaches, and the image axes that vary along its input axes.

    Args:
        kind: "convolution" or "linear layer".
        weight: Weight of the layer.
        shape: Shape of its input.
        takes: Number of input channels.
        axes: For each axis of its input, the fraction of each axis of the image that it spans.
    """

    kind: str
    weight: Tensor
    shape: tuple[int, ...]
    takes: int
    axes: tuple[tuple[float, ...], ...]

    @property
    def batched(self) -> bool:
        """Whether the layer's input has a batch axis."""
        return self.kind == "linear layer" or len(self.shape) == self.weight.ndim

    @property
    def fits(self) -> bool:
        """Whether the layer's input has a supported number of axes."""
        return self.kind == "linear layer" or len(self.shape) in (self.weight.ndim, self.weight.ndim - 1)

    @property
    def channel_axis(self) -> int:
        """The input axis that the layer mixes."""
        return len(self.shape) - 1 if self.kind == "linear layer" else int(self.batched)

    def name(self, module: nn.Module) -> str:
        """Return the layer's dotted name in the model, or that of its weight if it is not a module."""
        names = (name for name, parameter in module.named_parameters() if parameter is self.weight)
        return next(names, self.kind).removesuffix(".weight")

    def mixed(self) -> list[int]:
        """Return the axes of the image, from 1, that the layer mixes completely as its channels."""
        return [axis for axis, fraction in enumerate(self.axes[self.channel_axis]) if axis and fraction > 1 - _EPSILON]

    @property
    def is_grey(self) -> bool:
        """Whether all input channels come from the same entry of every axis of the images."""
        return not any(self.axes[self.channel_axis])

    @property
    def mixes_images(self) -> bool:
        """Whether the input channels come from the first axis of the images."""
        return self.axes[self.channel_axis][0] > 0

    def spread(self, axis: int) -> bool:
        """Return whether an axis of the image is one of the spatial axes of the layer's input."""
        spaces = [i for i in range(len(self.shape)) if i > self.channel_axis]
        return any(self.axes[i][axis] > 0 for i in spaces)

    def apart(self, axis: int) -> bool:
        """Return whether positions along an axis of the image reach the layer as different positions or images."""
        return any(fractions[axis] > 0 for i, fractions in enumerate(self.axes) if i != self.channel_axis)


class _FirstLayerReached(BaseException):
    """Exception that ends a forward at the layer; a BaseException, which handlers for Exception do not catch."""


class _FirstLayerTracker(track_coordinates):
    """Tracker of every axis of the image up to the first layer with weights."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        self._coordinates[x] = _axis_coordinates(x)
        self._image = tuple(x.shape)
        self.layer: FirstLayer | None = None

    def __torch_function__(
        self, function: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        keywords, name = kwargs or {}, getattr(function, "__name__", "")
        if name in _CONVOLUTIONS or name in _TRANSPOSED or name == "linear":
            tensor, coordinates = args[0] if args else keywords["input"], None
            if coordinates := self.of(tensor):
                weight, groups = _argument(args, keywords, 1, "weight"), 1
                if name in _CONVOLUTIONS:
                    groups = _argument(args, keywords, 6, "groups", 1)
                self.layer = self._layer(name, tensor, weight, groups, coordinates)
                raise _FirstLayerReached
        return super().__torch_function__(function, types, args, kwargs)

    def _layer(
        self, name: str, tensor: Tensor, weight: Tensor, groups: int, coordinates: CellCoordinates
    ) -> FirstLayer:
        kind = "linear layer" if name == "linear" else "convolution"
        takes = weight.shape[0] if name in _TRANSPOSED else weight.shape[1] * groups
        return FirstLayer(kind, weight, tuple(tensor.shape), int(takes), _spanned_fractions(coordinates, self._image))


@torch.no_grad()
def first_layer(call: Callable[[Tensor], Any], x: Tensor) -> FirstLayer | None:
    """Return the first layer with weights that images reach, in any order of axes; None if they cannot be tracked.

    Args:
        call: Runs the model; the forward ends at the layer. Errors of the model before it propagate.
        x: Images.
    """
    images = x.detach().clone()
    try:
        with _FirstLayerTracker(images) as tracker:
            call(images)
    except _FirstLayerReached:
        pass
    return tracker.layer


def _argument(args: Sequence[Any], keywords: dict[str, Any], index: int, name: str, default: Any = None) -> Any:
    return args[index] if len(args) > index else keywords.get(name, default)


def _axis_coordinates(x: Tensor) -> CellCoordinates:
    """Return the position of each element along every axis of the images, 0 to 1."""
    axes = [(torch.arange(side, device=x.device, dtype=torch.float32) + 0.5) / side for side in x.shape]
    return CellCoordinates(
        tuple(axis.view(-1, *(1,) * (x.ndim - 1 - i)).expand(x.shape) for i, axis in enumerate(axes))
    )


def _spanned_fractions(coordinates: CellCoordinates, image: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """Compute, for each axis of a tensor, the fraction of each axis of the image that it spans; 0 if constant."""
    spans = torch.stack([_extents(coordinate) for coordinate in coordinates.positions], 1)
    whole = [1 - 1 / side if side > 1 else 1.0 for side in image]
    return tuple(
        tuple(span / most if span > _EPSILON else 0.0 for span, most in zip(row, whole, strict=True))
        for row in spans.tolist()
    )


def _extents(coordinate: Tensor) -> Tensor:
    """Compute the largest range of a coordinate along each axis of its tensor, ignoring NaN."""
    narrow = without_expanded_axes((coordinate,))[0]
    low, high = narrow.nan_to_num(torch.inf), narrow.nan_to_num(-torch.inf)
    return torch.stack([(high.amax(axis) - low.amin(axis)).amax().clamp(min=0) for axis in range(narrow.ndim)])
