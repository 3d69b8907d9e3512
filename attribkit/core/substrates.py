"""What stands in for pixels that are taken away."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from attribkit.core.blurs import Blur, FoldedBlur, wide_blur
from attribkit.core.broadcast import beside, extremes
from attribkit.core.errors import InvalidInput
from attribkit.core.fingerprint import Fingerprinted
from attribkit.core.options import Options
from attribkit.core.shapes import Images

# The mean colour of normalised images; each image's own mean colour; the image far out of focus; standard normal noise;
# the image a little out of focus, as RISE has it; its own least value; and noise that is uniform from -1 to 1.
Substrate = Literal["zero", "mean", "blur", "noise", "folded_blur", "minimum", "uniform"]

_RADIUS = 3  # pixels around a hole that inpainting looks at


@dataclass(frozen=True, eq=False, repr=False)
class Given(Fingerprinted):
    """Images that a user chose, as an option of a method: (c, *space), or (b, c, *space) with b = 1 or one for each."""


class Imputer(Options, ABC):
    """Fills removed pixels from those that are left; subclass as a frozen dataclass whose fields are the options."""

    name: ClassVar[str]  # what users write: substrate="noisy_linear"
    source: ClassVar[str]  # authors, venue, year, equation

    @abstractmethod
    def __call__(self, x: Images, removed: Tensor) -> Images:
        """The images with the removed pixels filled, the others as they are.

        removed: bool, (1 or b, 1, *space). An image's filling does not depend on the images beside it.
        """


Filling = Substrate | Literal["inpaint"] | Blur | Given | Imputer | Tensor  # as an option
Fill = Callable[[Tensor], Images]

_MADE: dict[str, Callable[[Images], Images]] = {
    "zero": torch.zeros_like,
    "mean": lambda x: beside(x.flatten(2).mean(2), x).expand_as(x),
    "minimum": lambda x: extremes(x)[0].expand_as(x),
    "blur": wide_blur,
    "folded_blur": FoldedBlur(),
}


def filling(x: Images, kind: Any, seed: int = 0) -> Fill:
    """What makes the images with some pixels replaced, told by a mask (1 or b, 1, *space), True where they are.

    kind: the name of a substrate, "inpaint", a Blur, images of the user's (a tensor or Given), or an Imputer.
    """
    if isinstance(kind, Imputer):
        return lambda removed: torch.where(removed, kind(x, removed), x)
    if isinstance(kind, str) and kind == "inpaint":
        return lambda removed: inpainted(x, removed)
    instead = substrate(x, Given(kind) if isinstance(kind, Tensor) else kind, seed)
    return lambda removed: torch.where(removed, instead, x)


def substrate(x: Images, kind: str | Blur | Given, seed: int = 0) -> Images:
    """Images of the shape of x that hold less of what x shows; noise is the same for every image."""
    if isinstance(kind, Given):
        return _fitted(kind.tensor, x)
    if isinstance(kind, Blur):
        return kind(x)
    if kind in ("noise", "uniform"):
        return _noise(x, kind, seed)
    if not isinstance(kind, str) or kind not in _MADE:
        known = ", ".join(get_args(Substrate))
        raise InvalidInput(f"{kind!r} is no substrate; known: {known}, a blur, or a tensor of images.")
    return _MADE[kind](x)


def _noise(x: Images, kind: str, seed: int) -> Images:
    """Noise of the CPU's generator, so that every device has the same."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "noise":
        return torch.randn(x.shape[1:], generator=generator, dtype=torch.float32, device="cpu").to(x).expand_as(x)
    return (
        torch.rand(x.shape[1:], generator=generator, dtype=torch.float32, device="cpu")
        .mul_(2)
        .sub_(1)
        .to(x)
        .expand_as(x)
    )


def inpainted(x: Images, holes: Tensor) -> Images:
    """The images with holes filled from around them (Telea, Journal of Graphics Tools 2004); on the CPU, in 256 levels.

    holes: bool, (1 or b, 1, h, w). Of an image that is all hole nothing is left: it becomes its mean colour.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise InvalidInput(
            f"Inpainting takes images (b, 1 or 3, h, w), got {tuple(x.shape)}: use baseline='blur' or 'mean'."
        )
    filled = torch.stack(
        [_filled(image, hole) for image, hole in zip(x, holes.expand(len(x), -1, -1, -1), strict=True)]
    )
    return torch.where(holes, filled, x)


def _filled(image: Tensor, hole: Tensor) -> Tensor:
    import cv2  # here, since few calls need it

    if bool(hole.all()):
        return substrate(image[None], "mean")[0]  # OpenCV would give the image back as it was
    low, high = image.amin(), image.amax()
    scale = (high - low).clamp(min=1e-12) / 255
    pixels = ((image - low) / scale).round().to(torch.uint8).movedim(0, -1).cpu().numpy()
    mask = hole[0].to(torch.uint8).cpu().numpy()
    painted = cv2.inpaint(np.ascontiguousarray(pixels.squeeze()), mask, _RADIUS, cv2.INPAINT_TELEA)
    return torch.from_numpy(painted).reshape(pixels.shape).movedim(-1, 0).to(image) * scale + low


def _fitted(images: Tensor, x: Images) -> Images:
    wide = images if images.ndim == x.ndim else images[None]
    if tuple(wide.shape[1:]) != tuple(x.shape[1:]) or len(wide) not in (1, len(x)):
        raise InvalidInput(
            f"The given images are {tuple(images.shape)}, those to explain {tuple(x.shape)}: give one for all, "
            "(c, *space), or one for each."
        )
    return wide.to(x).expand_as(x)
