"""Samples as models see them: the image and its annotations after resizing and cropping."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from attribkit._contracts.dataset import BoxCorners, Mask, Sample, Size
from attribkit._core.errors import InvalidInput
from attribkit._core.ground_truth import filled_boxes
from attribkit._display.representations import short_repr
from attribkit.io._preprocessing import Preprocessing

InputMask = Bool[Tensor, "rows columns"]  # True on the object, in pixels of the model's input
InputBoxes = Float[Tensor, "visible 4"]  # left, top, right, bottom edges in pixels of the model's input

_CROPPED_AWAY = "the object is outside the model's input: metrics that compare with its mask give NaN"


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """A sample after preprocessing: the model's input, with the annotations in the same pixels.

    Args:
        id: As in `Sample`.
        group: As in `Sample`.
        x: The model's input, (c, h, w).
        mask: True on the object, (h, w): the annotated mask, or else the union of the boxes; None if neither is
            annotated.
        boxes: Left, top, right and bottom edges, (n, 4); None if boxes are not annotated.
        pixel: Height and width of a pixel of `x`, in pixels of the original image, (2,).
        label: As in `Sample`.
        category: As in `Sample`.
        subsets: As in `Sample`.
        notes: Warnings about this sample.
    """

    id: str
    group: str
    x: Float[Tensor, "c h w"]
    mask: InputMask | None
    boxes: InputBoxes | None
    pixel: Float[Tensor, " 2"]
    label: int | None
    category: str | None
    subsets: frozenset[str]
    notes: tuple[str, ...] = ()

    __repr__ = short_repr


def prepare_sample(sample: Sample, preprocessing: Any) -> Prepared:
    """Apply the model's resizing and cropping to the image of a sample and to its mask or boxes.

    Args:
        sample: A sample of a data set.
        preprocessing: The preprocessing of the model, as `load_model` returns it.

    Returns:
        The model's input and the annotations in its pixels.

    Raises:
        UnreadableFile: If the image or the mask cannot be read.
        InvalidInput: If the preprocessing is not for images, or the mask does not have the size of the image.
    """
    if not isinstance(preprocessing, Preprocessing):
        raise InvalidInput(
            f"Data sets contain images, but the preprocessing {preprocessing!r} does not accept images: choose "
            "another model."
        )
    image = sample.image
    boxes = _prepare_boxes(sample, image, preprocessing)
    mask = _prepare_mask(sample, image, boxes, preprocessing)
    return Prepared(
        id=sample.id,
        group=sample.group,
        x=preprocessing(image),
        mask=mask,
        boxes=boxes,
        pixel=_prepare_pixel(sample, image, preprocessing),
        label=sample.label,
        category=sample.category,
        subsets=sample.subsets,
        notes=() if mask is None or bool(mask.any()) else (_CROPPED_AWAY,),
    )


def pixel_sides(size: Size, preprocessing: Preprocessing) -> Float[Tensor, " 2"]:
    """Return height and width of a pixel of the model's input, in pixels of an image of this size."""
    resize = preprocessing.geometry.transforms[0]
    resized = resize(_as_tv_boxes(np.array([[0.0, 0.0, size.width, size.height]]), size)).canvas_size
    return torch.tensor(size, dtype=torch.float32, device="cpu") / torch.tensor(
        resized, dtype=torch.float32, device="cpu"
    )


def transform_boxes(boxes: BoxCorners, size: Size, preprocessing: Preprocessing) -> InputBoxes:
    """Transform the boxes of an image of this size; boxes outside the model's input are left out."""
    transformed = preprocessing.geometry(_as_tv_boxes(boxes, size)).as_subclass(Tensor)
    return transformed[(transformed[:, 2:] > transformed[:, :2]).all(1)]


def transform_mask(mask: Mask, preprocessing: Preprocessing) -> InputMask:
    """Transform a mask by the same resampling as its image.

    A pixel is on the object if at least half of it is covered. If this removes a small object entirely, the pixels at
    the positions of its mask are kept.
    """
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    transformed = torch.from_numpy(np.asarray(preprocessing.geometry(image)) >= 128)
    if transformed.any() or not mask.any():
        return transformed
    rows, columns = np.nonzero(mask)
    pixels = np.stack([columns, rows, columns + 1, rows + 1], axis=1).astype(np.float64)
    return filled_boxes(transform_boxes(pixels, Size(*mask.shape), preprocessing)[None], *preprocessing.size)[0]


def _as_tv_boxes(boxes: BoxCorners, size: Size) -> tv_tensors.BoundingBoxes:
    """Convert boxes for torchvision's transforms, clipped to the image."""
    clipped = np.clip(boxes, 0, [size.width, size.height] * 2)
    return tv_tensors.BoundingBoxes(torch.from_numpy(clipped), format="XYXY", canvas_size=tuple(size))


def _prepare_boxes(sample: Sample, image: Image.Image, preprocessing: Preprocessing) -> InputBoxes | None:
    if sample.boxes is None:
        return None
    return transform_boxes(sample.boxes, Size(image.height, image.width), preprocessing)


def _prepare_mask(
    sample: Sample, image: Image.Image, boxes: InputBoxes | None, preprocessing: Preprocessing
) -> InputMask | None:
    mask = sample.mask
    if mask is None:
        return None if boxes is None else filled_boxes(boxes[None], *preprocessing.size)[0]
    if mask.shape != (image.height, image.width):
        raise InvalidInput(
            f"The mask of {sample.id!r} must have the size of its image, (height, width) = "
            f"{(image.height, image.width)}, got {mask.shape}."
        )
    return transform_mask(mask, preprocessing)


def _prepare_pixel(sample: Sample, image: Image.Image, preprocessing: Preprocessing) -> Float[Tensor, " 2"]:
    sides = pixel_sides(Size(image.height, image.width), preprocessing)
    if sample.photograph is None:
        return sides
    height, width = sample.photograph
    return sides * sides.new_tensor([height / image.height, width / image.width])
