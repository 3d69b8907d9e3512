"""[datasets/sample] A sample: an image and what is asked about it.
[datasets/subsets] Parts of a data set that are reported beside the whole.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

BoxCorners = Float[np.ndarray, "n 4"]  # left, top, right, bottom edges in pixels of the image, whose own are 0, 0, w, h
Mask = Bool[np.ndarray, "h w"]  # True on the object


class Size(NamedTuple):
    """Of an image, in pixels."""

    height: int
    width: int


class ImageSource(ABC):
    """Where an image comes from."""

    @abstractmethod
    def read(self) -> Image.Image:
        """The image; raises UnreadableFile where there is none."""

    @abstractmethod
    def stamp(self) -> str:
        """Tells this image from others without reading it."""


class MaskSource(ABC):
    """Where a mask comes from."""

    @abstractmethod
    def read(self) -> Mask:
        """True on the object, in the size of the image; raises UnreadableFile where there is none."""

    @abstractmethod
    def stamp(self) -> str:
        """Tells this mask from others."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """An image and what is asked about it; several samples may share an image. Image and mask are read when asked for.

    Raises nothing itself; `image` and `mask` raise UnreadableFile.
    """

    id: str
    group: str  # the image's own id, which its samples share
    image_source: ImageSource
    label: int | None = None  # the model's class; None is not known, and the predicted class is explained
    boxes: BoxCorners | None = None
    mask_source: MaskSource | None = None
    category: str | None = None  # that class means are taken over
    subsets: frozenset[str] = frozenset()
    photograph: Size | None = None  # that the image was made from by resizing; None is the image itself

    @property
    def image(self) -> Image.Image:
        """Upright, in red, green and blue."""
        return self.image_source.read()

    @property
    def mask(self) -> Mask | None:
        """True on the object; None where no annotator drew one."""
        return None if self.mask_source is None else self.mask_source.read()

    def stamp(self) -> str:
        """Changes when the sample does."""
        told = (self.id, self.group, self.label, self.category, sorted(self.subsets), self.photograph)
        boxes = None if self.boxes is None else self.boxes.tolist()
        return repr((told, boxes, self.image_source.stamp(), self.mask_source and self.mask_source.stamp()))


def difficult(area: float, image_area: int, categories: int) -> frozenset[str]:
    """Zhang et al. (ECCV 2016): a target of less than a quarter of the image, and another category beside it.

    area: of the target's objects together, in pixels. categories: in the image.
    """
    return frozenset({"difficult"} if area < image_area / 4 and categories > 1 else ())
