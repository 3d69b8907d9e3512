"""Boxes and masks in the pixels that the model sees."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from attribkit.core.boxes import filled
from attribkit.datasets.sample import Corners, Mask, Size
from attribkit.preprocessing import Preprocessing

SeenMask = Bool[Tensor, "rows columns"]  # True on the object, in the pixels that the model sees
SeenBoxes = Float[Tensor, "seen 4"]  # left, top, right, bottom edges in those pixels


def pixel_sides(size: Size, preprocessing: Preprocessing) -> Float[Tensor, " 2"]:
    """Height and width of a pixel that the model sees, in pixels of an image of this size."""
    resize = preprocessing.geometry.transforms[0]
    resized = resize(_tracked(np.array([[0.0, 0.0, size.width, size.height]]), size)).canvas_size
    return torch.tensor(size, dtype=torch.float32, device="cpu") / torch.tensor(
        resized, dtype=torch.float32, device="cpu"
    )


def seen_boxes(boxes: Corners, size: Size, preprocessing: Preprocessing) -> SeenBoxes:
    """What the model sees of the boxes of an image of this size, in its own pixels; those beside it are left out."""
    moved = preprocessing.geometry(_tracked(boxes, size)).as_subclass(Tensor)
    return moved[(moved[:, 2:] > moved[:, :2]).all(1)]


def seen_mask(mask: Mask, preprocessing: Preprocessing) -> SeenMask:
    """A mask, through the same resampling as its image.

    A pixel is on the object if half of it is; an object too small for that has the pixels under those of its mask.
    """
    photograph = Image.fromarray(mask.astype(np.uint8) * 255)
    seen = torch.from_numpy(np.asarray(preprocessing.geometry(photograph)) >= 128)
    if seen.any() or not mask.any():
        return seen
    rows, columns = np.nonzero(mask)
    pixels = np.stack([columns, rows, columns + 1, rows + 1], axis=1).astype(np.float64)
    return filled(seen_boxes(pixels, Size(*mask.shape), preprocessing)[None], *preprocessing.size)[0]


def _tracked(boxes: Corners, size: Size) -> tv_tensors.BoundingBoxes:
    """Boxes that torchvision's transforms move, cut at the image's border."""
    inside = np.clip(boxes, 0, [size.width, size.height] * 2)
    return tv_tensors.BoundingBoxes(torch.from_numpy(inside), format="XYXY", canvas_size=tuple(size))
