"""[core/boxes] Boxes on the pixels of images.
[core/truth] What an annotator says of images.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import Masks

BoxEdges = Float[Tensor, "b n 4"]  # left, top, right, bottom edges in pixels, whose own are 0, 0, w, h; NaN is no box


def filled_boxes(boxes: BoxEdges, height: int, width: int) -> Masks:
    """The union of each image's boxes.

    A pixel is on a box if its centre is; a box too thin for that has the pixels under its own middle.
    """
    left, top, right, bottom = boxes.unbind(-1)
    rows, columns = _under(top, bottom, height), _under(left, right, width)
    return (rows.float().mT @ columns.float()) > 0


def _under(low: Float[Tensor, "b n"], high: Float[Tensor, "b n"], count: int) -> Bool[Tensor, "b n cells"]:
    """Which of a row of pixels lie under spans."""
    places = torch.arange(count, device=low.device)
    centres = places + 0.5
    under = (low[..., None] <= centres) & (centres < high[..., None])
    thin = ~under.any(-1) & low.isfinite() & high.isfinite()
    middle = ((low + high) / 2).nan_to_num().floor().long().clamp(0, count - 1)
    return under | (thin[..., None] & (places == middle[..., None]))


_WANTED = "The metric compares with a mask, a torch.bool tensor {}, got {}: {}."


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Where the object is, and how large a pixel is.

    The mask has the size of the explained images, or of the photographs that they were made from by resizing alone:
    then heatmaps are resized to it.
    """

    mask: Masks  # True on the object
    pixel: Float[Tensor, "b axes"] | None = None  # sides of a pixel of the mask in pixels of the photograph; None is 1
    boxes: BoxEdges | None = None  # in pixels of the mask; an image without any has those around its mask's parts

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, images: slice) -> "GroundTruth":
        """The truth about some of the images."""
        pixel, boxes = (None if each is None else each[images] for each in (self.pixel, self.boxes))
        return GroundTruth(self.mask[images], pixel, boxes)


def as_ground_truth(told: Any, images: Tensor) -> GroundTruth:
    """A mask of these images, or a GroundTruth about them, checked.

    told: a bool tensor (b, *space) of the size of the images (b, c, *space), or a GroundTruth, whose mask may be of another
    size. Raises InvalidInput for any other shape, type or device.
    """
    count, *space = len(images), *images.shape[2:]
    mask = told.mask if isinstance(told, GroundTruth) else told
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim != 1 + len(space) or len(mask) != count:
        raise InvalidInput(_WANTED.format((count, *space), _told(mask), _advice(mask, count, space)))
    if not isinstance(told, GroundTruth) and list(mask.shape[1:]) != space:
        advice = (
            "where that is the size of photographs that were only resized, GroundTruth(mask) resizes the maps to it"
        )
        raise InvalidInput(_WANTED.format((count, *space), _told(mask), advice))
    if mask.device != images.device:
        raise InvalidInput(f"The mask is on {mask.device}, the scores on {images.device}: move one.")
    if not isinstance(told, GroundTruth):
        return GroundTruth(mask)
    _check_pixel(told.pixel, mask)
    _check_boxes(told.boxes, mask)
    return told


def _check_pixel(pixel: Any, mask: Tensor) -> None:
    if pixel is None:
        return
    wanted = (len(mask), mask.ndim - 1)
    if not isinstance(pixel, Tensor) or pixel.shape != wanted or pixel.device != mask.device:
        raise InvalidInput(
            f"GroundTruth(pixel=...) is a tensor {wanted} beside the mask, the sides of a pixel of each mask."
        )
    if not bool(((pixel > 0) & pixel.isfinite()).all()):
        raise InvalidInput("GroundTruth(pixel=...) has sides that are no lengths: each must be above 0, and finite.")


def _check_boxes(boxes: Any, mask: Tensor) -> None:
    if boxes is None:
        return
    fits = isinstance(boxes, Tensor) and boxes.ndim == 3 and boxes.is_floating_point() and boxes.device == mask.device
    if mask.ndim != 3 or not fits or (len(boxes), boxes.shape[2]) != (len(mask), 4):
        raise InvalidInput(
            f"GroundTruth(boxes=...) are ({len(mask)}, n, 4) floating numbers beside the masks of photographs: left, top, "
            f"right and bottom edges in pixels of the mask; fill up with NaN; got {_told(boxes)}."
        )
    left, top, right, bottom = boxes.unbind(2)
    if not bool(((left <= right) & (top <= bottom) & boxes.isfinite().all(2) | boxes.isnan().all(2)).all()):
        raise InvalidInput("GroundTruth(boxes=...) has one that is no box left, top, right, bottom, nor all NaN.")


def _advice(mask: Any, count: int, space: list[int]) -> str:
    """What to do about a mask that is none."""
    if not isinstance(mask, Tensor):
        return "try torch.as_tensor(mask)"
    if mask.ndim == 2 and mask.shape[1] == 4 and mask.is_floating_point():
        return "boxes are GroundTruth(mask, boxes=...)"
    if mask.ndim == 2 + len(space) and mask.shape[1] == 1:
        return "try mask[:, 0]"
    if mask.ndim != 1 + len(space) or len(mask) != count:
        return "give one for each image, without channels"
    return "try mask > 0"


def _told(mask: Any) -> str:
    return f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
