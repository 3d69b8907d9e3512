"""Many small pictures as one."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from attribkit.core.shapes import Picture

Tile = UInt8[np.ndarray, "tall wide 3"]  # red, green, blue

_SIDE = 360  # pixels, about the larger side of the whole: small tiles are enlarged, each pixel to a square
_PAPER = 255


def tiled(tiles: Sequence[Tile]) -> Picture:
    """The pictures, all of one size, in rows of about as many as there are rows, with white between them."""
    height, width = tiles[0].shape[:2]
    columns = math.ceil(math.sqrt(len(tiles) * height / width))
    rows = math.ceil(len(tiles) / columns)
    scale = max(1, _SIDE // max(columns * width, rows * height))
    gap = max(1, scale * max(height, width) // 12)
    step_down, step_right = scale * height + gap, scale * width + gap
    whole = np.full((rows * step_down - gap, columns * step_right - gap, 3), _PAPER, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * step_down, i % columns * step_right
        large = tile.repeat(scale, 0).repeat(scale, 1)
        whole[top : top + scale * height, left : left + scale * width] = large
    return whole
