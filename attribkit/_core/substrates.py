"""Substrates (baselines), which replace removed pixels: constants, blurs, noise, inpainting, imputers and images."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from attribkit._core.annotations import Constraint
from attribkit._core.axes import ImageAxes
from attribkit._core.errors import InvalidInput
from attribkit._core.options import Options, PositiveFloat, PositiveInt
from attribkit._core.pictures import broadcast_to_spatial, extremes
from attribkit._core.shapes import Images
from attribkit._core.tensors import Fingerprinted

OddSize = Annotated[PositiveInt, Constraint(lambda size: size % 2 == 1, "odd")]  # pixels of a kernel

# zero: the mean colour of normalised images; mean: the mean colour of each image; blur: a blur whose width grows with
# the image; noise: standard normal; folded_blur: the blur of RISE; minimum: the least value of each image; uniform:
# uniform noise from -1 to 1.
Substrate = Literal["zero", "mean", "blur", "noise", "folded_blur", "minimum", "uniform"]

_WIDE_SIGMA = 1 / 12  # standard deviation of `wide_blur` as a fraction of each axis
_TRUNCATE = 4  # standard deviations at which SciPy truncates a Gaussian
_RADIUS = 3  # pixels around a hole that inpainting uses


@dataclass(frozen=True)
class GaussianBlur(Options):
    """A blur by a truncated, normalised Gaussian kernel with mirrored borders, as in torchvision.

    Args:
        size: Size of the kernel along each axis in pixels, odd.
        sigma: Standard deviation in pixels.
    """

    size: OddSize = 15
    sigma: PositiveFloat = 5.0

    def __call__(self, x: Images) -> Images:
        """Blur images.

        Args:
            x: Images, (b, c, *space).

        Returns:
            The blurred images, in the dtype of x.

        Raises:
            InvalidInput: An axis is too short to be mirrored by half the kernel.
        """
        short = [side for side in x.shape[2:] if side <= self.size // 2]
        if short:
            raise InvalidInput(
                f"{self!r} pads each border by reflecting {self.size // 2} pixels, but an axis of the images has only "
                f"{short[0]} pixels. Use a smaller kernel."
            )
        kernel = _gaussian(self.size // 2, self.sigma)
        return _along_axes(x, lambda length: _mirrored(kernel, length))


@dataclass(frozen=True)
class FoldedBlur(Options):
    """A blur by a Gaussian kernel whose tails are folded back into it, nearly a box, with zero padding.

    Args:
        size: Size of the kernel along each axis in pixels, odd.
        sigma: Standard deviation in pixels.

    Reference:
        The authors' code of Petsiuk et al., BMVC 2018: SciPy filters a unit impulse on a grid of the kernel's size, and
        mirrors the tails of the Gaussian at its borders.
    """

    size: OddSize = 11
    sigma: PositiveFloat = 5.0

    def __call__(self, x: Images) -> Images:
        """Blur images; normalised images fade to the mean colour at their borders.

        Args:
            x: Images, (b, c, *space).

        Returns:
            The blurred images, in the dtype of x.
        """
        kernel = self.kernel()
        return _along_axes(x, lambda length: _zero_padded(kernel, length))

    def kernel(self) -> Tensor:
        """Return the weights along one axis, (size,), float64."""
        radius = int(_TRUNCATE * self.sigma + 0.5)
        positions = (torch.arange(-radius, radius + 1, device="cpu") + self.size // 2) % (2 * self.size)
        folded = torch.minimum(positions, 2 * self.size - 1 - positions)
        return torch.zeros(self.size, dtype=torch.float64, device="cpu").index_add(
            0, folded, _gaussian(radius, self.sigma)
        )


Blur = GaussianBlur | FoldedBlur


def wide_blur(x: Images) -> Images:
    """Blur images by a wide Gaussian, whose standard deviation is 1/12 of each axis."""
    return _along_axes(x, _wide_kernel)


def _along_axes(x: Images, matrix: Callable[[int], Tensor]) -> Images:
    """Multiply the lines of pixels along every spatial axis by the matrix for their length; in float32 or finer."""
    blurred = x.to(torch.promote_types(x.dtype, torch.float32))
    for axis in range(2, x.ndim):
        kernel = matrix(x.shape[axis]).to(blurred)
        blurred = (blurred.movedim(axis, -1) @ kernel.mT).movedim(-1, axis)
    return blurred.to(x.dtype)


def _gaussian(radius: int, sigma: float) -> Tensor:
    """Return normalised weights, (2 * radius + 1,)."""
    positions = torch.arange(-radius, radius + 1, dtype=torch.float64, device="cpu")
    return torch.softmax(-((positions / sigma) ** 2) / 2, dim=0)


def _wide_kernel(length: int) -> Tensor:
    position = torch.arange(length, dtype=torch.float32, device="cpu") / (_WIDE_SIGMA * length)
    return torch.softmax(-((position[:, None] - position) ** 2) / 2, dim=1)


def _zero_padded(kernel: Tensor, length: int) -> Tensor:
    """Return the kernel centred on each pixel of a line as a matrix, (length, length), with zero padding."""
    positions, weights = _windows(kernel, length)
    inside = (positions >= 0) & (positions < length)
    return _matrix(positions.clamp(0, length - 1), weights * inside)


def _mirrored(kernel: Tensor, length: int) -> Tensor:
    """Return the kernel centred on each pixel of a line as a matrix, (length, length), mirrored at the last pixels."""
    positions, weights = _windows(kernel, length)
    positions = positions.abs()
    return _matrix(torch.minimum(positions, 2 * (length - 1) - positions), weights)


def _windows(kernel: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the positions under the kernel for each pixel of a line, and its weights, both (length, size)."""
    radius = len(kernel) // 2
    positions = torch.arange(length, device="cpu")[:, None] + torch.arange(-radius, radius + 1, device="cpu")
    return positions, kernel.expand(length, -1)


def _matrix(positions: Tensor, weights: Tensor) -> Tensor:
    length = len(positions)
    return torch.zeros(length, length, dtype=weights.dtype, device="cpu").scatter_add(1, positions, weights)


@dataclass(frozen=True, eq=False, repr=False)
class GivenImages(Fingerprinted):
    """Images as an option of a method or metric: (c, *space), or (b, c, *space) with b = 1 or one for each image."""


class Imputer(Options, ABC):
    """Base class for imputers, which fill removed pixels from the remaining ones.

    Subclass it as a frozen dataclass whose fields are the options.

    Attributes:
        name: Name of the imputer as a value of options: ``substrate="noisy_linear"``.
        source: Authors, venue, year and equation.
    """

    name: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def __call__(self, x: Images, removed: Tensor) -> Images:
        """Fill the removed pixels of images.

        The result for an image must not depend on the other images of the batch.

        Args:
            x: Images, (b, c, *space).
            removed: Bool, (1 or b, 1, *space), True where pixels are removed.

        Returns:
            The images with the removed pixels filled and all other pixels unchanged.
        """


Filling = Substrate | Literal["inpaint"] | Blur | GivenImages | Imputer | Tensor  # type of options
Fill = Callable[[Tensor], Images]

_SUBSTRATES: dict[str, Callable[[Images], Images]] = {
    "zero": torch.zeros_like,
    "mean": lambda x: broadcast_to_spatial(x.flatten(2).mean(2), x).expand_as(x),
    "minimum": lambda x: extremes(x)[0].expand_as(x),
    "blur": wide_blur,
    "folded_blur": FoldedBlur(),
}


def make_filling(x: Images, kind: Any, seed: int = 0) -> Fill:
    """Return a function that replaces pixels of the images.

    Args:
        x: Images, (b, c, *space).
        kind: Name of a substrate, "inpaint", a blur, images (a tensor or GivenImages), or an Imputer.
        seed: Seed of noise.

    Returns:
        A function of a bool mask (1 or b, 1, *space), True where pixels are replaced, that returns the images.
    """
    if isinstance(kind, Imputer):
        return lambda removed: torch.where(removed, kind(x, removed), x)
    if isinstance(kind, str) and kind == "inpaint":
        return lambda removed: inpaint(x, removed)
    replacement = substrate_images(x, GivenImages(kind) if isinstance(kind, Tensor) else kind, seed)
    return lambda removed: torch.where(removed, replacement, x)


def substrate_images(x: Images, kind: str | Blur | GivenImages, seed: int = 0) -> Images:
    """Return images that carry less information than x, in its shape; noise is the same for every image.

    Args:
        x: Images, (b, c, *space).
        kind: Name of a substrate, a blur, or images.
        seed: Seed of noise.

    Raises:
        InvalidInput: The name is unknown, or the images do not have the shape of x.
    """
    if isinstance(kind, GivenImages):
        return _expand_images(kind.tensor, x)
    if isinstance(kind, Blur):
        return kind(x)
    if kind in ("noise", "uniform"):
        return _noise(x, kind, seed)
    if not isinstance(kind, str) or kind not in _SUBSTRATES:
        names = ", ".join(map(repr, get_args(Substrate)))
        raise InvalidInput(f"The substrate must be one of {names}, a blur, or a tensor of images, got {kind!r}.")
    return _SUBSTRATES[kind](x)


def _noise(x: Images, kind: str, seed: int) -> Images:
    """Return noise of the CPU generator, which does not depend on the device."""
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


def inpaint(x: Images, holes: Tensor) -> Images:
    """Inpaint holes of images from their surroundings, on the CPU, quantised to 256 levels.

    An image that is entirely removed becomes its mean colour.

    Args:
        x: Images, (b, 1 or 3, h, w).
        holes: Bool, (1 or b, 1, h, w).

    Raises:
        InvalidInput: The images have another number of channels or axes.

    Reference:
        Telea, Journal of Graphics Tools 2004.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise InvalidInput(
            f"Inpainting requires images (b, c, h, w) with 1 or 3 channels, got shape {tuple(x.shape)}. Use "
            "baseline='blur' or 'mean'."
        )
    filled = torch.stack(
        [_inpaint_image(image, hole) for image, hole in zip(x, holes.expand(len(x), -1, -1, -1), strict=True)]
    )
    return torch.where(holes, filled, x)


def _inpaint_image(image: Tensor, hole: Tensor) -> Tensor:
    import cv2  # imported on demand, since few calls use it

    if bool(hole.all()):
        return substrate_images(image[None], "mean")[0]  # OpenCV returns such an image unchanged
    low, high = image.amin(), image.amax()
    scale = (high - low).clamp(min=1e-12) / 255
    pixels = ((image - low) / scale).round().to(torch.uint8).movedim(0, -1).cpu().numpy()
    mask = hole[0].to(torch.uint8).cpu().numpy()
    painted = cv2.inpaint(np.ascontiguousarray(pixels.squeeze()), mask, _RADIUS, cv2.INPAINT_TELEA)
    return torch.from_numpy(painted).reshape(pixels.shape).movedim(-1, 0).to(image) * scale + low


def _expand_images(images: Tensor, x: Images) -> Images:
    batch = images if images.ndim == x.ndim else images[None]
    if tuple(batch.shape[1:]) != tuple(x.shape[1:]) or len(batch) not in (1, len(x)):
        raise InvalidInput(
            f"The images of an option have shape {tuple(images.shape)}, but the explained images have shape "
            f"{tuple(x.shape)}. Pass one image of shape (c, *space) for all of them, or one per image."
        )
    return batch.to(x).expand_as(x)


MethodOrMetric = TypeVar("MethodOrMetric")


def options_channels_first(plugin: MethodOrMetric, axes: str | None) -> MethodOrMetric:
    """Return a method or metric with its image options converted from these axes to (b, c, *space)."""
    if axes is None or not is_dataclass(plugin):
        return plugin
    order = ImageAxes(axes)
    options = {option.name: getattr(plugin, option.name) for option in fields(plugin) if option.init}
    changed = {name: _channels_first(value, order) for name, value in options.items()}
    changed = {name: value for name, value in changed.items() if value is not options[name]}
    return replace(plugin, **changed) if changed else plugin  # type: ignore[type-var]


def _channels_first(value: Any, axes: ImageAxes) -> Any:
    if isinstance(value, GivenImages):
        return GivenImages(_image_channels_first(value.tensor, axes))
    if isinstance(value, tuple) and any(isinstance(item, GivenImages) for item in value):
        return tuple(_channels_first(item, axes) for item in value)
    return value


def _image_channels_first(images: Tensor, axes: ImageAxes) -> Tensor:
    """Convert images with or without a batch axis."""
    if images.ndim == len(axes.letters):
        return axes.channels_first(images)
    return axes.channels_first(images[None])[0] if images.ndim == len(axes.letters) - 1 else images
