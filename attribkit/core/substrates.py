"""[core/blurs] Images out of focus: what removed pixels are replaced by, an axis of space after the other.
[core/substrates] What stands in for pixels that are taken away.
[core/option_images] Images among the options of methods and metrics, in the order of axes in which attribkit computes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from attribkit.core.annotations import Constraint
from attribkit.core.axes import ImageAxes
from attribkit.core.errors import InvalidInput
from attribkit.core.options import Options, PositiveFloat, PositiveInt
from attribkit.core.pictures import broadcast_to_spatial, extremes
from attribkit.core.shapes import Images
from attribkit.core.tensors import Fingerprinted

OddSize = Annotated[
    PositiveInt, Constraint(lambda size: size % 2 == 1, "odd")
]  # pixels of a kernel, with one in its middle

_SHARE = 1 / 12  # standard deviation of the blur that grows with the image, as a share of each axis
_TAIL = 4  # standard deviations after which SciPy cuts a Gaussian off


@dataclass(frozen=True)
class GaussianBlur(Options):
    """A Gaussian kernel, cut off and made to sum to one; beyond the border the image is mirrored, as in torchvision."""

    size: OddSize = 15  # pixels of the kernel along each axis, an odd number
    sigma: PositiveFloat = 5.0  # pixels

    def __call__(self, x: Images) -> Images:
        """The images blurred."""
        short = [side for side in x.shape[2:] if side <= self.size // 2]
        if short:
            raise InvalidInput(f"{self!r} mirrors {self.size // 2} pixels, of {short[0]}: give a smaller kernel.")
        kernel = _gaussian(self.size // 2, self.sigma)
        return _along_axes(x, lambda length: _mirrored(kernel, length))


@dataclass(frozen=True)
class FoldedBlur(Options):
    """A Gaussian kernel whose tails are folded back into it, nearly a box; zeros beyond the border of the image.

    Source: the authors' code of Petsiuk et al., BMVC 2018, where SciPy filters a single one amid zeros of the kernel's
    size: the parts of the Gaussian that leave it come back mirrored.
    """

    size: OddSize = 11  # pixels of the kernel along each axis, an odd number
    sigma: PositiveFloat = 5.0  # pixels

    def __call__(self, x: Images) -> Images:
        """The images blurred; normalised ones fade to the mean colour at their borders."""
        kernel = self.kernel()
        return _along_axes(x, lambda length: _zero_padded(kernel, length))

    def kernel(self) -> Tensor:
        """The weights along one axis, (size,), in double precision."""
        radius = int(_TAIL * self.sigma + 0.5)
        places = (torch.arange(-radius, radius + 1, device="cpu") + self.size // 2) % (2 * self.size)
        folded = torch.minimum(places, 2 * self.size - 1 - places)
        return torch.zeros(self.size, dtype=torch.float64, device="cpu").index_add(
            0, folded, _gaussian(radius, self.sigma)
        )


Blur = GaussianBlur | FoldedBlur


def wide_blur(x: Images) -> Images:
    """The images far out of focus, by a Gaussian that grows with them."""
    return _along_axes(x, _wide)


def _along_axes(x: Images, matrix: Callable[[int], Tensor]) -> Images:
    """Each line of pixels times the matrix for its length, along every axis of space; no coarser than float32."""
    blurred = x.to(torch.promote_types(x.dtype, torch.float32))
    for axis in range(2, x.ndim):
        kernel = matrix(x.shape[axis]).to(blurred)
        blurred = (blurred.movedim(axis, -1) @ kernel.mT).movedim(-1, axis)
    return blurred.to(x.dtype)


def _gaussian(radius: int, sigma: float) -> Tensor:
    """Weights that sum to one, (2 * radius + 1,)."""
    places = torch.arange(-radius, radius + 1, dtype=torch.float64, device="cpu")
    return torch.softmax(-((places / sigma) ** 2) / 2, dim=0)


def _wide(length: int) -> Tensor:
    place = torch.arange(length, dtype=torch.float32, device="cpu") / (_SHARE * length)
    return torch.softmax(-((place[:, None] - place) ** 2) / 2, dim=1)


def _zero_padded(kernel: Tensor, length: int) -> Tensor:
    """The kernel around each pixel of a line, (length, length); what lies beyond the line is lost."""
    places, weights = _around(kernel, length)
    inside = (places >= 0) & (places < length)
    return _matrix(places.clamp(0, length - 1), weights * inside)


def _mirrored(kernel: Tensor, length: int) -> Tensor:
    """The same; what lies beyond the line is read from it, mirrored at its last pixels."""
    places, weights = _around(kernel, length)
    places = places.abs()
    return _matrix(torch.minimum(places, 2 * (length - 1) - places), weights)


def _around(kernel: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """For each pixel of a line the places that the kernel reads, and its weights, (length, size) both."""
    radius = len(kernel) // 2
    places = torch.arange(length, device="cpu")[:, None] + torch.arange(-radius, radius + 1, device="cpu")
    return places, kernel.expand(length, -1)


def _matrix(places: Tensor, weights: Tensor) -> Tensor:
    length = len(places)
    return torch.zeros(length, length, dtype=weights.dtype, device="cpu").scatter_add(1, places, weights)


# The mean colour of normalised images; each image's own mean colour; the image far out of focus; standard normal noise;
# the image a little out of focus, as RISE has it; its own least value; and noise that is uniform from -1 to 1.
Substrate = Literal["zero", "mean", "blur", "noise", "folded_blur", "minimum", "uniform"]

_RADIUS = 3  # pixels around a hole that inpainting looks at


@dataclass(frozen=True, eq=False, repr=False)
class GivenImages(Fingerprinted):
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


Filling = Substrate | Literal["inpaint"] | Blur | GivenImages | Imputer | Tensor  # as an option
Fill = Callable[[Tensor], Images]

_MADE: dict[str, Callable[[Images], Images]] = {
    "zero": torch.zeros_like,
    "mean": lambda x: broadcast_to_spatial(x.flatten(2).mean(2), x).expand_as(x),
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
    instead = substrate(x, GivenImages(kind) if isinstance(kind, Tensor) else kind, seed)
    return lambda removed: torch.where(removed, instead, x)


def substrate(x: Images, kind: str | Blur | GivenImages, seed: int = 0) -> Images:
    """Images of the shape of x that hold less of what x shows; noise is the same for every image."""
    if isinstance(kind, GivenImages):
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


MethodOrMetric = TypeVar("MethodOrMetric")


def options_channels_first(made: MethodOrMetric, axes: str | None) -> MethodOrMetric:
    """A method or metric whose options that are images, in these axes, are (b, c, *space); itself if there is none."""
    if axes is None or not is_dataclass(made):
        return made
    order = ImageAxes(axes)
    options = {each.name: getattr(made, each.name) for each in fields(made) if each.init}
    changed = {name: _channels_first(value, order) for name, value in options.items()}
    changed = {name: value for name, value in changed.items() if value is not options[name]}
    return replace(made, **changed) if changed else made  # type: ignore[type-var]


def _channels_first(value: Any, axes: ImageAxes) -> Any:
    if isinstance(value, GivenImages):
        return GivenImages(_image_channels_first(value.tensor, axes))
    if isinstance(value, tuple) and any(isinstance(each, GivenImages) for each in value):
        return tuple(_channels_first(each, axes) for each in value)
    return value


def _image_channels_first(images: Tensor, axes: ImageAxes) -> Tensor:
    """Images with or without an axis of images."""
    if images.ndim == len(axes.letters):
        return axes.channels_first(images)
    return axes.channels_first(images[None])[0] if images.ndim == len(axes.letters) - 1 else images
