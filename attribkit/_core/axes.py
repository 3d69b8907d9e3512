"""The axes of images: their order in a model's input, and options that are sizes along the spatial axes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import Tensor

from attribkit._core.errors import InvalidInput
from attribkit._core.options import OneOrMore, PositiveInt

INTERPOLATION_MODES = {
    1: "linear",
    2: "bilinear",
    3: "trilinear",
}  # modes of torch's interpolate, by the number of spatial axes
PerAxis = PositiveInt | OneOrMore[PositiveInt]  # a size for all spatial axes, or one for each: (t, h, w) or (d, h, w)

_SPATIAL_LETTERS = {1: "n", 2: "hw", 3: "thw"}  # keyed by the number of spatial axes


@dataclass(frozen=True)
class ImageAxes:
    """The order of the axes of a model's images; attribkit computes in (b, c, *space).

    The spatial axes keep their order. Images without a channel axis are computed as images of one channel. Tensors that
    are shaped like images, such as scores (b, k, *grid), follow the same order.

    Args:
        letters: One letter per axis: "b" for the batch comes first, "c" for the channels, any other letter for a
            spatial axis. Without "c", the images do not have a channel axis.

    Raises:
        InvalidInput: The letters do not describe the axes of images.
    """

    letters: str

    def __post_init__(self) -> None:
        text = self.letters
        if not isinstance(text, str) or not re.fullmatch("b[a-z]+", text) or len(set(text)) < len(text) or text == "bc":
            raise InvalidInput(
                f"axes must name each axis of the images with a different letter, got {text!r}. Write b (batch) "
                'first, c for the channels, if any, and other letters for the spatial axes, such as "bchw", "bhwc", '
                '"btchw" or "bhw".'
            )

    @classmethod
    def of(cls, axes: int, channels: int | None = 1) -> "ImageAxes":
        """Return the order for a number of axes and the index of the channel axis, None for no channel axis."""
        count = axes - 1 - (channels is not None)
        space = list(_SPATIAL_LETTERS.get(count, "defghijklm"[:count]))
        if channels is not None:
            space.insert(channels - 1, "c")
        return cls("b" + "".join(space))

    @property
    def channels(self) -> int | None:
        """The index of the channel axis; None if there is none."""
        return self.letters.index("c") if "c" in self.letters else None

    @property
    def is_channels_first(self) -> bool:
        """Whether the order is (b, c, *space)."""
        return self.channels == 1

    def channels_first(self, x: Tensor) -> Tensor:
        """Return a view, (b, c, *space), of a tensor in this order."""
        if self.is_channels_first:
            return x
        if self.channels is None:
            return x if x.ndim > len(self.letters) else x.unsqueeze(1)
        return x.movedim(self.channels, 1)

    def from_channels_first(self, x: Tensor) -> Tensor:
        """Return a view in this order of a tensor (b, c, *space)."""
        if self.is_channels_first:
            return x
        return x.squeeze(1) if self.channels is None else x.movedim(1, self.channels)

    def __str__(self) -> str:
        return f"({', '.join(self.letters)})"


def per_axis(name: str, value: int | Sequence[int], space: Sequence[int], least: int = 1) -> tuple[int, ...]:
    """Return an option as a size for each spatial axis.

    Args:
        name: Name of the option, for the message.
        value: A size for all axes, or one for each.
        space: Sizes of the images.
        least: Smallest allowed size.

    Raises:
        InvalidInput: A size is not an integer or too small, or the number of sizes differs from that of the axes.
    """
    sizes: tuple[Any, ...] = tuple(value) if isinstance(value, Sequence) else (value,) * len(space)
    if len(sizes) != len(space) or not all(isinstance(size, Integral) and int(size) >= least for size in sizes):
        raise InvalidInput(
            f"{name} must be an integer >= {least}, or one for each of the {len(space)} axes of "
            f"{format_sizes(space)} pixels, got {value!r}."
        )
    return tuple(map(int, sizes))


def capped_sizes(size: int, divisor: int, space: Sequence[int]) -> tuple[int, ...]:
    """Return a size for each axis, for clips and volumes capped at the length of the axis divided by `divisor`.

    Clips have few frames: a size chosen for their height would cover all frames. Sizes for images are not capped.
    """
    if len(space) < 3:
        return (size,) * len(space)
    return tuple(max(1, min(size, side // divisor)) for side in space)


def format_sizes(sizes: Sequence[int]) -> str:
    """Format sizes for a message: 16x112x112."""
    return "x".join(map(str, sizes))
