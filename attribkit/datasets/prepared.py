"""From a sample to what a model gets and a metric compares with."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from attribkit.core.boxes import filled
from attribkit.core.errors import InvalidInput
from attribkit.datasets.geometry import SeenBoxes, SeenMask, pixel_sides, seen_boxes, seen_mask
from attribkit.datasets.sample import Sample, Size
from attribkit.preprocessing import Preprocessing

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


def prepare(sample: Sample, preprocessing: Any) -> Prepared:
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
        return None if boxes is None else filled(boxes[None], *preprocessing.size)[0]
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
