"""Boxes and masks in the pixels that the model sees."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from attribkit.datasets.sample import Corners, Mask, Size
from attribkit.preprocessing import Preprocessing

Seen = Bool[Tensor, "rows columns"]  # True on the object, in the pixels that the model sees


def pixel_sides(size: Size, preprocessing: Preprocessing) -> Float[Tensor, " 2"]:
    """Height and width of a pixel that the model sees, in pixels of an image of this size."""
    resize = preprocessing.geometry.transforms[0]
    resized = resize(_tracked(np.array([[0.0, 0.0, size.width, size.height]]), size)).canvas_size
    return torch.tensor(size) / torch.tensor(resized)


def seen_boxes(boxes: Corners, size: Size, preprocessing: Preprocessing) -> Seen:
    """The union of boxes of an image of this size.

    A pixel is on a box if its centre is; a box too thin for that has the pixels under its own middle.
    """
    moved = preprocessing.geometry(_tracked(boxes, size)).as_subclass(Tensor)
    left, top, right, bottom = moved[(moved[:, 2:] > moved[:, :2]).all(1)].T
    height, width = preprocessing.size
    rows, columns = _under(top, bottom, height), _under(left, right, width)
    return (rows.float().T @ columns.float()) > 0


def seen_mask(mask: Mask, preprocessing: Preprocessing) -> Seen:
    """A mask, through the same resampling as its image.

    A pixel is on the object if half of it is; an object too small for that has the pixels under those of its mask.
    """
    photograph = Image.fromarray(mask.astype(np.uint8) * 255)
    seen = torch.from_numpy(np.asarray(preprocessing.geometry(photograph)) >= 128)
    if seen.any() or not mask.any():
        return seen
    rows, columns = np.nonzero(mask)
    pixels = np.stack([columns, rows, columns + 1, rows + 1], axis=1).astype(np.float64)
    return seen_boxes(pixels, Size(*mask.shape), preprocessing)


def _under(low: Float[Tensor, " n"], high: Float[Tensor, " n"], count: int) -> Bool[Tensor, "n cells"]:
    """Which of a row of pixels lie under spans."""
    centres = torch.arange(count, dtype=low.dtype) + 0.5
    under = (low[:, None] <= centres) & (centres < high[:, None])
    thin = ~under.any(1)
    middle = ((low + high) / 2).floor().long().clamp(0, count - 1)
    return under | (thin[:, None] & (torch.arange(count) == middle[:, None]))


def _tracked(boxes: Corners, size: Size) -> tv_tensors.BoundingBoxes:
    """Boxes that torchvision's transforms move, cut at the image's border."""
    inside = np.clip(boxes, 0, [size.width, size.height] * 2)
    return tv_tensors.BoundingBoxes(torch.from_numpy(inside), format="XYXY", canvas_size=tuple(size))
