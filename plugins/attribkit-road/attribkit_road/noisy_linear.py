"""Noisy linear imputation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attribkit import Imputer, NonNegativeFloat, OpenFraction, Seed

from .conjugate_gradients import solved


@dataclass(frozen=True)
class NoisyLinear(Imputer):
    """Fills each removed pixel with the weighted mean of its neighbours, removed ones included, and a little noise.

    The weights are products of 1, 2, 1 along the axes of space: of an image 1/6 for direct neighbours and 1/12 for
    diagonal ones; beyond the border there are none. An image that is removed whole is filled with its mean.
    """

    name = "noisy_linear"
    source = "Rong et al., ICML 2022, noisy linear imputation"
    noise: NonNegativeFloat = 0.01  # standard deviation, in units of the normalised images
    tolerance: OpenFraction = 1e-4  # of the residual of the linear system, as a share of its right side
    seed: Seed = 0  # of the noise, which is the same for every image

    def __call__(self, x, removed):
        precise = x if x.dtype == torch.float64 else x.float()
        filled = linearly_filled(precise, removed.expand(len(x), -1, *x.shape[2:]), self.tolerance).to(x.dtype)
        noise = torch.randn(
            x.shape[1:], generator=torch.Generator().manual_seed(self.seed), dtype=torch.float32, device="cpu"
        ).to(x)
        return torch.where(removed, filled + self.noise * noise, x)


def linearly_filled(x: Tensor, removed: Tensor, tolerance: float) -> Tensor:
    """The images with each removed pixel, (b, 1, *space), the weighted mean of its neighbours."""
    known, holes = (~removed).to(x.dtype), removed.to(x.dtype)
    weights = neighbours(torch.ones_like(x[:1, :1]))
    mean = known_mean(x, known)  # without it there is less to solve for: a constant image takes no step

    def apply(values: Tensor) -> Tensor:
        return (weights * values).sub_(neighbours(values)).mul_(holes)

    return mean + solved(apply, weights, holes * neighbours(known * (x - mean)), tolerance)


def known_mean(x: Tensor, known: Tensor) -> Tensor:
    """The mean of what is left of each channel, of all of it where nothing is."""
    space = tuple(range(2, x.ndim))
    count = known.sum(space, keepdim=True)
    return torch.where(count > 0, (x * known).sum(space, keepdim=True) / count.clamp(min=1), x.mean(space, True))


def neighbours(values: Tensor) -> Tensor:
    """The sum of each pixel's neighbours, those at a corner once, those beside it twice as often for each axis shared.

    Sums of shifted copies, since a convolution may round to ten bits on a GPU.
    """
    total = values
    for axis in range(2, values.ndim):
        along = total
        total = 2 * along
        total.narrow(axis, 1, values.shape[axis] - 1).add_(along.narrow(axis, 0, values.shape[axis] - 1))
        total.narrow(axis, 0, values.shape[axis] - 1).add_(along.narrow(axis, 1, values.shape[axis] - 1))
    return total.sub_(values, alpha=2 ** (values.ndim - 2))
