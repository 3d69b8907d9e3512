"""From a sample to what a model gets and a metric compares with."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.datasets.geometry import Seen, pixel_sides, seen_boxes, seen_mask
from attribkit.datasets.sample import Sample, Size
from attribkit.preprocessing import Preprocessing

_NOTHING_SEEN = "nothing of the object is in what the model sees: metrics that compare with its mask give NaN"


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """What the model gets of a sample, and the truth about it in the same pixels."""

    id: str
    group: str
    x: Float[Tensor, "c h w"]
    mask: (
        Bool[Tensor, "h w"] | None
    )  # the union of the boxes where no mask is drawn; None where there are no boxes either
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
    mask = _mask(sample, image, preprocessing)
    return Prepared(
        id=sample.id,
        group=sample.group,
        x=preprocessing(image),
        mask=mask,
        pixel=_pixel(sample, image, preprocessing),
        label=sample.label,
        category=sample.category,
        subsets=sample.subsets,
        notes=() if mask is None or bool(mask.any()) else (_NOTHING_SEEN,),
    )


def _mask(sample: Sample, image: Image.Image, preprocessing: Preprocessing) -> Seen | None:
    size = Size(image.height, image.width)
    mask = sample.mask
    if mask is not None and mask.shape != size:
        raise InvalidInput(f"The mask of {sample.id!r} is {mask.shape}, its image {tuple(size)} (height, width).")
    if mask is not None:
        return seen_mask(mask, preprocessing)
    return None if sample.boxes is None else seen_boxes(sample.boxes, size, preprocessing)


def _pixel(sample: Sample, image: Image.Image, preprocessing: Preprocessing) -> Float[Tensor, " 2"]:
    sides = pixel_sides(Size(image.height, image.width), preprocessing)
    if sample.photograph is None:
        return sides
    height, width = sample.photograph
    return sides * sides.new_tensor([height / image.height, width / image.width])
