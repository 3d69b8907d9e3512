"""[datasets/geometry] Boxes and masks in the pixels that the model sees.
[datasets/prepared] From a sample to what a model gets and a metric compares with.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from attribkit.core.errors import InvalidInput
from attribkit.core.ground_truth import filled_boxes
from attribkit.datasets.sample import BoxCorners, Mask, Sample, Size
from attribkit.io.preprocessing import Preprocessing

SeenMask = Bool[Tensor, "rows columns"]  # True on the object, in the pixels that the model sees
SeenBoxes = Float[Tensor, "seen 4"]  # left, top, right, bottom edges in those pixels


def pixel_sides(size: Size, preprocessing: Preprocessing) -> Float[Tensor, " 2"]:
    """Height and width of a pixel that the model sees, in pixels of an image of this size."""
    resize = preprocessing.geometry.transforms[0]
    resized = resize(_tracked(np.array([[0.0, 0.0, size.width, size.height]]), size)).canvas_size
    return torch.tensor(size, dtype=torch.float32, device="cpu") / torch.tensor(
        resized, dtype=torch.float32, device="cpu"
    )


def seen_boxes(boxes: BoxCorners, size: Size, preprocessing: Preprocessing) -> SeenBoxes:
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
    return filled_boxes(seen_boxes(pixels, Size(*mask.shape), preprocessing)[None], *preprocessing.size)[0]


def _tracked(boxes: BoxCorners, size: Size) -> tv_tensors.BoundingBoxes:
    """Boxes that torchvision's transforms move, cut at the image's border."""
    inside = np.clip(boxes, 0, [size.width, size.height] * 2)
    return tv_tensors.BoundingBoxes(torch.from_numpy(inside), format="XYXY", canvas_size=tuple(size))


_NOTHING_SEEN = "nothing of the object is in what the model sees: metrics that compare with its mask give NaN"


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """What the model gets of a sample, and the truth about it in the same pixels."""

    id: str
    group: str
    x: Float[Tensor, "c h w"]
    mask: SeenMask | None  # the union of the boxes where none is drawn; None where there are none either
    boxes: SeenBoxes | None  # None where nobody told
    pixel: Float[Tensor, " 2"]  # height and width of a pixel of x, in pixels of the photograph
    label: int | None
    category: str | None
    subsets: frozenset[str]
    notes: tuple[str, ...] = ()  # what a careful reader should know


def prepare_sample(sample: Sample, preprocessing: Any) -> Prepared:
    """Take a sample's image and its mask or boxes through the same resizing and cropping.

    preprocessing: as `load_model` gives it. Raises UnreadableFile where the image or the mask cannot be read.
    """
    if not isinstance(preprocessing, Preprocessing):
        raise InvalidInput(f"Data sets hold photographs, and {preprocessing!r} is for others: choose another model.")
    image = sample.image
    boxes = _boxes(sample, image, preprocessing)
    mask = _mask(sample, image, boxes, preprocessing)
    return Prepared(
        id=sample.id,
        group=sample.group,
        x=preprocessing(image),
        mask=mask,
        boxes=boxes,
        pixel=_pixel(sample, image, preprocessing),
        label=sample.label,
        category=sample.category,
        subsets=sample.subsets,
        notes=() if mask is None or bool(mask.any()) else (_NOTHING_SEEN,),
    )


def _boxes(sample: Sample, image: Image.Image, preprocessing: Preprocessing) -> SeenBoxes | None:
    if sample.boxes is None:
        return None
    return seen_boxes(sample.boxes, Size(image.height, image.width), preprocessing)


def _mask(sample: Sample, image: Image.Image, boxes: SeenBoxes | None, preprocessing: Preprocessing) -> SeenMask | None:
    mask = sample.mask
    if mask is None:
        return None if boxes is None else filled_boxes(boxes[None], *preprocessing.size)[0]
    if mask.shape != (image.height, image.width):
        raise InvalidInput(
            f"The mask of {sample.id!r} is {mask.shape}, its image {(image.height, image.width)} (height, width)."
        )
    return seen_mask(mask, preprocessing)


def _pixel(sample: Sample, image: Image.Image, preprocessing: Preprocessing) -> Float[Tensor, " 2"]:
    sides = pixel_sides(Size(image.height, image.width), preprocessing)
    if sample.photograph is None:
        return sides
    height, width = sample.photograph
    return sides * sides.new_tensor([height / image.height, width / image.width])
