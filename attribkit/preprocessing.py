"""From a photograph to what a model expects, and back to a picture."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from attribkit.core.errors import InvalidInput, UnreadableFile
from attribkit.core.shapes import Images, Picture


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop the centre, scale to 0..1, normalise: the four steps of every classifier's evaluation."""

    size: tuple[int, int]  # (height, width) of what the model sees, in pixels
    resize: int | tuple[int, int]  # before the crop: the shorter side, or (height, width), in pixels
    mean: tuple[float, ...]  # per channel, of values 0 to 1
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or min(self.std) <= 0:
            raise InvalidInput(
                f"mean={self.mean} and std={self.std} must have a number for each of 1 or 3 channels, std above 0."
            )
        sides = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if any(side < crop for side, crop in zip(sides, self.size, strict=True)):
            raise InvalidInput(
                f"resize={self.resize} is smaller than the crop {self.size}, which would get a black border."
            )

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


def read_image(path: str | Path) -> Image.Image:
    """A photograph from a file, upright, in red, green and blue."""
    try:
        with Image.open(path) as file:
            return _eight_bits(ImageOps.exif_transpose(file), path).convert("RGB")
    except FileNotFoundError as error:
        raise UnreadableFile(f"There is no image {str(path)!r}: look at the path.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableFile(f"{str(path)!r} is no image that can be read ({error}): open it in a viewer.") from error


def _eight_bits(image: Image.Image, path: str | Path) -> Image.Image:
    """Pillow clips images of more bits; those of 16 are scaled, others refused."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InvalidInput(
            f"{str(path)!r} holds {image.mode!r} values of unknown range: convert it to 8 bits a channel."
        )
    return image
