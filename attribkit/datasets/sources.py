"""Images and masks in files and in memory."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from attribkit.core.errors import InvalidInput, UnreadableFile
from attribkit.datasets.sample import ImageSource, Mask, MaskSource, Size
from attribkit.io.preprocessing import read_image


@dataclass(frozen=True)
class PhotographFile(ImageSource):
    """An image in a file."""

    path: Path
    size: Size | None = None  # that its annotations are for

    def read(self) -> Image.Image:
        image = read_image(self.path)
        if self.size is not None and Size(image.height, image.width) != self.size:
            raise UnreadableFile(
                f"{str(self.path)!r} is {image.width}x{image.height} upright and its annotations are for "
                f"{self.size.width}x{self.size.height} (width x height): fetch the image that was annotated."
            )
        if self.size is not None and _turned_unseen(self.path):
            raise UnreadableFile(
                f"{str(self.path)!r} is stored turned, and whether its annotations are for the stored or for the "
                "upright image cannot be told: save it upright."
            )
        return image

    def stamp(self) -> str:
        return f"{self.path.name} of {self.path.stat().st_size if self.path.is_file() else 'no'} bytes"


@dataclass(frozen=True, eq=False)
class HeldImage(ImageSource):
    """An image in memory."""

    image: Image.Image

    def read(self) -> Image.Image:
        return self.image.convert("RGB")

    def stamp(self) -> str:
        return f"{self.image.mode} {self.image.size} {digest(self.image.tobytes())}"


@dataclass(frozen=True)
class CalledImage(ImageSource):
    """An image that a function without arguments makes; nothing tells it from others."""

    function: Callable[[], Image.Image]

    def read(self) -> Image.Image:
        return self.function().convert("RGB")

    def stamp(self) -> str:
        return "function"


@dataclass(frozen=True)
class DrawnMask(MaskSource):
    """An image in a file whose pixels are on the object where they are not 0."""

    path: Path

    def read(self) -> Mask:
        values = _pixels(self.path)
        if values.ndim != 2:
            raise UnreadableFile(f"{str(self.path)!r} has colours: save the mask in grey, 0 beside the object.")
        return values > 0

    def stamp(self) -> str:
        return digest(self.path.read_bytes()) if self.path.is_file() else "no file"


@dataclass(frozen=True)
class MaskFile(MaskSource):
    """An image in a file whose pixels are numbers of regions."""

    path: Path
    on: frozenset[int]  # the numbers that are the object
    known: frozenset[int]  # all that there may be

    def read(self) -> Mask:
        values = _pixels(self.path)
        strange = sorted(set(np.unique(values).tolist()) - self.known)
        if values.ndim != 2 or strange:
            raise UnreadableFile(
                f"{str(self.path)!r} is no mask of the numbers {sorted(self.known)}: shape {values.shape}, with "
                f"{strange[:5]}; fetch the file anew."
            )
        return np.isin(values, list(self.on))

    def stamp(self) -> str:
        return f"{digest(self.path.read_bytes()) if self.path.is_file() else 'no file'} {sorted(self.on)}"


@dataclass(frozen=True, eq=False)
class HeldMask(MaskSource):
    """A mask in memory."""

    mask: Mask

    def read(self) -> Mask:
        return self.mask

    def stamp(self) -> str:
        return f"{self.mask.shape} {digest(np.packbits(self.mask).tobytes())}"


def _pixels(path: Path) -> np.ndarray:
    """The numbers of a mask's file, as they are."""
    try:
        with Image.open(path) as file:
            return np.asarray(file)
    except FileNotFoundError as error:
        raise UnreadableFile(f"There is no mask {str(path)!r}: look at the path.") from error
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise UnreadableFile(f"{str(path)!r} is no mask that can be read: fetch the file anew.") from error


def _turned_unseen(path: Path) -> bool:
    """Whether EXIF data turn or mirror an image without a change of its size."""
    with Image.open(path) as file:
        orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
        swaps = orientation in (5, 6, 7, 8) and file.width != file.height
        return orientation != 1 and not swaps


def held_mask(mask: object, name: str) -> HeldMask:
    """An array or a tensor of booleans (h, w) as a mask; name: of the item that it belongs to."""
    values = np.asarray(mask)
    if values.ndim != 2 or values.dtype != bool:
        advice = "try mask > 0" if values.ndim == 2 else "give one plane, True on the object"
        raise InvalidInput(
            f"The mask of item {name!r} is {values.dtype} {values.shape}, and masks are boolean, (h, w): {advice}."
        )
    return HeldMask(values)


def digest(content: bytes) -> str:
    """A short fingerprint."""
    return hashlib.sha256(content).hexdigest()[:16]
