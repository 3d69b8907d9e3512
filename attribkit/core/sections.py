"""Clips and volumes in sections that a page can show: frames of a clip, slices of a volume along an axis."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from attribkit.core.shapes import Picture, Pictures


class Section(NamedTuple):
    """One frame or slice."""

    place: int  # along the axis, from 0
    picture: Picture
    heatmap: Float[Tensor, "h w"]


def evenly(length: int, count: int) -> list[int]:
    """The places in the middle of so many equal parts of an axis; some more than once where there are more parts."""
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def sections(
    pictures: Pictures, heatmap: Float[Tensor, "*space"], places: Sequence[int], axis: int = 0
) -> Iterator[Section]:
    """The sections of one clip or volume and of its map at places along an axis of space."""
    for place in places:
        yield Section(place, pictures.take(place, axis), heatmap.select(axis, place))
