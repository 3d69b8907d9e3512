"""The base classes for data sets and the samples in them: an image, its label and its annotations."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from attribkit._core.errors import InvalidInput
from attribkit._display.representations import short_repr

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

    __repr__ = short_repr

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


@dataclass(frozen=True)
class Dataset(ABC):
    """A sequence of annotated images.

    Subclass it as a frozen dataclass whose fields are the options, set `name` and `source`, and implement `read`.
    """

    name: ClassVar[str]  # as in make_dataset("coco")
    source: ClassVar[str]  # authors, venue, year
    expected_failures: ClassVar[Mapping[str, str]] = {}  # as for `Options`
    check_options: ClassVar[Mapping[str, Any]] = {}  # as for `Options`

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if cls.__repr__ is Dataset.__repr__:
            cls.__repr__ = Dataset.__repr__  # type: ignore[method-assign]  # so that dataclass keeps it

    __repr__ = short_repr

    @abstractmethod
    def read(self) -> Iterable[Sample]:
        """Read the annotations, not the images and masks.

        Returns:
            All samples, in a fixed order.

        Raises:
            UnreadableFile: If a folder or annotations are missing or broken.
        """

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """All samples, read once."""
        samples, ids = tuple(self.read()), set[str]()
        if not samples:
            raise InvalidInput(f"The data set {self!r} is empty: check its folder and its options.")
        for sample in samples:
            if sample.id in ids:
                raise InvalidInput(f"The data set {self.name!r} has two samples with the id {sample.id!r}.")
            ids.add(sample.id)
        return samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def ids(self) -> list[str]:
        """Return the ids of the samples, in order."""
        return [sample.id for sample in self.samples]

    def fingerprint(self) -> str:
        """Return a hash of the data set.

        It changes with a name, the size of an image file or an annotation, and not with the location of the folder.
        """
        digest = hashlib.sha256(self.name.encode())
        for sample in self.samples:
            digest.update(sample.stamp().encode())
        return digest.hexdigest()
