"""Images and heatmaps as pictures for display, and the sections (frames, slices) of clips and volumes."""

from collections.abc import Iterator, Sequence
from functools import cache
from io import BytesIO
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LinearSegmentedColormap
from PIL import Image
from torch import Tensor

from attribkit._core.shapes import Picture, Pictures

# Scores from -1 to 1. The luminance increases along the whole map, so that it is readable in grey print, and blue and
# yellow differ for colour-blind readers. Zero is the grey of a faded picture.
SCORES = LinearSegmentedColormap.from_list(
    "scores", ["#0a1464", "#2850b4", "#5a78a8", "#606060", "#dc6e32", "#f5a046", "#ffeb78"]
)
ACTIVATIONS = "inferno"  # colour map of non-negative values that are drawn without a picture
PERCENTILE = 99.5  # percentile of the magnitudes that is shown at full strength


def broadcast_to_spatial(values: Tensor, like: Tensor) -> Tensor:
    """Append axes of length one to values (b, ...), so that they broadcast over `like`, (b, ..., *space)."""
    return values[(...,) + (None,) * (like.ndim - values.ndim)]


def extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the minimum and the maximum of each image (b, ...), each of shape (b, 1, ...)."""
    low, high = x.flatten(1).aminmax(dim=1)
    return broadcast_to_spatial(low, x), broadcast_to_spatial(high, x)


def to_pictures(x: Float[Tensor, "b c *space"]) -> list[Pictures]:
    """Rescale each normalised image to the full range of a picture; in grey unless it has three channels.

    A clip or volume is rescaled as a whole, so that its pictures are comparable.
    """
    low, high = extremes(x)
    pixels = (255 * (x - low) / (high - low).clamp(min=1e-12)).round().byte()
    rgb = pixels if pixels.shape[1] == 3 else pixels[:, :1].expand(-1, 3, *x.shape[2:])
    return [image.movedim(0, -1).cpu().numpy() for image in rgb]


def display_maximum(heatmap: Float[Tensor, "*space"]) -> float:
    """Return the magnitude that is shown at full strength: a high percentile, so that outliers do not dim the map."""
    magnitudes = np.abs(heatmap.detach().double().cpu().numpy())
    return float(np.percentile(magnitudes, PERCENTILE)) or float(magnitudes.max())


def scale_for_display(
    heatmap: Float[Tensor, "*space"], whole: Float[Tensor, "*all"] | None = None, maximum: float | None = None
) -> Float[np.ndarray, "*space"]:
    """Scale a heatmap to -1 to 1 by a magnitude, `maximum`, or by `display_maximum` of it or of the `whole` map."""
    values = heatmap.detach().double().cpu().numpy()
    high = display_maximum(heatmap if whole is None else whole) if maximum is None else maximum
    return np.clip(values / high, -1, 1) if high else values


def overlay(
    picture: Picture,
    heatmap: Float[Tensor, "h w"],
    strength: float = 0.75,
    whole: Float[Tensor, "*all"] | None = None,
    maximum: float | None = None,
) -> Picture:
    """Overlay a picture in grey with the coloured heatmap, whose opacity grows with the magnitude of the scores.

    Args:
        picture: The picture.
        heatmap: The scores of its pixels.
        strength: Opacity of the largest magnitude, 0 to 1.
        whole: The map of the whole clip or volume that the heatmap is a section of; it sets the scale and the colour
            map, so that sections are comparable.
        maximum: The magnitude that is shown at full strength, in place of `display_maximum`.
    """
    values = scale_for_display(heatmap, whole, maximum)
    return blend(picture, values, strength)


def blend(picture: Picture, values: Float[np.ndarray, "h w"], strength: float = 0.75) -> Picture:
    """Overlay a faded picture in grey with the colours of scores from -1 to 1."""
    colours = _colour_table()[np.round(127.5 + 127.5 * values).astype(int)]
    grey = _DARK + (_LIGHT - _DARK) * picture.mean(axis=2, keepdims=True) / 255
    opacity = strength * np.abs(values)[..., None] ** 0.5
    return np.round((1 - opacity) * grey + opacity * colours).astype(np.uint8)


_DARK, _LIGHT = 40, 135  # grey of black and white in a faded picture


def is_signed(heatmap: Float[Tensor, "*space"]) -> bool:
    """Return whether the map has negative scores."""
    return bool((heatmap < 0).any())


def encode_png(picture: Picture) -> bytes:
    """Encode a picture as a PNG file."""
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, format="png")
    return buffer.getvalue()


@cache
def _colour_table() -> Float[np.ndarray, "256 3"]:
    """Return the colours of scores, 0 to 255."""
    return 255 * SCORES(np.linspace(0, 1, 256))[:, :3]


class Section(NamedTuple):
    """A frame of a clip or a slice of a volume."""

    place: int  # index along the axis
    picture: Picture
    heatmap: Float[Tensor, "h w"]


def middle_indices(length: int, count: int) -> list[int]:
    """Return the middle indices of `count` equal parts of an axis; they repeat if there are more parts than indices."""
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def sections(
    pictures: Pictures, heatmap: Float[Tensor, "*space"], indices: Sequence[int], axis: int = 0
) -> Iterator[Section]:
    """Yield the sections of a clip or volume and its heatmap at indices along a spatial axis."""
    for index in indices:
        yield Section(index, pictures.take(index, axis), heatmap.select(axis, index))
