"""Preprocessing of photographs and clips for a model, the inverse, and reading of image files.

Images with more than 8 bits per channel are converted to 8 bits by an intensity window.
"""

import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, functional, v2

from attribkit._core.errors import InvalidInput, UnreadableFile
from attribkit._core.pictures import middle_indices
from attribkit._core.shapes import Images, Picture, Pictures
from attribkit.io import _clips as clips
from attribkit.io._clips import Clip

IntensityWindow = tuple[int | float, int | float]  # values that become 0 and 255; others are clipped

_MAX_16_BITS = 2**16 - 1
_LIMIT_14_BITS = 2**14  # a 16-bit file with all values below it uses 14 bits or fewer
_ADVICE = (
    "specify the values that are mapped to black and white: read_image(path, window=(low, high)) or --window low,high"
)
_ANIMATED = ("GIF", "PNG", "WEBP")  # formats whose frames are a clip; other formats store previews or pages
_NOT_A_PHOTOGRAPH = (
    "is a clip, but the model expects photographs: save a single frame, or use a model for clips, such as "
    "torchvision:r3d_18."
)


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of photographs for a classifier: resize, crop the centre, scale to 0..1, normalise.

    Args:
        size: (height, width) of the model's images, in pixels.
        resize: Size before the crop: the shorter side, or (height, width), in pixels.
        mean: Mean of each channel, for values from 0 to 1; one or three channels.
        std: Standard deviation of each channel.
        interpolation: Name of a torchvision `InterpolationMode`.

    Example:
        >>> preprocessing = Preprocessing((224, 224), 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        >>> x = preprocessing(read_image("dog.jpg"))[None]  # (1, 3, 224, 224)
    """

    size: tuple[int, int]
    resize: int | tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        _check_normalisation(self.mean, self.std)
        _check_crop(self.resize, self.size)

    @classmethod
    def from_timm(cls, model: nn.Module) -> "Preprocessing":
        """Return the preprocessing of a timm model, from its configuration.

        Args:
            model: The model.

        Raises:
            InvalidInput: If its crop mode is not supported.
        """
        from timm.data import resolve_model_data_config  # imported here, since timm is slow to import

        config = resolve_model_data_config(model)
        height, width = config["input_size"][1:]
        if config["crop_mode"] not in ("center", "squash") or (config["crop_mode"] == "center" and height != width):
            raise InvalidInput(
                f"The model's configuration has crop_mode={config['crop_mode']!r} at {height}x{width}, which is not "
                "supported: preprocess the images yourself and call Explainer(model).attribute(x)."
            )
        scaled = tuple(math.floor(side / config["crop_pct"]) for side in (height, width))
        resize = scaled if config["crop_mode"] == "squash" else scaled[0]
        return cls((height, width), resize, tuple(config["mean"]), tuple(config["std"]), config["interpolation"])

    @classmethod
    def from_torchvision(cls, preset: Any) -> "Preprocessing":
        """Return the preprocessing of torchvision weights.

        Args:
            preset: The ``transforms()`` of the weights.
        """
        crop, resize = preset.crop_size[0], preset.resize_size[0]
        return cls((crop, crop), resize, tuple(preset.mean), tuple(preset.std), preset.interpolation.value)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the model's images, (c, h, w)."""
        return (len(self.mean), *self.size)

    @property
    def geometry(self) -> v2.Compose:
        """Return the transform that resizes and crops images, and boxes and masks of torchvision's ``tv_tensors``."""
        mode = InterpolationMode(self.interpolation)
        return v2.Compose([v2.Resize(self.resize, mode, antialias=True), v2.CenterCrop(self.size)])

    def picture(self, image: Image.Image) -> Picture:
        """Return the resized and cropped photograph, (h, w, 3).

        Args:
            image: The photograph.
        """
        return np.asarray(self.geometry(image).convert("RGB"))

    def photograph(self, image: Image.Image, max_side: int = 1024) -> Picture:
        """Return the region of the photograph that the model's image shows, at the resolution of the photograph.

        Args:
            image: The photograph.
            max_side: Largest side of the result in pixels; larger regions are reduced.

        Returns:
            The region, (height, width, 3), with the aspect ratio of the model's images.
        """
        scaled = self._resized(image.height, image.width)
        ratios = [full / side for full, side in zip((image.height, image.width), scaled, strict=True)]
        starts = [round((side - crop) / 2) for side, crop in zip(scaled, self.size, strict=True)]
        top, left = (start * ratio for start, ratio in zip(starts, ratios, strict=True))
        bottom, right = ((s + crop) * ratio for s, crop, ratio in zip(starts, self.size, ratios, strict=True))
        factor = min(max(ratios), max_side / max(self.size))
        tall, wide = (max(1, round(side * factor)) for side in self.size)
        box = (left, top, min(right, image.width), min(bottom, image.height))
        return np.asarray(image.convert("RGB").resize((wide, tall), Image.Resampling.BICUBIC, box))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of a photograph before the crop."""
        if not isinstance(self.resize, int):
            return self.resize
        short = min(height, width)
        return int(self.resize * height / short), int(self.resize * width / short)

    def __call__(self, image: Image.Image) -> Float[Tensor, "c h w"]:
        """Preprocess a photograph for the model.

        Args:
            image: The photograph.

        Returns:
            The normalised image, (c, h, w), float32.
        """
        cropped = self.geometry(image.convert("L" if len(self.mean) == 1 else "RGB"))
        values = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(self.mean, self.std)])
        return values(cropped).as_subclass(Tensor)

    def inverse(self, x: Images) -> list[Picture]:
        """Undo the normalisation.

        Args:
            x: Normalised images, (b, c, h, w).

        Returns:
            Pictures, (h, w, 3), uint8.
        """
        mean, std = (torch.tensor(each, device=x.device)[:, None, None] for each in (self.mean, self.std))
        pixels = (255 * (x * std + mean)).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        return list(pixels.expand(*pixels.shape[:3], 3).cpu().numpy())


@dataclass(frozen=True)
class ClipPreprocessing:
    """Preprocessing of clips for a classifier: choose frames evenly, resize, crop the centre, scale to 0..1, normalise.

    Frames are resized without antialiasing, as in torchvision's presets for video, whose accuracies depend on it.

    Args:
        frames: Number of frames of the model's clips.
        size: (height, width) of the model's clips, in pixels.
        resize: Size before the crop: the shorter side, or (height, width), in pixels.
        mean: Mean of each channel, for values from 0 to 1; one or three channels.
        std: Standard deviation of each channel.
        interpolation: Name of a torchvision `InterpolationMode`.
        rate: Frames per second of the training clips; None if it is not known.
    """

    frames: int
    size: tuple[int, int]
    resize: int | tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise InvalidInput(f"frames must be a positive integer, got {self.frames}.")
        _check_normalisation(self.mean, self.std)
        _check_crop(self.resize, self.size)

    @classmethod
    def from_torchvision(cls, weights: Any) -> "ClipPreprocessing":
        """Return the preprocessing of torchvision weights of a video model.

        Args:
            weights: The weights. Their ``transforms()`` define the sizes, their documentation the length of the clips.
        """
        preset, documentation = weights.transforms(), weights.meta["_docs"]
        length, rate = (re.search(rf"`{name}=([0-9.]+)`", documentation) for name in ("clip_len", "frame_rate"))
        frames = int(length[1]) if length else weights.meta["min_temporal_size"]
        sides = preset.resize_size
        resize = sides[0] if len(sides) == 1 else (sides[0], sides[1])
        size, mode = (preset.crop_size[0], preset.crop_size[1]), preset.interpolation.value
        return cls(frames, size, resize, tuple(preset.mean), tuple(preset.std), mode, float(rate[1]) if rate else None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the model's clips, (c, t, h, w)."""
        return (len(self.mean), self.frames, *self.size)

    def picture(self, clip: Clip) -> Pictures:
        """Return the chosen frames, resized and cropped, (t, h, w, 3).

        Args:
            clip: The clip.
        """
        return self._cropped(clip).movedim(1, -1).numpy()

    def __call__(self, clip: Clip) -> Float[Tensor, "c t h w"]:
        """Preprocess a clip for the model.

        Args:
            clip: The clip.

        Returns:
            The normalised clip, (c, t, h, w), float32.
        """
        frames = self._cropped(clip) if len(self.mean) == 3 else functional.rgb_to_grayscale(self._cropped(clip))
        values = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(self.mean, self.std)])
        return values(frames).movedim(0, 1).contiguous()

    def _cropped(self, clip: Clip) -> UInt8[Tensor, "t 3 h w"]:
        """Return the chosen frames, resized and cropped."""
        frames = torch.from_numpy(np.ascontiguousarray(clip.frames[middle_indices(len(clip.frames), self.frames)]))
        sides, mode = (
            [self.resize] if isinstance(self.resize, int) else self.resize,
            InterpolationMode(self.interpolation),
        )
        # The presets use version 1 of the transforms; version 2 rounds bytes differently.
        return functional.center_crop(functional.resize(frames.movedim(-1, 1), sides, mode, antialias=False), self.size)


def read_image(path: str | Path, window: IntensityWindow | None = None) -> Image.Image:
    """Read a photograph from a file: upright, in RGB, with transparency dropped as data loaders do.

    Args:
        path: Path of the file.
        window: Values that become black and white in a file with one channel of more than 8 bits, such as (0, 4095) for
            12 bits stored in 16; None means the full range of 16 bits.

    Returns:
        The image.

    Raises:
        InvalidInput: If the file is a clip, or the range of its values is not known.
        UnreadableFile: If the file cannot be read.
    """
    _check_window(window)
    try:
        with Path(path).open("rb") as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a large image that Pillow still reads
            image, stored = _decoded(opened, str(path))
    except FileNotFoundError as error:
        raise UnreadableFile(f"Image {str(path)!r} does not exist: check the path.") from error
    except InvalidInput:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableFile(
            f"{str(path)!r} is larger than Pillow allows ({error}): resize it, or increase PIL.Image.MAX_IMAGE_PIXELS "
            "if you trust the file."
        ) from error
    except Exception as error:  # decoders raise any kind of error for damaged files
        if Path(path).suffix.lower() in clips.VIDEO_SUFFIXES:
            raise InvalidInput(f"{str(path)!r} {_NOT_A_PHOTOGRAPH}") from error
        raise UnreadableFile(
            f"{str(path)!r} cannot be read as an image ({error}): check it in an image viewer."
        ) from error
    return _to_rgb(_to_eight_bits(image, stored, str(path), window), str(path))


def _check_window(window: IntensityWindow | None) -> None:
    """Raise InvalidInput unless the window is a pair of finite values, the lower one first."""
    if window is not None and not (len(window) == 2 and np.isfinite(window).all() and window[0] < window[1]):
        raise InvalidInput(f"window must be a pair of finite values (low, high) with low < high, got {window!r}.")


def _to_eight_bits(image: Image.Image, stored: str, path: str, window: IntensityWindow | None) -> Image.Image:
    """Convert an image to 8 bits per channel.

    The full range of 16 bits becomes 0 to 255, unless all values fit into 14 bits.

    Args:
        image: The image.
        stored: Storage of the pixels in the file, as Pillow's decoders name it.
        path: Path of the file, for messages.
        window: Values that become 0 and 255; None means the full range of 16 bits.

    Raises:
        InvalidInput: If the range of the values is not known and no window is given.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and "16" in stored):
        return _apply_window(_finite_values(image, path), window or _full_range(image, path))
    if image.mode in ("I", "F"):
        if window is None:
            raise InvalidInput(f"{path!r} has {image.mode!r} values of unknown range: {_ADVICE}.")
        return _apply_window(_finite_values(image, path), window)
    if ";16" in stored:  # Pillow keeps only the upper 8 bits
        _check_colour_range(image, path)
    if window is not None:
        raise InvalidInput(
            f"window applies to images with one channel of more than 8 bits, but {path!r} is read with 8 bits per "
            "channel: omit it."
        )
    return image


def _full_range(image: Image.Image, path: str) -> IntensityWindow:
    """Return the range of 16 bits; raise InvalidInput if the values use 14 bits or fewer."""
    most = int(np.asarray(image).max(initial=0))
    if 0 < most < _LIMIT_14_BITS:
        raise InvalidInput(
            f"{path!r} has values up to {most} in 16 bits, so it uses 14 bits or fewer, or is very dark: {_ADVICE}, "
            f"such as 0,{2 ** most.bit_length() - 1}; 0,{_MAX_16_BITS} is the full range of 16 bits."
        )
    return 0, _MAX_16_BITS


def _check_colour_range(image: Image.Image, path: str) -> None:
    """Raise InvalidInput for 16-bit colours that use few bits, since they would be nearly black."""
    colours = np.asarray(image)[..., : 1 if image.mode == "LA" else 3]
    most = int(colours.max(initial=0))
    if 0 < most < _LIMIT_14_BITS >> 8:
        raise InvalidInput(
            f"{path!r} is a 16-bit colour image with all values below {_LIMIT_14_BITS}, so it would look nearly "
            "black: rescale its range of values to 8 bits per channel."
        )


def _finite_values(image: Image.Image, path: str) -> np.ndarray:
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise InvalidInput(f"{path!r} has NaN or infinite values: replace them first.")
    return values


def _apply_window(values: np.ndarray, window: IntensityWindow) -> Image.Image:
    low, high = window
    fraction = ((values - low) / (high - low)).clip(0, 1)
    return Image.fromarray((255 * fraction + 1e-9).astype(np.uint8))  # rounded down, like 65535 // 257


def _decoded(opened: BinaryIO, path: str) -> tuple[Image.Image, str]:
    """Return the image in an open file, upright, and the storage of its pixels.

    Given a path, Pillow would map raw TIFFs into memory and rotate them wrongly.
    """
    with Image.open(opened) as file:
        if file.format in _ANIMATED and getattr(file, "is_animated", False):
            raise InvalidInput(f"{path!r} {_NOT_A_PHOTOGRAPH}")
        stored = " ".join(str(tile[3]) for tile in file.tile)  # must be read before decoding
        return ImageOps.exif_transpose(file), stored


def _to_rgb(image: Image.Image, path: str) -> Image.Image:
    """Convert an image to RGB."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # avoids a warning of Pillow
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise InvalidInput(
            f"{path!r} has the unsupported colour mode {image.mode!r} ({error}): convert it to RGB."
        ) from error


def _check_normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    if len(mean) != len(std) or len(mean) not in (1, 3) or min(std) <= 0:
        raise InvalidInput(
            f"mean and std must have a number for each of 1 or 3 channels, std above 0; got mean={mean}, std={std}."
        )


def _check_crop(resize: int | tuple[int, int], size: tuple[int, int]) -> None:
    sides = (resize, resize) if isinstance(resize, int) else resize
    if any(side < crop for side, crop in zip(sides, size, strict=True)):
        raise InvalidInput(
            f"resize must be at least the crop size {size}, got {resize}: the crop would have a black border."
        )
