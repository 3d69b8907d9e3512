"""Noisy linear imputation of removed pixels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attribkit import Imputer, NonNegativeFloat, OpenFraction, Seed

from .conjugate_gradients import solve


@dataclass(frozen=True)
class NoisyLinear(Imputer):
    """Imputer that sets each removed pixel to the weighted mean of its neighbours, removed ones included, plus noise.

    The weights are products of 1, 2, 1 along the spatial axes: for images 1/6 for direct and 1/12 for diagonal
    neighbours. Neighbours beyond the border do not count. An image without any remaining pixel is filled with the mean
    of each channel.

    Args:
        noise: Standard deviation of the Gaussian noise, in units of the normalised images.
        tolerance: Residual of the linear system, relative to its right side, at which the solver stops.
        seed: Seed of the noise, which is the same for every image.
    """

    name = "noisy_linear"
    source = "Rong et al., ICML 2022, noisy linear imputation"
    noise: NonNegativeFloat = 0.01
    tolerance: OpenFraction = 1e-4
    seed: Seed = 0

    def __call__(self, x: Tensor, removed: Tensor) -> Tensor:
        precise = x if x.dtype == torch.float64 else x.float()
        filled = impute_linearly(precise, removed.expand(len(x), -1, *x.shape[2:]), self.tolerance).to(x.dtype)
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(x.shape[1:], generator=generator, dtype=torch.float32, device="cpu").to(x)
        return torch.where(removed, filled + self.noise * noise, x)


def impute_linearly(x: Tensor, removed: Tensor, tolerance: float) -> Tensor:
    """Return images whose removed pixels, (b, 1, *space), are the weighted means of their neighbours."""
    kept, holes = (~removed).to(x.dtype), removed.to(x.dtype)
    weights = sum_neighbours(torch.ones_like(x[:1, :1]))
    mean = mean_of_kept(x, kept)  # subtracted to reduce the number of steps: a constant image needs none

    def apply(values: Tensor) -> Tensor:
        return (weights * values).sub_(sum_neighbours(values)).mul_(holes)

    return mean + solve(apply, weights, holes * sum_neighbours(kept * (x - mean)), tolerance)


def mean_of_kept(x: Tensor, kept: Tensor) -> Tensor:
    """Return the mean of each channel's kept pixels, or of all its pixels if none is kept."""
    space = tuple(range(2, x.ndim))
    count = kept.sum(space, keepdim=True)
    return torch.where(count > 0, (x * kept).sum(space, keepdim=True) / count.clamp(min=1), x.mean(space, True))


def sum_neighbours(values: Tensor) -> Tensor:
    """Sum each pixel's neighbours, with weights that are products of 1, 2, 1 along the axes.

    Shifted copies are added, since a convolution on a GPU may round its inputs to TF32, ten bits of mantissa.
    """
    total = values
    for axis in range(2, values.ndim):
        along = total
        total = 2 * along
        total.narrow(axis, 1, values.shape[axis] - 1).add_(along.narrow(axis, 0, values.shape[axis] - 1))
        total.narrow(axis, 0, values.shape[axis] - 1).add_(along.narrow(axis, 1, values.shape[axis] - 1))
    return total.sub_(values, alpha=2 ** (values.ndim - 2))
