"""What stands in for pixels that are taken away."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.fingerprint import fingerprint
from attribkit.core.shapes import Images

# The mean colour of normalised images, each image's own mean, the image out of focus, standard normal noise.
Substrate = Literal["zero", "mean", "blur", "noise"]

_BLUR = 1 / 12  # standard deviation of the blur, as a share of each axis
_RADIUS = 3  # pixels around a hole that inpainting looks at


@dataclass(frozen=True, eq=False)
class Given:
    """Images that a user chose, as an option of a method: told by their shape and a checksum."""

    images: Tensor  # (c, *space), or (b, c, *space) with b = 1 or one for each image

    def __repr__(self) -> str:
        return f"Given({fingerprint(self.images)})"


class Imputer(ABC):
    """Fills removed pixels from those that are left; subclass as a frozen dataclass whose fields are the options."""

    name: ClassVar[str]  # what users write: substrate="noisy_linear"
    source: ClassVar[str]  # authors, venue, year, equation

    @abstractmethod
    def __call__(self, x: Images, removed: Tensor) -> Images:
        """The images with the removed pixels filled, the others as they are.

        removed: bool, (1 or b, 1, *space). An image's filling does not depend on the images beside it.
        """


Fill = Callable[[Tensor], Images]


def filling(x: Images, kind: Any, seed: int = 0) -> Fill:
    """What makes the images with some pixels replaced, told by a mask (1 or b, 1, *space), True where they are.

    kind: the name of a substrate, "inpaint", images of the user's (a tensor or Given), or an Imputer.
    """
    if isinstance(kind, Imputer):
        return lambda removed: torch.where(removed, kind(x, removed), x)
    if isinstance(kind, str) and kind == "inpaint":
        return lambda removed: inpainted(x, removed)
    instead = substrate(x, Given(kind) if isinstance(kind, Tensor) else kind, seed)
    return lambda removed: torch.where(removed, instead, x)


def substrate(x: Images, kind: str | Given, seed: int = 0) -> Images:
    """Images of the shape of x that hold less of what x shows; noise is the same for every image."""
    if isinstance(kind, Given):
        return _fitted(kind.images, x)
    if kind == "zero":
        return torch.zeros_like(x)
    if kind == "mean":
        return x.flatten(2).mean(2)[(...,) + (None,) * (x.ndim - 2)].expand_as(x)
    if kind == "blur":
        return _blurred(x)
    if kind == "noise":
        return torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(seed)).to(x).expand_as(x)
    raise InvalidInput(f"{kind!r} is no substrate; known: {', '.join(get_args(Substrate))}, or a tensor of images.")


def inpainted(x: Images, holes: Tensor) -> Images:
    """The images with holes filled from around them (Telea, Journal of Graphics Tools 2004); on the CPU, in 256 levels.

    holes: bool, (1 or b, 1, h, w).
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


def _blurred(x: Images) -> Images:
    for axis in range(2, x.ndim):
        place = torch.arange(x.shape[axis], device=x.device, dtype=torch.float32) / (_BLUR * x.shape[axis])
        kernel = torch.softmax(-((place[:, None] - place) ** 2) / 2, dim=1).to(x.dtype)
        x = (x.movedim(axis, -1) @ kernel.mT).movedim(-1, axis)
    return x
