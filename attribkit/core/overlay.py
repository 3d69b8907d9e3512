"""Images and heatmaps as pixels for eyes; the only place that stretches values for display."""

from functools import cache
from io import BytesIO

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from attribkit.core.shapes import Picture

SEQUENTIAL, DIVERGING = "inferno", "RdBu_r"  # readable without colour vision; for maps without and with negative scores
PERCENTILE = 99.5  # of the magnitudes; what is shown at full strength


def stretched(x: Float[Tensor, "b c h w"]) -> list[Picture]:
    """Each normalised image as a picture, its values stretched to the full range; in grey, unless it has 3 channels."""
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    pixels = (255 * (x - low) / (high - low).clamp(min=1e-12)).round().byte()
    shown = pixels if pixels.shape[1] == 3 else pixels[:, :1].expand(-1, 3, -1, -1)
    return [image.permute(1, 2, 0).cpu().numpy() for image in shown]


def scaled(heatmap: Float[Tensor, "h w"]) -> Float[np.ndarray, "h w"]:
    """A heatmap for the eye, -1 to 1, divided by a high percentile of its magnitudes: a speck does not dim the rest."""
    values = heatmap.detach().double().cpu().numpy()
    high = float(np.percentile(np.abs(values), PERCENTILE)) or float(np.abs(values).max())
    return np.clip(values / high, -1, 1) if high else values


def overlay(picture: Picture, heatmap: Float[Tensor, "h w"], strength: float = 0.75) -> Picture:
    """The picture in grey under the coloured map, the more opaque the larger the score.

    strength: opacity of the largest magnitude, 0 to 1.
    """
    values = scaled(heatmap)
    positions = 0.5 + 0.5 * values if is_signed(heatmap) else values
    colours = _table(DIVERGING if is_signed(heatmap) else SEQUENTIAL)[np.round(255 * positions).astype(int)]
    grey = picture.mean(axis=2, keepdims=True)
    opacity = strength * np.abs(values)[..., None] ** 0.5
    return np.round((1 - opacity) * grey + opacity * colours).astype(np.uint8)


def is_signed(heatmap: Float[Tensor, "h w"]) -> bool:
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
