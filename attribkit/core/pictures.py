"""[core/broadcast] Numbers of each image beside the images themselves.
[core/overlay] Images and heatmaps as pixels for eyes; the only place that stretches values for display.
[core/sections] Clips and volumes in sections that a page can show: frames of a clip, slices of a volume along an axis.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from io import BytesIO
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from attribkit.core.shapes import Picture, Pictures


def broadcast_to_spatial(values: Tensor, like: Tensor) -> Tensor:
    """The values, (b, ...), with axes of one element behind, so that they broadcast over (b, ..., *space)."""
    return values[(...,) + (None,) * (like.ndim - values.ndim)]


def extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value of each image (b, ...), each (b, 1, ...)."""
    low, high = x.flatten(1).aminmax(dim=1)
    return broadcast_to_spatial(low, x), broadcast_to_spatial(high, x)


SEQUENTIAL, DIVERGING = "inferno", "RdBu_r"  # readable without colour vision; for maps without and with negative scores
PERCENTILE = 99.5  # of the magnitudes; what is shown at full strength


def stretched(x: Float[Tensor, "b c *space"]) -> list[Pictures]:
    """Each normalised image as a picture, its values stretched to the full range; in grey, unless it has 3 channels.

    A clip or volume is stretched as a whole, so that its pictures can be compared.
    """
    low, high = extremes(x)
    pixels = (255 * (x - low) / (high - low).clamp(min=1e-12)).round().byte()
    shown = pixels if pixels.shape[1] == 3 else pixels[:, :1].expand(-1, 3, *x.shape[2:])
    return [image.movedim(0, -1).cpu().numpy() for image in shown]


def scaled(heatmap: Float[Tensor, "*space"], whole: Float[Tensor, "*all"] | None = None) -> Float[np.ndarray, "*space"]:
    """A heatmap for the eye, -1 to 1, divided by a high percentile of its magnitudes: a speck does not dim the rest.

    whole: the map that this one is a section of, whose percentile is taken.
    """
    values = heatmap.detach().double().cpu().numpy()
    magnitudes = np.abs(values if whole is None else whole.detach().double().cpu().numpy())
    high = float(np.percentile(magnitudes, PERCENTILE)) or float(magnitudes.max())
    return np.clip(values / high, -1, 1) if high else values


def overlay(
    picture: Picture,
    heatmap: Float[Tensor, "h w"],
    strength: float = 0.75,
    whole: Float[Tensor, "*all"] | None = None,
) -> Picture:
    """The picture in grey under the coloured map, the more opaque the larger the score.

    strength: opacity of the largest magnitude, 0 to 1. whole: the map of the clip or volume that the heatmap is a
    section of; it gives the scale and the colours, so that sections can be compared.
    """
    values, signed = scaled(heatmap, whole), is_signed(heatmap if whole is None else whole)
    positions = 0.5 + 0.5 * values if signed else values
    colours = _table(DIVERGING if signed else SEQUENTIAL)[np.round(255 * positions).astype(int)]
    grey = picture.mean(axis=2, keepdims=True)
    opacity = strength * np.abs(values)[..., None] ** 0.5
    return np.round((1 - opacity) * grey + opacity * colours).astype(np.uint8)


def is_signed(heatmap: Float[Tensor, "*space"]) -> bool:
    """Whether the map has scores against as well as for."""
    return bool((heatmap < 0).any())


def png(picture: Picture) -> bytes:
    """The picture as a PNG file."""
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, format="png")
    return buffer.getvalue()


@cache
def _table(name: str) -> Float[np.ndarray, "256 3"]:
    """A colour map's 256 colours, 0 to 255."""
    return 255 * colormaps[name](np.linspace(0, 1, 256))[:, :3]


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
