"""Sources of images and masks: files, arrays and functions."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from attribkit._contracts.dataset import ImageSource, Mask, MaskSource, Size
from attribkit._core.errors import InvalidInput, UnreadableFile
from attribkit.io._preprocessing import read_image


@dataclass(frozen=True)
class ImageFile(ImageSource):
    """An image in a file."""

    path: Path
    size: Size | None = None  # stated by the annotations; None disables the check

    def read(self) -> Image.Image:
        image = read_image(self.path)
        if self.size is not None and Size(image.height, image.width) != self.size:
            raise UnreadableFile(
                f"The image {str(self.path)!r} is {image.width}x{image.height} upright, but its annotations are for "
                f"{self.size.width}x{self.size.height} (width x height): use the image that was annotated."
            )
        if self.size is not None and _has_ambiguous_rotation(self.path):
            raise UnreadableFile(
                f"The image {str(self.path)!r} is stored rotated by its EXIF data, and its annotations may be for the "
                "stored or for the upright image: save it upright."
            )
        return image

    def stamp(self) -> str:
        return f"{self.path.name} of {self.path.stat().st_size if self.path.is_file() else 'no'} bytes"


@dataclass(frozen=True, eq=False)
class InMemoryImage(ImageSource):
    """An image in memory."""

    image: Image.Image

    def read(self) -> Image.Image:
        return self.image.convert("RGB")

    def stamp(self) -> str:
        return f"{self.image.mode} {self.image.size} {digest(self.image.tobytes())}"


@dataclass(frozen=True)
class ImageFunction(ImageSource):
    """An image that a function without arguments returns; its stamp is the name of its group."""

    function: Callable[[], Image.Image]
    group: str

    def read(self) -> Image.Image:
        return self.function().convert("RGB")

    def stamp(self) -> str:
        return f"function of {self.group}"


@dataclass(frozen=True)
class BinaryMaskFile(MaskSource):
    """A greyscale image file whose nonzero pixels are on the object."""

    path: Path

    def read(self) -> Mask:
        values = _read_pixels(self.path)
        if values.ndim != 2:
            raise UnreadableFile(
                f"The mask {str(self.path)!r} must be a greyscale image, got an array of shape {values.shape}: save it "
                "with one channel, 0 on the background."
            )
        return values > 0

    def stamp(self) -> str:
        return digest(self.path.read_bytes()) if self.path.is_file() else "no file"


@dataclass(frozen=True)
class IndexedMaskFile(MaskSource):
    """An image file whose pixel values are indices of regions."""

    path: Path
    foreground: frozenset[int]  # the values of the object
    valid: frozenset[int]  # all values that may occur

    def read(self) -> Mask:
        values = _read_pixels(self.path)
        invalid = sorted(set(np.unique(values).tolist()) - self.valid)
        if values.ndim != 2 or invalid:
            raise UnreadableFile(
                f"The mask {str(self.path)!r} must have one channel with the values {sorted(self.valid)}, got shape "
                f"{values.shape} and the values {invalid[:5]}: download the file again."
            )
        return np.isin(values, list(self.foreground))

    def stamp(self) -> str:
        return f"{digest(self.path.read_bytes()) if self.path.is_file() else 'no file'} {sorted(self.foreground)}"


@dataclass(frozen=True, eq=False)
class InMemoryMask(MaskSource):
    """A mask in memory."""

    mask: Mask

    def read(self) -> Mask:
        return self.mask

    def stamp(self) -> str:
        return f"{self.mask.shape} {digest(np.packbits(self.mask).tobytes())}"


def mask_from_array(mask: object, name: str) -> InMemoryMask:
    """Wrap an array or a tensor of booleans, (h, w), as a mask; messages mention the name."""
    values = np.asarray(mask)
    if values.ndim != 2 or values.dtype != bool:
        advice = "try mask > 0" if values.ndim == 2 else "pass a single channel, True on the object"
        raise InvalidInput(
            f"The mask of item {name!r} must be boolean with shape (h, w), got {values.dtype} {values.shape}: {advice}."
        )
    return InMemoryMask(values)


def digest(content: bytes) -> str:
    """Return a short hash."""
    return hashlib.sha256(content).hexdigest()[:16]


def _read_pixels(path: Path) -> np.ndarray:
    """Read the pixel values of a mask file, without conversion."""
    try:
        with Image.open(path) as file:
            return np.asarray(file)
    except FileNotFoundError as error:
        raise UnreadableFile(f"The mask {str(path)!r} does not exist: check the path.") from error
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise UnreadableFile(f"The mask {str(path)!r} cannot be read: download the file again.") from error


def _has_ambiguous_rotation(path: Path) -> bool:
    """Return whether EXIF data rotate or mirror an image without a change of its size."""
    with Image.open(path) as file:
        orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
        swaps_sides = orientation in (5, 6, 7, 8) and file.width != file.height
        return orientation != 1 and not swaps_sides
