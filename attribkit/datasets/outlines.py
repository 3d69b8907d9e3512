"""Masks as COCO writes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from skimage import draw

from attribkit.datasets.sample import Mask, Size


def outlined(segmentation: Any, size: Size) -> Mask:
    """The mask of a segmentation: a list of polygons, or run lengths as numbers or as text.

    Raises ValueError, TypeError or LookupError where it is none of them.
    """
    if isinstance(segmentation, Mapping):
        return _from_run_lengths(segmentation, size)
    mask = np.zeros(size, dtype=bool)
    for polygon in segmentation:
        mask[_inside(polygon, size)] = True
    return mask


def _inside(polygon: Sequence[float], size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels whose centre is in a polygon x, y, x, y ..., given by edges of pixels."""
    columns, rows = np.asarray(polygon, dtype=np.float64).reshape(-1, 2).T - 0.5
    return draw.polygon(rows, columns, size)


def _from_run_lengths(segmentation: Mapping[str, Any], size: Size) -> Mask:
    """Runs off and on the object by turns, down the columns."""
    if tuple(segmentation["size"]) != size:
        raise ValueError(f"run lengths of a mask {segmentation['size']}, not {list(size)}")
    written = segmentation["counts"]
    lengths = np.asarray(_lengths(written) if isinstance(written, str) else written, dtype=np.int64)
    if (lengths < 0).any() or lengths.sum() != size.height * size.width:
        raise ValueError(f"run lengths of {lengths.sum()} pixels, not {size.height * size.width}")
    on = np.arange(len(lengths)) % 2 == 1
    return np.repeat(on, lengths).reshape(size.width, size.height).T


def _lengths(text: str) -> list[int]:
    """Run lengths from text: five bits a character, the least first, the sixth says that more follow.

    Numbers are signed; from the fourth on they are the difference to the number before the last.
    """
    lengths: list[int] = []
    value = bits = 0
    for code in (character - 48 for character in text.encode("ascii")):
        value |= (code & 0b011111) << bits
        bits += 5
        if code & 0b100000:
            continue
        signed = value - (1 << bits) if code & 0b010000 else value
        lengths.append(signed + lengths[-2] if len(lengths) > 2 else signed)
        value = bits = 0
    return lengths
