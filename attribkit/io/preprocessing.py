"""[bit_depths] Images of more than 8 bits a channel: which of their values become black and white.
[preprocessing] From a photograph or a clip to what a model expects, and back to a picture.
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

from attribkit.core.errors import InvalidInput, UnreadableFile
from attribkit.core.pictures import evenly
from attribkit.core.shapes import Images, Picture, Pictures
from attribkit.io import clips
from attribkit.io.clips import Clip

IntensityWindow = tuple[int | float, int | float]  # the values that become 0 and 255; what lies outside is clipped

_DEEP = 2**16 - 1
_SHALLOW = 2**14  # a file of 16 bits whose values all lie below holds 14 bits or fewer
_ADVICE = "give the values that are black and white, read_image(path, window=(low, high)) or --window low,high"


def check_window(window: IntensityWindow | None) -> None:
    """Refuse a window that is no pair of values, the lower one first."""
    if window is not None and not (len(window) == 2 and np.isfinite(window).all() and window[0] < window[1]):
        raise InvalidInput(f"window={window!r} is no pair of values (low, high), the lower one first.")


def eight_bits(image: Image.Image, stored: str, path: str, window: IntensityWindow | None) -> Image.Image:
    """An image in 8 bits a channel.

    stored: how the file holds its pixels, as Pillow's decoders name it. Of 16 bits the whole range is 0 to 255, unless
    none of the values needs more than 14 of them. Raises InvalidInput where the range is not known and none is given.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and "16" in stored):
        return _scaled(_finite(image, path), window or _whole_range(image, path))
    if image.mode in ("I", "F"):
        if window is None:
            raise InvalidInput(f"{path!r} holds {image.mode!r} values of unknown range: {_ADVICE}.")
        return _scaled(_finite(image, path), window)
    if ";16" in stored:  # of which Pillow keeps the upper 8 bits alone
        _refuse_few_bits(image, path)
    if window is not None:
        raise InvalidInput(f"{path!r} is read in 8 bits a channel: a window is for images of one channel of more.")
    return image


def _whole_range(image: Image.Image, path: str) -> IntensityWindow:
    """All of 16 bits, where the values use them."""
    most = int(np.asarray(image).max(initial=0))
    if 0 < most < _SHALLOW:
        raise InvalidInput(
            f"{path!r} holds values up to {most} in 16 bits, so it is of 14 bits or fewer, or very dark: {_ADVICE}, "
            f"such as 0,{2 ** most.bit_length() - 1}; 0,{_DEEP} takes it as it is."
        )
    return 0, _DEEP


def _refuse_few_bits(image: Image.Image, path: str) -> None:
    """Colours of 16 bits that use few of them would be nearly black."""
    colours = np.asarray(image)[..., : 1 if image.mode == "LA" else 3]
    most = int(colours.max(initial=0))
    if 0 < most < _SHALLOW >> 8:
        raise InvalidInput(
            f"{path!r} holds colours of 16 bits whose values lie below {_SHALLOW}, which would be nearly black: "
            "convert it to 8 bits a channel by the range that it has."
        )


def _finite(image: Image.Image, path: str) -> np.ndarray:
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise InvalidInput(f"{path!r} holds NaN or infinite values: replace them first.")
    return values


def _scaled(values: np.ndarray, window: IntensityWindow) -> Image.Image:
    low, high = window
    share = ((values - low) / (high - low)).clip(0, 1)
    return Image.fromarray((255 * share + 1e-9).astype(np.uint8))  # rounded down, as 65535 // 257 is


_ANIMATED = ("GIF", "PNG", "WEBP")  # whose frames are a clip; other formats keep previews or pages there
_NO_PHOTOGRAPH = (
    "is a clip, and this model explains photographs: save the frame that you mean, or give a model of clips, such as "
    "torchvision:r3d_18."
)


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop the centre, scale to 0..1, normalise: the four steps of every classifier's evaluation."""

    size: tuple[int, int]  # (height, width) of what the model sees, in pixels
    resize: int | tuple[int, int]  # before the crop: the shorter side, or (height, width), in pixels
    mean: tuple[float, ...]  # per channel, of values 0 to 1
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        _check_colours(self.mean, self.std)
        _check_crop(self.resize, self.size)

    @classmethod
    def of_timm(cls, model: nn.Module) -> "Preprocessing":
        """What a timm model's own configuration says."""
        from timm.data import resolve_model_data_config  # here, since timm is slow to import

        config = resolve_model_data_config(model)
        height, width = config["input_size"][1:]
        if config["crop_mode"] not in ("center", "squash") or (config["crop_mode"] == "center" and height != width):
            raise InvalidInput(
                f"The model's configuration asks for crop_mode={config['crop_mode']!r} at {height}x{width}, which is "
                "not supported: preprocess the images yourself and call Explainer(model).attribute(x)."
            )
        scaled = tuple(math.floor(side / config["crop_pct"]) for side in (height, width))
        resize = scaled if config["crop_mode"] == "squash" else scaled[0]
        return cls((height, width), resize, tuple(config["mean"]), tuple(config["std"]), config["interpolation"])

    @classmethod
    def of_torchvision(cls, preset: Any) -> "Preprocessing":
        """What the ``transforms()`` of torchvision weights say."""
        crop, resize = preset.crop_size[0], preset.resize_size[0]
        return cls((crop, crop), resize, tuple(preset.mean), tuple(preset.std), preset.interpolation.value)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what the model sees, (c, h, w)."""
        return (len(self.mean), *self.size)

    @property
    def geometry(self) -> v2.Compose:
        """Resize and crop; boxes and masks of torchvision's ``tv_tensors`` go through as images do."""
        mode = InterpolationMode(self.interpolation)
        return v2.Compose([v2.Resize(self.resize, mode, antialias=True), v2.CenterCrop(self.size)])

    def picture(self, image: Image.Image) -> Picture:
        """The part of the photograph that the model sees."""
        return np.asarray(self.geometry(image).convert("RGB"))

    def __call__(self, image: Image.Image) -> Float[Tensor, "c h w"]:
        """What the model gets."""
        seen = self.geometry(image.convert("L" if len(self.mean) == 1 else "RGB"))
        values = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(self.mean, self.std)])
        return values(seen).as_subclass(Tensor)

    def inverse(self, x: Images) -> list[Picture]:
        """What the model got, as pictures."""
        mean, std = (torch.tensor(each, device=x.device)[:, None, None] for each in (self.mean, self.std))
        pixels = (255 * (x * std + mean)).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        return list(pixels.expand(*pixels.shape[:3], 3).cpu().numpy())


@dataclass(frozen=True)
class ClipPreprocessing:
    """Choose frames evenly, resize, crop the centre, scale to 0..1, normalise: evaluation of a classifier of clips.

    Frames are resized without antialiasing, as torchvision's presets for video do, so that its numbers hold.
    """

    frames: int  # of what the model sees
    size: tuple[int, int]  # (height, width) of what the model sees, in pixels
    resize: int | tuple[int, int]  # before the crop: the shorter side, or (height, width), in pixels
    mean: tuple[float, ...]  # per channel, of values 0 to 1
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    rate: float | None = None  # frames a second of the clips that it was trained on; None is not known

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise InvalidInput(f"frames={self.frames} must be a number from 1.")
        _check_colours(self.mean, self.std)
        _check_crop(self.resize, self.size)

    @classmethod
    def of_torchvision(cls, weights: Any) -> "ClipPreprocessing":
        """What torchvision's weights of a video model say: their ``transforms()``, and in words the clips' length."""
        preset, told = weights.transforms(), weights.meta["_docs"]
        length, rate = (re.search(rf"`{name}=([0-9.]+)`", told) for name in ("clip_len", "frame_rate"))
        frames = int(length[1]) if length else weights.meta["min_temporal_size"]
        sides = preset.resize_size
        resize = sides[0] if len(sides) == 1 else (sides[0], sides[1])
        size, mode = (preset.crop_size[0], preset.crop_size[1]), preset.interpolation.value
        return cls(frames, size, resize, tuple(preset.mean), tuple(preset.std), mode, float(rate[1]) if rate else None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what the model sees, (c, t, h, w)."""
        return (len(self.mean), self.frames, *self.size)

    def picture(self, clip: Clip) -> Pictures:
        """The part of the clip that the model sees, (t, h, w, 3)."""
        return self._seen(clip).movedim(1, -1).numpy()

    def __call__(self, clip: Clip) -> Float[Tensor, "c t h w"]:
        """What the model gets."""
        seen = self._seen(clip) if len(self.mean) == 3 else functional.rgb_to_grayscale(self._seen(clip))
        values = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(self.mean, self.std)])
        return values(seen).movedim(0, 1).contiguous()

    def _seen(self, clip: Clip) -> UInt8[Tensor, "t 3 h w"]:
        """The chosen frames, resized and cropped."""
        frames = torch.from_numpy(np.ascontiguousarray(clip.frames[evenly(len(clip.frames), self.frames)]))
        sides, mode = (
            [self.resize] if isinstance(self.resize, int) else self.resize,
            InterpolationMode(self.interpolation),
        )
        # By the first version of the transforms, as the presets do: the second rounds bytes otherwise.
        return functional.center_crop(functional.resize(frames.movedim(-1, 1), sides, mode, antialias=False), self.size)


def read_image(path: str | Path, window: IntensityWindow | None = None) -> Image.Image:
    """A photograph from a file, upright, in red, green and blue; transparency is dropped, as data loaders do.

    window: the values that become black and white in a file of one channel of more than 8 bits, such as (0, 4095) for
    12 bits in 16; None is the whole range of 16 bits. Raises InvalidInput for a clip and where the range is not known,
    UnreadableFile for what cannot be read.
    """
    check_window(window)
    try:
        with Path(path).open("rb") as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, and still within what Pillow reads
            image, stored = _decoded(opened, str(path))
    except FileNotFoundError as error:
        raise UnreadableFile(f"There is no image {str(path)!r}: look at the path.") from error
    except InvalidInput:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableFile(
            f"{str(path)!r} is larger than Pillow reads ({error}): make it smaller, or set "
            "PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from error
    except Exception as error:  # decoders raise errors of any kind on damaged files
        if Path(path).suffix.lower() in clips.ENDINGS:
            raise InvalidInput(f"{str(path)!r} {_NO_PHOTOGRAPH}") from error
        raise UnreadableFile(f"{str(path)!r} is no image that can be read ({error}): open it in a viewer.") from error
    return _in_colours(eight_bits(image, stored, str(path), window), str(path))


def _decoded(opened: BinaryIO, path: str) -> tuple[Image.Image, str]:
    """The image in an open file, upright, and how its pixels are stored.

    From a path, Pillow would map raw TIFFs into memory and turn rotated ones wrongly.
    """
    with Image.open(opened) as file:
        if file.format in _ANIMATED and getattr(file, "is_animated", False):
            raise InvalidInput(f"{path!r} {_NO_PHOTOGRAPH}")
        stored = " ".join(str(tile[3]) for tile in file.tile)  # before it is decoded
        return ImageOps.exif_transpose(file), stored


def _in_colours(image: Image.Image, path: str) -> Image.Image:
    """In red, green and blue."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # else Pillow warns
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise InvalidInput(f"{path!r} holds colours of mode {image.mode!r} ({error}): convert it to RGB.") from error


def _check_colours(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    if len(mean) != len(std) or len(mean) not in (1, 3) or min(std) <= 0:
        raise InvalidInput(f"mean={mean} and std={std} must have a number for each of 1 or 3 channels, std above 0.")


def _check_crop(resize: int | tuple[int, int], size: tuple[int, int]) -> None:
    sides = (resize, resize) if isinstance(resize, int) else resize
    if any(side < crop for side, crop in zip(sides, size, strict=True)):
        raise InvalidInput(f"resize={resize} is smaller than the crop {size}, which would get a black border.")
