"""Annotations of images as ground truth: masks and bounding boxes."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribkit._core.errors import InvalidInput
from attribkit._core.shapes import Masks
from attribkit._display.representations import short_repr

# Left, top, right and bottom edges in pixels; those of the image are 0, 0, w, h. Rows of NaN pad the shorter lists.
BoxEdges = Float[Tensor, "b n 4"]

_MASK_MESSAGE = "The mask of the object must be a torch.bool tensor of shape {}, got {}: {}."


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The location of the object in each image.

    Args:
        mask: Bool, (b, *space), True on the object. It has the size of the explained images, or that of the original
            photographs if these were only resized to give the images; heatmaps are then resized to the mask.
        pixel: Side lengths of a pixel of each mask in pixels of the photograph, (b, axes); None means 1.
        boxes: Bounding boxes in pixels of the mask, (b, n, 4), padded with rows of NaN. For images without boxes, the
            boxes around the connected parts of the mask are used.
    """

    mask: Masks
    pixel: Float[Tensor, "b axes"] | None = None
    boxes: BoxEdges | None = None

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, images: slice) -> "GroundTruth":
        """Return the ground truth of a slice of the images."""
        pixel, boxes = (None if each is None else each[images] for each in (self.pixel, self.boxes))
        return GroundTruth(self.mask[images], pixel, boxes)


def as_ground_truth(truth: Any, images: Tensor) -> GroundTruth:
    """Return a mask of the images, or a GroundTruth, as a validated GroundTruth.

    Args:
        truth: A bool tensor (b, *space) of the size of the images, or a GroundTruth, whose mask may have another size.
        images: The explained images, (b, c, *space).

    Raises:
        InvalidInput: The shape, type or device does not fit the images.
    """
    count, *space = len(images), *images.shape[2:]
    mask = truth.mask if isinstance(truth, GroundTruth) else truth
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim != 1 + len(space) or len(mask) != count:
        raise InvalidInput(_MASK_MESSAGE.format((count, *space), _format_mask(mask), _advice(mask, count, space)))
    if not isinstance(truth, GroundTruth) and list(mask.shape[1:]) != space:
        advice = (
            "if that is the size of photographs that were only resized, pass GroundTruth(mask), which resizes the "
            "heatmaps to the mask"
        )
        raise InvalidInput(_MASK_MESSAGE.format((count, *space), _format_mask(mask), advice))
    if mask.device != images.device:
        raise InvalidInput(
            f"The mask is on {mask.device}, but the scores are on {images.device}. Move them to the same device."
        )
    if not isinstance(truth, GroundTruth):
        return GroundTruth(mask)
    _check_pixel(truth.pixel, mask)
    _check_boxes(truth.boxes, mask)
    return truth


def filled_boxes(boxes: BoxEdges, height: int, width: int) -> Masks:
    """Return the union of each image's boxes as a mask.

    A pixel is inside a box if its centre is. A box that does not contain a pixel centre covers the pixels at its own
    centre.
    """
    left, top, right, bottom = boxes.unbind(-1)
    rows, columns = _pixels_inside(top, bottom, height), _pixels_inside(left, right, width)
    return (rows.float().mT @ columns.float()) > 0


def _pixels_inside(low: Float[Tensor, "b n"], high: Float[Tensor, "b n"], count: int) -> Bool[Tensor, "b n cells"]:
    """Return which pixels of a line are inside each interval from `low` to `high`."""
    pixels = torch.arange(count, device=low.device)
    centres = pixels + 0.5
    inside = (low[..., None] <= centres) & (centres < high[..., None])
    thin = ~inside.any(-1) & low.isfinite() & high.isfinite()
    middle = ((low + high) / 2).nan_to_num().floor().long().clamp(0, count - 1)
    return inside | (thin[..., None] & (pixels == middle[..., None]))


def _check_pixel(pixel: Any, mask: Tensor) -> None:
    if pixel is None:
        return
    expected = (len(mask), mask.ndim - 1)
    if not isinstance(pixel, Tensor) or pixel.shape != expected or pixel.device != mask.device:
        got = f"shape {tuple(pixel.shape)} on {pixel.device}" if isinstance(pixel, Tensor) else type(pixel).__name__
        raise InvalidInput(
            f"GroundTruth(pixel=...) must be a tensor of shape {expected} on the device of the mask, {mask.device}, "
            f"with the side lengths of a pixel of each mask; got {got}."
        )
    if not bool(((pixel > 0) & pixel.isfinite()).all()):
        raise InvalidInput("The side lengths in GroundTruth(pixel=...) must be finite and > 0.")


def _check_boxes(boxes: Any, mask: Tensor) -> None:
    if boxes is None:
        return
    fits = isinstance(boxes, Tensor) and boxes.ndim == 3 and boxes.is_floating_point() and boxes.device == mask.device
    if mask.ndim != 3 or not fits or (len(boxes), boxes.shape[2]) != (len(mask), 4):
        raise InvalidInput(
            f"GroundTruth(boxes=...) must be a floating-point tensor of shape ({len(mask)}, n, 4) on the device of the "
            "mask, with the left, top, right and bottom edges in pixels of a mask (b, h, w), padded with rows of NaN; "
            f"got {_format_mask(boxes)} for masks {tuple(mask.shape)}."
        )
    left, top, right, bottom = boxes.unbind(2)
    if not bool(((left <= right) & (top <= bottom) & boxes.isfinite().all(2) | boxes.isnan().all(2)).all()):
        raise InvalidInput(
            "GroundTruth(boxes=...) contains an invalid box. Each row must be (left, top, right, bottom) with left "
            "<= right and top <= bottom, or all NaN."
        )


def _advice(mask: Any, count: int, space: list[int]) -> str:
    """Return how to correct an invalid mask."""
    if not isinstance(mask, Tensor):
        return "try torch.as_tensor(mask)"
    if mask.ndim == 2 and mask.shape[1] == 4 and mask.is_floating_point():
        return "pass boxes as GroundTruth(mask, boxes=...)"
    if mask.ndim == 2 + len(space) and mask.shape[1] == 1:
        return "try mask[:, 0]"
    if mask.ndim != 1 + len(space) or len(mask) != count:
        return "pass one mask for each image, without a channel axis"
    return "try mask > 0"


def _format_mask(mask: Any) -> str:
    return f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
