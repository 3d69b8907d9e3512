"""The first convolution, or linear layer, that an image meets in a forward, and which axes of the image it sees how."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attribkit.coordinates.coordinates import CellCoordinates, without_expanded_axes
from attribkit.coordinates.tracking import track_coordinates

_CONVOLUTIONS = {f"conv{axes}d" for axes in (1, 2, 3)}
_TRANSPOSED = {f"conv_transpose{axes}d" for axes in (1, 2, 3)}
_EPSILON = 1e-4  # share of the image


@dataclass(frozen=True, eq=False)
class FirstLayer:
    """What the first layer with weights is given of an image, told by the axes of the image that its own vary along."""

    kind: str  # "convolution" or "linear layer"
    weight: Tensor
    shape: tuple[int, ...]  # of its input
    takes: int  # channels
    axes: tuple[tuple[float, ...], ...]  # for each axis of its input, the share of each axis of the image that it spans

    @property
    def batched(self) -> bool:
        """Whether its input has an axis of images."""
        return self.kind == "linear layer" or len(self.shape) == self.weight.ndim

    @property
    def fits(self) -> bool:
        """Whether its input has the axes that it takes."""
        return self.kind == "linear layer" or len(self.shape) in (self.weight.ndim, self.weight.ndim - 1)

    @property
    def channel_axis(self) -> int:
        """The axis of its input that it mixes."""
        return len(self.shape) - 1 if self.kind == "linear layer" else int(self.batched)

    def name(self, module: nn.Module) -> str:
        """Its dotted name in the model; that of its weight where it is no module."""
        names = (name for name, parameter in module.named_parameters() if parameter is self.weight)
        return next(names, self.kind).removesuffix(".weight")

    def mixed(self) -> list[int]:
        """The axes of the image, from 1, all of which it mixes as its channels."""
        return [axis for axis, share in enumerate(self.axes[self.channel_axis]) if axis and share > 1 - _EPSILON]

    @property
    def is_grey(self) -> bool:
        """Whether its channels, one or several, all come from the same entry of every axis of the images."""
        return not any(self.axes[self.channel_axis])

    @property
    def mixes_images(self) -> bool:
        """Whether it takes the first axis of the images for channels."""
        return self.axes[self.channel_axis][0] > 0

    def spread(self, axis: int) -> bool:
        """Whether an axis of the image is one of its input's axes of space."""
        spaces = [i for i in range(len(self.shape)) if i > self.channel_axis]
        return any(self.axes[i][axis] > 0 for i in spaces)

    def apart(self, axis: int) -> bool:
        """Whether positions along an axis of the image reach it as different positions, or images, of its input."""
        return any(shares[axis] > 0 for i, shares in enumerate(self.axes) if i != self.channel_axis)


class _Met(BaseException):
    """Ends a forward at the layer; no handler of a model's own for Exception stops it."""


class _Meeting(track_coordinates):
    """Follow every axis of the image up to the first layer with weights."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        self._known[x] = _of_axes(x)
        self._image = tuple(x.shape)
        self.met: FirstLayer | None = None

    def __torch_function__(
        self, function: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given, name = kwargs or {}, getattr(function, "__name__", "")
        if name in _CONVOLUTIONS or name in _TRANSPOSED or name == "linear":
            tensor, places = args[0] if args else given["input"], None
            if places := self.of(tensor):
                weight, groups = _argument(args, given, 1, "weight"), 1
                if name in _CONVOLUTIONS:
                    groups = _argument(args, given, 6, "groups", 1)
                self.met = self._layer(name, tensor, weight, groups, places)
                raise _Met
        return super().__torch_function__(function, types, args, kwargs)

    def _layer(self, name: str, tensor: Tensor, weight: Tensor, groups: int, places: CellCoordinates) -> FirstLayer:
        kind = "linear layer" if name == "linear" else "convolution"
        takes = weight.shape[0] if name in _TRANSPOSED else weight.shape[1] * groups
        return FirstLayer(kind, weight, tuple(tensor.shape), int(takes), _shares(places, self._image))


@torch.no_grad()
def first_layer(call: Callable[[Tensor], Any], x: Tensor) -> FirstLayer | None:
    """The first layer with weights that images meet, in any order of axes; None where they cannot be followed.

    call: runs the model, which goes no further than that layer. Raises what the model raises before it.
    """
    images = x.detach().clone()
    try:
        with _Meeting(images) as meeting:
            call(images)
    except _Met:
        pass
    return meeting.met


def _argument(args: Sequence[Any], given: dict[str, Any], place: int, name: str, default: Any = None) -> Any:
    return args[place] if len(args) > place else given.get(name, default)


def _of_axes(x: Tensor) -> CellCoordinates:
    """For each axis of the images, where along it every element is, 0 to 1."""
    axes = [(torch.arange(side, device=x.device, dtype=torch.float32) + 0.5) / side for side in x.shape]
    return CellCoordinates(
        tuple(axis.view(-1, *(1,) * (x.ndim - 1 - i)).expand(x.shape) for i, axis in enumerate(axes))
    )


def _shares(places: CellCoordinates, image: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """For each axis of a tensor, the share of each axis of the image that it spans; 0 where it does not vary."""
    spans = torch.stack([_spans(coordinate) for coordinate in places.rows], 1)
    whole = [1 - 1 / side if side > 1 else 1.0 for side in image]
    return tuple(
        tuple(span / most if span > _EPSILON else 0.0 for span, most in zip(row, whole, strict=True))
        for row in spans.tolist()
    )


def _spans(coordinate: Tensor) -> Tensor:
    """How far a coordinate varies along each axis of its tensor, at most; no place does not count."""
    narrow = without_expanded_axes((coordinate,))[0]
    low, high = narrow.nan_to_num(torch.inf), narrow.nan_to_num(-torch.inf)
    return torch.stack([(high.amax(axis) - low.amin(axis)).amax().clamp(min=0) for axis in range(narrow.ndim)])
