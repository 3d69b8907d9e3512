"""Boxes of objects, told or around the connected parts of masks; on the CPU."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Num
from scipy.ndimage import find_objects, generate_binary_structure, label
from torch import Tensor

from attribkit.core.truth import Truth

Places = Num[np.ndarray, "_ axes 2"]  # of boxes, where they begin and end on each axis


class Parts(NamedTuple):
    """The connected parts of a mask, in the order in which a scan meets them; pixels that touch at a corner connect."""

    places: Int[np.ndarray, "n axes 2"]  # first and last + 1 along each axis
    sizes: Int[np.ndarray, " n"]  # pixels of each part, not of its box


def boxes_of(mask: Bool[Tensor, "*space"] | Bool[np.ndarray, "*space"]) -> Parts:
    """The boxes of a mask's connected parts."""
    parts, count = label(np.asarray(mask), generate_binary_structure(mask.ndim, mask.ndim))
    places = [[(axis.start, axis.stop) for axis in part] for part in find_objects(parts)]
    return Parts(
        np.array(places, dtype=np.int64).reshape(count, mask.ndim, 2), np.bincount(parts.ravel(), minlength=1)[1:]
    )


def boxes_of_objects(truth: Truth) -> list[Places]:
    """Each image's boxes: those that the truth holds, or else those around its mask's connected parts."""
    around: list[Places] = [boxes_of(image).places for image in truth.mask.cpu()]
    if truth.boxes is None:
        return around
    top_to_bottom_left_to_right = truth.boxes[..., [1, 3, 0, 2]].unflatten(2, (2, 2)).cpu().double().numpy()
    told = [each[np.isfinite(each).all((1, 2))] for each in top_to_bottom_left_to_right]
    return [own if len(own) else parts for own, parts in zip(told, around, strict=True)]


def overlaps(first: Places, second: Places) -> np.ndarray:
    """Intersection over union of each pair of boxes, (n, m)."""
    low = np.maximum(first[:, None, :, 0], second[None, :, :, 0])
    high = np.minimum(first[:, None, :, 1], second[None, :, :, 1])
    common = (high - low).clip(min=0).prod(2)
    volumes = [(each[..., 1] - each[..., 0]).prod(1) for each in (first, second)]
    return common / (volumes[0][:, None] + volumes[1][None] - common)
