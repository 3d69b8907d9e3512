"""Optimised images: pixels or frequencies, colours, bounds, penalties, blur, and random movements."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attribkit._core.errors import InvalidInput
from attribkit._core.shapes import Images, PerImage

# Principal components of the RGB values of ImageNet's training pixels, 0 to 1: the statistics behind the colour
# augmentation of Krizhevsky et al., NeurIPS 2012, sec. 4.1, in the numbers of Facebook AI Research's fb.resnet.torch
# (2016, datasets/imagenet.lua). Columns: lightness, blue against yellow, green against red and blue.
_VARIANCES = (0.2175, 0.0188, 0.0045)
_COMPONENTS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def natural_colours(like: Tensor) -> Float[Tensor, "3 3"]:
    """Return the matrix that turns independent values of variance 1 into correlated red, green and blue.

    It is scaled such that the three have a mean variance of 1, and has the device and the precision of `like`.
    """
    mixing = like.new_tensor(_COMPONENTS) * like.new_tensor(_VARIANCES).sqrt()
    return mixing / mixing.square().sum().div(3).sqrt()


def squared_norm(images: Images) -> PerImage:
    """Return the sum of squares of each image (Simonyan et al., 2014, sec. 2)."""
    return images.square().flatten(1).sum(1)


def total_variation(images: Images) -> PerImage:
    """Return the isotropic total variation: the norm of the differences to the next pixels, summed over each image.

    Rudin, Osher and Fatemi, Physica D 1992. Differences across the border are zero, and so is the gradient where the
    image is constant.
    """
    differences = [_difference(images, axis) for axis in range(2, images.ndim)]
    return torch.linalg.vector_norm(torch.stack(differences), dim=0).flatten(1).sum(1)


def gaussian_blur(images: Images, sigma: float) -> Images:
    """Blur images by a Gaussian with a standard deviation in pixels; its weights are renormalised at the border."""
    for axis in range(2, images.ndim):
        position = torch.arange(images.shape[axis], device=images.device, dtype=images.dtype) / sigma
        kernel = torch.softmax(-((position[:, None] - position) ** 2) / 2, dim=1)
        images = (images.movedim(axis, -1) @ kernel.mT).movedim(-1, axis)
    return images


def _difference(images: Images, axis: int) -> Images:
    """Return the difference to the next pixel along an axis, zero at the last pixel."""
    padding = [0, 0] * (images.ndim - 1 - axis) + [0, 1]
    return F.pad(images.diff(dim=axis), padding)


@dataclass(frozen=True)
class Pixels:
    """Parametrisation of images by their pixels."""

    shape: tuple[int, ...]  # (n, c, *space)

    @property
    def parameters_shape(self) -> tuple[int, ...]:
        """Return the shape of the optimised parameters."""
        return self.shape

    def __call__(self, parameters: Tensor) -> Images:
        return parameters


@dataclass(frozen=True)
class Fourier:
    """Parametrisation by a real Fourier spectrum, each coefficient divided by its frequency, as in natural images.

    Olah et al., "Feature visualization", Distill 2017, section on preconditioning. Independent coefficients of variance
    1 give pixels of variance 1.
    """

    shape: tuple[int, ...]  # (n, c, *space)

    @property
    def parameters_shape(self) -> tuple[int, ...]:
        """Return the shape of the parameters: half a spectrum, with real and imaginary parts on the last axis."""
        return (*self.shape[:-1], self.shape[-1] // 2 + 1, 2)

    def __call__(self, parameters: Tensor) -> Images:
        space = self.shape[2:]
        weights = 1 / _frequencies(space, parameters).clamp(min=1 / max(space))  # the mean has the weight of one period
        spectrum = torch.view_as_complex(parameters) * (weights / self._deviation(weights))
        return torch.fft.irfftn(spectrum, s=space, dim=tuple(range(2, len(self.shape))), norm="ortho")

    def _deviation(self, weights: Tensor) -> Tensor:
        """Return the standard deviation of the pixels for coefficients with these standard deviations."""
        times = weights.new_full((weights.shape[-1],), 4.0)  # real and imaginary part, each also in the mirrored half
        times[0] = 1.0  # its own mirror image: irfftn uses only the real part
        if self.shape[-1] % 2 == 0:
            times[-1] = 1.0
        return (weights.square() * times).sum().div(math.prod(self.shape[2:])).sqrt()


@dataclass(frozen=True, eq=False)
class Canvas:
    """Optimised parameters, and the stages that turn them into normalised images."""

    parameters: Tensor
    stages: Sequence[Callable[[Tensor], Tensor]]

    def images(self) -> Images:
        """Return the current images, differentiable with respect to the parameters."""
        return functools.reduce(lambda images, stage: stage(images), self.stages, self.parameters)

    def blur(self, sigma: float) -> None:
        """Blur the parameters in place; they must be pixels."""
        self.parameters.data.copy_(gaussian_blur(self.parameters.data, sigma))


def with_natural_colours(images: Images) -> Images:
    """Mix three independent channels to red, green and blue."""
    return torch.einsum("rc,nc...->nr...", natural_colours(images), images)


def pixel_bounds(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Images], Images]:
    """Return a function that maps real values to normalised pixels from 0 to 1, by a sigmoid; 0 is mid-grey."""

    def bound(images: Images) -> Images:
        shape = (-1, *(1,) * (images.ndim - 2))
        middle, spread = (images.new_tensor(each).view(shape) for each in (mean, std))
        return (images.sigmoid() - middle) / spread

    return bound


def _frequencies(space: tuple[int, ...], like: Tensor) -> Tensor:
    """Return the magnitude of each frequency of half a spectrum, in periods per pixel."""
    full = [torch.fft.fftfreq(side, device=like.device, dtype=like.dtype) for side in space[:-1]]
    half = torch.fft.rfftfreq(space[-1], device=like.device, dtype=like.dtype)
    return torch.stack(torch.meshgrid(*full, half, indexing="ij")).square().sum(0).sqrt()


@dataclass(frozen=True)
class RandomMovement:
    """Random transform that shifts, scales and rotates each image about its centre, anew at each call.

    The image is mirrored beyond its border. Volumes are rotated in the plane of their last two axes.

    Args:
        jitter: Maximum shift in whole pixels, for all axes or for each.
        scale: Maximum relative change of the image's size.
        rotate: Maximum angle, in degrees.
        generator: Generator of the random numbers, on the CPU.
    """

    jitter: int | tuple[int, ...]
    scale: float
    rotate: float
    generator: torch.Generator

    def weakened(self, strength: float) -> "RandomMovement":
        """Return the same transform with its maxima multiplied by a strength from 0 to 1."""
        maxima = {
            "jitter": tuple(round(strength * shift) for shift in self._max_shifts()),
            "scale": strength * self.scale,
            "rotate": strength * self.rotate,
        }
        return replace(self, **maxima)  # type: ignore[arg-type]

    def __call__(self, images: Images) -> Images:
        if not (any(self._max_shifts()) or self.scale or self.rotate):
            return images
        if images.ndim not in (4, 5):
            raise InvalidInput(
                f"Random movement requires images with two or three spatial axes, got shape {tuple(images.shape)}: "
                "use jitter=0, scale=0 and rotate=0."
            )
        grid = F.affine_grid(self._matrices(images), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    def _matrices(self, images: Images) -> Float[Tensor, "n axes axes_and_one"]:
        """Return affine matrices for affine_grid, whose coordinates run from -1 to 1, last axis first."""
        count, axes = len(images), images.ndim - 2
        angle = math.radians(self.rotate) * self._uniform(count)
        matrices = torch.eye(axes, dtype=torch.float64, device="cpu").repeat(count, 1, 1)
        matrices[:, 0, 0], matrices[:, 0, 1] = angle.cos(), -angle.sin()
        matrices[:, 1, 0], matrices[:, 1, 1] = angle.sin(), angle.cos()
        matrices /= (1 + self.scale * self._uniform(count))[:, None, None]
        maxima = torch.tensor((self._max_shifts() * axes)[:axes], device="cpu")[:, None]
        largest = int(maxima.max())
        shift = torch.randint(-largest, largest + 1, (count, axes, 1), generator=self.generator, device="cpu")
        shift = (shift * maxima / max(1, largest)).round()  # drawn in one range, scaled to that of each axis
        half = torch.tensor(images.shape[:1:-1], dtype=torch.float64, device="cpu") / 2  # pixels, centre to border
        matrices = matrices * half / half[:, None]
        return torch.cat([matrices, shift / half[:, None]], dim=2).to(images)

    def _max_shifts(self) -> tuple[int, ...]:
        """Return the maximum shifts: one for all axes, or one for each."""
        return self.jitter if isinstance(self.jitter, tuple) else (self.jitter,)

    def _uniform(self, count: int) -> Tensor:
        """Draw numbers between -1 and 1."""
        return 2 * torch.rand(count, generator=self.generator, dtype=torch.float64, device="cpu") - 1
