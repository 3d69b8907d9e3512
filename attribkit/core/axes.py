"""[core/image_axes] The order of the axes in which a model takes its images; inside attribkit it is always (b, c, *space).
[core/axes] The axes of space: options that are sizes along them, and how maps are interpolated.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.options import OneOrMore, PositiveInt

_SPACE = {1: "n", 2: "hw", 3: "thw"}  # letters of the axes of space, by their number


@dataclass(frozen=True)
class ImageAxes:
    """Axes by one letter each: b is the batch and comes first, c the channels, every other letter an axis of space.

    Axes of space keep their order. Images without c have no axis of channels: inside they have one channel. Tensors
    like images, such as scores (b, k, *grid), follow the same order.
    """

    letters: str

    def __post_init__(self) -> None:
        text = self.letters
        if not isinstance(text, str) or not re.fullmatch("b[a-z]+", text) or len(set(text)) < len(text) or text == "bc":
            raise InvalidInput(
                f"axes={text!r} are no axes of images: write a letter for each, b (batch) first, c for the channels if "
                'there are any, other letters for space, each once: "bchw", "bhwc", "btchw", "bhw".'
            )

    @classmethod
    def of(cls, axes: int, channels: int | None = 1) -> "ImageAxes":
        """Images of so many axes, with the channels at one of them; None is no axis of channels."""
        count = axes - 1 - (channels is not None)
        space = list(_SPACE.get(count, "defghijklm"[:count]))
        if channels is not None:
            space.insert(channels - 1, "c")
        return cls("b" + "".join(space))

    @property
    def channels(self) -> int | None:
        """Which axis the channels are; None where there is none."""
        return self.letters.index("c") if "c" in self.letters else None

    @property
    def is_usual(self) -> bool:
        """Whether they are (b, c, *space)."""
        return self.channels == 1

    def channels_first(self, x: Tensor) -> Tensor:
        """A tensor in this order as (b, c, *space), a view of it."""
        if self.is_usual:
            return x
        if self.channels is None:
            return x if x.ndim > len(self.letters) else x.unsqueeze(1)
        return x.movedim(self.channels, 1)

    def restored(self, x: Tensor) -> Tensor:
        """A tensor (b, c, *space) in this order, a view of it."""
        if self.is_usual:
            return x
        return x.squeeze(1) if self.channels is None else x.movedim(1, self.channels)

    def __str__(self) -> str:
        return f"({', '.join(self.letters)})"


LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}  # modes of torch's interpolate, by the number of axes of space
PerAxis = (
    PositiveInt | OneOrMore[PositiveInt]
)  # for every axis of space, or one for each: (t, h, w) of clips, (d, h, w) of volumes


def per_axis(name: str, given: int | Sequence[int], space: Sequence[int], least: int = 1) -> tuple[int, ...]:
    """The option as a whole number for each axis of space, none below the least.

    Raises InvalidInput for another number of axes and for what is no size.
    """
    each: tuple[Any, ...] = tuple(given) if isinstance(given, Sequence) else (given,) * len(space)
    if len(each) != len(space) or not _are_sizes(each, least):
        raise InvalidInput(
            f"{name}={given!r} must be a whole number from {least}, or one for each of the {len(space)} axes of "
            f"{format_sizes(space)} pixels."
        )
    return tuple(map(int, each))


def capped_sizes(size: int, share: int, space: Sequence[int]) -> tuple[int, ...]:
    """A size for each axis: of images the same along both; of clips and volumes no more than a share, one in so many.

    Time is short: what suits the height of a frame would cover all frames at once.
    """
    if len(space) < 3:
        return (size,) * len(space)
    return tuple(max(1, min(size, side // share)) for side in space)


def format_sizes(sizes: Sequence[int]) -> str:
    """Sizes in a row, for a message: 16x112x112."""
    return "x".join(map(str, sizes))


def _are_sizes(each: Sequence[Any], least: int) -> bool:
    return all(isinstance(size, Integral) and int(size) >= least for size in each)
