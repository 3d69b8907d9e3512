"""Samples of a data set: an image, its label and its annotations."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

BoxCorners = Float[np.ndarray, "n 4"]  # left, top, right, bottom edges in pixels; the image spans 0, 0, width, height
Mask = Bool[np.ndarray, "h w"]  # True on the object


class Size(NamedTuple):
    """The size of an image in pixels."""

    height: int
    width: int


class ImageSource(ABC):
    """Source of an image."""

    @abstractmethod
    def read(self) -> Image.Image:
        """Read the image.

        Returns:
            The image, upright, in RGB.

        Raises:
            UnreadableFile: If the image is missing or broken.
        """

    @abstractmethod
    def stamp(self) -> str:
        """Return text that identifies the image, without reading its pixels."""


class MaskSource(ABC):
    """Source of a mask."""

    @abstractmethod
    def read(self) -> Mask:
        """Read the mask.

        Returns:
            A boolean array in the size of the image, True on the object.

        Raises:
            UnreadableFile: If the mask is missing or broken.
        """

    @abstractmethod
    def stamp(self) -> str:
        """Return text that identifies the mask."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """An image with its label and annotations; several samples may share an image.

    The image and the mask are read on access of `image` and `mask`, which raise UnreadableFile.

    Args:
        id: Unique in the data set.
        group: The id of the image, common to all samples of that image.
        image_source: Source of the image.
        label: Class index of the model; None if unknown, in which case the predicted class is explained.
        boxes: Left, top, right and bottom edges in pixels, (n, 4); None if boxes are not annotated.
        mask_source: Source of the mask; None if masks are not annotated.
        category: The class to which the sample belongs in class means.
        subsets: Names of the subsets that the sample belongs to; they are reported in addition to the whole set.
        photograph: Size of the original image if the image was resized from it; None if it was not.
    """

    id: str
    group: str
    image_source: ImageSource
    label: int | None = None
    boxes: BoxCorners | None = None
    mask_source: MaskSource | None = None
    category: str | None = None
    subsets: frozenset[str] = frozenset()
    photograph: Size | None = None

    @property
    def image(self) -> Image.Image:
        """The image, upright, in RGB."""
        return self.image_source.read()

    @property
    def mask(self) -> Mask | None:
        """The mask, (h, w), True on the object; None if masks are not annotated."""
        return None if self.mask_source is None else self.mask_source.read()

    def stamp(self) -> str:
        """Return text that changes with the image, the label or an annotation."""
        fields = (self.id, self.group, self.label, self.category, sorted(self.subsets), self.photograph)
        boxes = None if self.boxes is None else self.boxes.tolist()
        return repr((fields, boxes, self.image_source.stamp(), self.mask_source and self.mask_source.stamp()))


def difficult_subset(area: float, image_area: int, categories: int) -> frozenset[str]:
    """Return the subset "difficult" if a target belongs to it: under a quarter of the image, with other categories.

    Args:
        area: Total area of the target's objects, in pixels.
        image_area: Area of the image, in pixels.
        categories: Number of categories in the image.

    Reference:
        Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016.
    """
    return frozenset({"difficult"} if area < image_area / 4 and categories > 1 else ())
