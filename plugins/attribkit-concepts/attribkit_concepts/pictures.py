"""Normalised images as pictures for display."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

Picture = UInt8[np.ndarray, "h w 3"]
Normalisation = tuple[Sequence[float], Sequence[float]] | None  # mean and standard deviation of each channel


def to_pictures(images: Iterable[Tensor], normalisation: Normalisation) -> list[Picture]:
    """Return images (c, h, w) as pictures: with the normalisation undone, or stretched if it is not known.

    Images without three channels are drawn as the grey values of the first channel.
    """
    return [_to_picture(image.detach().double().cpu(), normalisation) for image in images]


def _to_picture(image: Tensor, normalisation: Normalisation) -> Picture:
    if normalisation is None:
        low, high = image.aminmax()
        pixels = (image - low) / (high - low).clamp(min=torch.finfo(image.dtype).eps)
    else:
        mean, std = (torch.tensor(each, dtype=image.dtype, device="cpu").view(-1, 1, 1) for each in normalisation)
        pixels = (image * std + mean).clamp(0, 1)
    colours = pixels if len(pixels) == 3 else pixels[:1].expand(3, -1, -1)
    return (255 * colours).round().byte().movedim(0, -1).numpy()
