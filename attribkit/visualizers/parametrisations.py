"""[visualizers/colours] The colours of natural images, as coordinates that do not depend on each other.
[visualizers/regularisers] What keeps an image from noise: penalties per image, and blur.
[visualizers/parametrisations] What an image is made of while it is optimised: pixels or frequencies, plain or natural colours, bounded or not.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attribkit.core.shapes import Images, PerImage

# Principal components of the RGB values of ImageNet's training pixels, 0 to 1: the statistics behind the colour
# augmentation of Krizhevsky et al., NeurIPS 2012, sec. 4.1, in the numbers of Facebook AI Research's fb.resnet.torch
# (2016, datasets/imagenet.lua). Columns: lightness, blue against yellow, green against red and blue.
_VARIANCES = (0.2175, 0.0188, 0.0045)
_COMPONENTS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def natural_colours(like: Tensor) -> Float[Tensor, "3 3"]:
    """What turns independent numbers of variance 1 into red, green and blue as natural images mix them.

    Scaled such that the three have a mean variance of 1; like: tells device and precision.
    """
    mixing = like.new_tensor(_COMPONENTS) * like.new_tensor(_VARIANCES).sqrt()
    return mixing / mixing.square().sum().div(3).sqrt()


def squared_norm(images: Images) -> PerImage:
    """The sum of the squares of all values (Simonyan et al., 2014, sec. 2)."""
    return images.square().flatten(1).sum(1)


def total_variation(images: Images) -> PerImage:
    """The isotropic total variation: the length of the step to the next pixels, summed over pixels and channels.

    Rudin, Osher and Fatemi, Physica D 1992. No step leads over the border; where the image is flat, its gradient is 0.
    """
    steps = [_step(images, axis) for axis in range(2, images.ndim)]
    return torch.linalg.vector_norm(torch.stack(steps), dim=0).flatten(1).sum(1)


def blurred(images: Images, sigma: float) -> Images:
    """The images under a Gaussian of this standard deviation in pixels, cut off and renormalised at the border."""
    for axis in range(2, images.ndim):
        place = torch.arange(images.shape[axis], device=images.device, dtype=images.dtype) / sigma
        kernel = torch.softmax(-((place[:, None] - place) ** 2) / 2, dim=1)
        images = (images.movedim(axis, -1) @ kernel.mT).movedim(-1, axis)
    return images


def _step(images: Images, axis: int) -> Images:
    """The difference to the next pixel along an axis, zero at the last."""
    padding = [0, 0] * (images.ndim - 1 - axis) + [0, 1]
    return F.pad(images.diff(dim=axis), padding)


@dataclass(frozen=True)
class Pixels:
    """The pixels themselves."""

    shape: tuple[int, ...]  # (n, c, *space)

    @property
    def parameters_shape(self) -> tuple[int, ...]:
        """Of the numbers that are optimised."""
        return self.shape

    def __call__(self, parameters: Tensor) -> Images:
        return parameters


@dataclass(frozen=True)
class Fourier:
    """A real Fourier spectrum, each coefficient divided by its frequency, as natural images have it.

    Olah et al., "Feature visualization", Distill 2017, section on preconditioning. Independent coefficients of variance
    1 give pixels of variance 1.
    """

    shape: tuple[int, ...]  # (n, c, *space)

    @property
    def parameters_shape(self) -> tuple[int, ...]:
        """Of the numbers that are optimised: real and imaginary parts of half a spectrum, the last axis."""
        return (*self.shape[:-1], self.shape[-1] // 2 + 1, 2)

    def __call__(self, parameters: Tensor) -> Images:
        space = self.shape[2:]
        weights = 1 / _frequencies(space, parameters).clamp(min=1 / max(space))  # the mean counts as one period
        spectrum = torch.view_as_complex(parameters) * (weights / self._deviation(weights))
        return torch.fft.irfftn(spectrum, s=space, dim=tuple(range(2, len(self.shape))), norm="ortho")

    def _deviation(self, weights: Tensor) -> Tensor:
        """The standard deviation of the pixels, if the coefficients have these; half of the spectrum is mirrored."""
        times = weights.new_full((weights.shape[-1],), 4.0)  # two numbers a frequency, each there twice
        times[0] = 1.0  # mirrored onto itself: the real part of a mean of two
        if self.shape[-1] % 2 == 0:
            times[-1] = 1.0
        return (weights.square() * times).sum().div(math.prod(self.shape[2:])).sqrt()


@dataclass(frozen=True, eq=False)
class Canvas:
    """Parameters, and the stages by which they become normalised images."""

    parameters: Tensor
    stages: Sequence[Callable[[Tensor], Tensor]]

    def images(self) -> Images:
        """The images as they are now; differentiable."""
        return functools.reduce(lambda made, stage: stage(made), self.stages, self.parameters)

    def blur(self, sigma: float) -> None:
        """Blur parameters that are pixels."""
        self.parameters.data.copy_(blurred(self.parameters.data, sigma))


def with_natural_colours(images: Images) -> Images:
    """Three independent channels, mixed to red, green and blue."""
    return torch.einsum("rc,nc...->nr...", natural_colours(images), images)


def bounded(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Images], Images]:
    """A map from any numbers to normalised pixels whose values lie between 0 and 1, by a sigmoid; 0 is mid-grey."""

    def bound(images: Images) -> Images:
        shape = (-1, *(1,) * (images.ndim - 2))
        middle, spread = (images.new_tensor(each).view(shape) for each in (mean, std))
        return (images.sigmoid() - middle) / spread

    return bound


def _frequencies(space: tuple[int, ...], like: Tensor) -> Tensor:
    """The magnitude of each frequency of half a spectrum, in periods a pixel."""
    full = [torch.fft.fftfreq(side, device=like.device, dtype=like.dtype) for side in space[:-1]]
    half = torch.fft.rfftfreq(space[-1], device=like.device, dtype=like.dtype)
    return torch.stack(torch.meshgrid(*full, half, indexing="ij")).square().sum(0).sqrt()
