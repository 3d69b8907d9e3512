"""The axes of space: options that are sizes along them, and how maps are interpolated."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from attribkit.core.errors import InvalidInput
from attribkit.core.options import Count, OneOrMore

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}  # modes of torch's interpolate, by the number of axes of space
PerAxis = Count | OneOrMore[Count]  # for every axis of space, or one for each: (t, h, w) of clips, (d, h, w) of volumes


def per_axis(name: str, given: int | Sequence[int], space: Sequence[int], least: int = 1) -> tuple[int, ...]:
    """The option as a whole number for each axis of space, none below the least.

    Raises InvalidInput for another number of axes and for what is no size.
    """
    each: tuple[Any, ...] = tuple(given) if isinstance(given, Sequence) else (given,) * len(space)
    if len(each) != len(space) or not _are_sizes(each, least):
        raise InvalidInput(
            f"{name}={given!r} must be a whole number from {least}, or one for each of the {len(space)} axes of "
            f"{times(space)} pixels."
        )
    return tuple(map(int, each))


def at_most(size: int, share: int, space: Sequence[int]) -> tuple[int, ...]:
    """A size for each axis: of images the same along both; of clips and volumes no more than a share, one in so many.

    Time is short: what suits the height of a frame would cover all frames at once.
    """
    if len(space) < 3:
        return (size,) * len(space)
    return tuple(max(1, min(size, side // share)) for side in space)


def times(sizes: Sequence[int]) -> str:
    """Sizes in a row, for a message: 16x112x112."""
    return "x".join(map(str, sizes))


def _are_sizes(each: Sequence[Any], least: int) -> bool:
    return all(isinstance(size, Integral) and int(size) >= least for size in each)
