"""What an image is made of while it is optimised: pixels or frequencies, plain or natural colours, bounded or not."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attribkit.core.shapes import Images
from attribkit.visualizers.colours import natural_colours
from attribkit.visualizers.regularisers import blurred


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
