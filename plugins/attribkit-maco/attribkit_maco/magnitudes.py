"""Magnitude spectra: of real images, and a typical one of photographs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from attribkit import Fingerprinted, InvalidInput, track

from .colours import ColourSpace

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_BATCH = 16  # images whose spectra are computed at a time
_DECAY = 1.2  # exponent of the amplitude spectrum of natural images
_DEVIATION = 1.33  # of the latent pixels of natural images
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True, eq=False, repr=False)
class RealImages(Fingerprinted):
    """Real images as an option, for the mean magnitude of their spectra: (n, c, h, w), normalised as for the model."""


def magnitude_spectrum(images: Tensor) -> Tensor:
    """Return the mean over images of the magnitudes of their Fourier spectra.

    Args:
        images: Images of any values, (n, c, h, w), in floating point.

    Returns:
        The mean of the magnitudes of `torch.fft.rfft2`, (c, h, w // 2 + 1), in float32 or finer: frequency zero is
        first, as in NumPy's `rfft2`.

    Raises:
        InvalidInput: If the images have another number of axes, are not floating point or not finite, or if there are
            none.
    """
    if images.ndim != 4 or not images.numel() or not images.is_floating_point():
        raise InvalidInput(
            f"A magnitude spectrum needs floating-point images of shape (n, c, h, w), got {images.dtype} of shape "
            f"{tuple(images.shape)}: stack the images, and divide bytes by 255."
        )
    if not bool(images.isfinite().all()):
        raise InvalidInput("A magnitude spectrum needs finite images, got NaN or infinite values: remove these images.")
    precise = images.to(torch.promote_types(images.dtype, torch.float32))
    total = sum((torch.fft.rfft2(batch).abs().sum(0) for batch in precise.split(_BATCH)), precise.new_zeros(()))
    return total / len(images)


def natural_spectrum(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return magnitudes that fall with the frequency f as 1/f^1.2, zero at frequency zero.

    Decay and contrast are those of photographs: Tolhurst et al. found a mean exponent of 1.2 for amplitude spectra. The
    pixels of the image have a standard deviation of 1.33, that of photographs in decorrelated colours before the
    sigmoid (the README states how it was measured).

    Args:
        shape: Shape of the image, (c, h, w); the spectra of all channels are equal.
        like: Determines device and dtype.

    Returns:
        Magnitudes, (c, h, w // 2 + 1).

    Reference:
        Tolhurst, Tadmor and Chao, Amplitude spectra of natural images, Ophthalmic and Physiological Optics 1992.
    """
    channels, height, width = shape
    rows = torch.fft.fftfreq(height, device=like.device, dtype=like.dtype)[:, None]
    columns = torch.fft.rfftfreq(width, device=like.device, dtype=like.dtype)
    frequency = (rows.square() + columns.square()).sqrt()
    frequency[0, 0] = torch.inf
    magnitude = frequency**-_DECAY
    times = magnitude.new_full((width // 2 + 1,), 2.0)  # in the full spectrum, where other columns have a mirror image
    times[0] = 1.0
    if width % 2 == 0:
        times[-1] = 1.0
    energy = (magnitude.square() * times).sum()  # Parseval: h w times the sum of the squared pixels
    scale = _DEVIATION * height * width / energy.clamp(min=torch.finfo(energy.dtype).tiny).sqrt()
    return (magnitude * scale).expand(channels, -1, -1)


def spectrum_of_real_images(images: RealImages | Tensor | str, blank: Tensor, space: ColourSpace) -> Tensor:
    """Return the mean magnitude spectrum of the latent images of real images, resized to the size of `blank`.

    Args:
        images: The images, or the path of a folder or of one file.
        blank: Zeros with the shape, device and dtype of the generated images, (m, c, h, w).
        space: The latent space.

    Returns:
        Magnitudes, (c, h, w // 2 + 1), in float32 or finer.

    Raises:
        InvalidInput: If the images do not fit the model, or cannot be read.
    """
    if isinstance(images, str):
        batches = _read(images, blank, space)
    else:
        batches = _resized(images.tensor if isinstance(images, RealImages) else images, blank)
    total, count = blank.new_zeros((), dtype=torch.promote_types(blank.dtype, torch.float32)), 0
    for batch in batches:
        total = total + magnitude_spectrum(space.latent(batch)) * len(batch)
        count += len(batch)
    return total / count


def _resized(images: Tensor, blank: Tensor) -> Iterator[Tensor]:
    """Yield batches of images in the size, dtype and device of the generated ones."""
    if images.ndim != 4 or images.shape[1] != blank.shape[1] or not images.numel() or not images.is_floating_point():
        raise InvalidInput(
            f"spectrum must contain floating-point images of shape (n, {blank.shape[1]}, h, w), normalised as the "
            f"model expects, got {images.dtype} of shape {tuple(images.shape)}."
        )
    dtype = torch.promote_types(blank.dtype, torch.float32)
    for batch in images.split(_BATCH):
        precise = batch.to(device=blank.device, dtype=dtype)
        if precise.shape[2:] != blank.shape[2:]:
            precise = F.interpolate(precise, tuple(blank.shape[2:]), mode="bicubic", antialias=True)
        yield precise


def _read(path: str, blank: Tensor, space: ColourSpace) -> Iterator[Tensor]:
    """Yield batches of the image files at a path, cropped to the shape of the generated images and resized."""
    channels, height, width = blank.shape[1:]
    if space.mean is None:
        raise InvalidInput(
            f"spectrum={path!r} needs the model's mean and std, which are unknown: use Explainer(model, "
            "spec=ModelSpec(mean=..., std=...)), or pass a tensor of images that are normalised as the model expects."
        )
    if channels not in _MODES:
        raise InvalidInput(
            f"spectrum={path!r}: image files have 1 or 3 channels, but the model expects {channels}: pass a tensor of "
            f"images, (n, {channels}, h, w)."
        )
    files = _image_files(Path(path))
    pixels = _reader(_MODES[channels], (width, height))
    for start in track(range(0, len(files), _BATCH), "spectrum"):
        batch = torch.stack([pixels(file) for file in files[start : start + _BATCH]])
        yield space.normalised(batch.to(device=blank.device, dtype=torch.promote_types(blank.dtype, torch.float32)))


def _image_files(path: Path) -> list[Path]:
    """Return a file, or the image files of a folder and its subfolders in the order of their names."""
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise InvalidInput(
            f"spectrum={str(path)!r} must be an image file or a folder with image files ({', '.join(_SUFFIXES)}), but "
            "none was found there."
        )
    return files


def _reader(mode: str, size: tuple[int, int]) -> Callable[[Path], Tensor]:
    """Return a function that reads a file as pixels from 0 to 1, (c, h, w)."""

    def read(file: Path) -> Tensor:
        try:
            with Image.open(file) as opened:
                image = ImageOps.fit(opened.convert(mode), size, Image.Resampling.BICUBIC)
        except (OSError, UnidentifiedImageError, ValueError) as error:
            raise InvalidInput(
                f"spectrum: the image file {str(file)!r} cannot be read ({error}): remove it."
            ) from error
        values = np.asarray(image, dtype=np.float32).reshape(size[1], size[0], -1)
        return torch.from_numpy(values / 255).movedim(-1, 0)

    return read
