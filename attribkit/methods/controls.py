"""Maps that know nothing of the model: what a method must be better than."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from attribkit.contracts.method import Method
from attribkit.core.options import PositiveFloat, Seed
from attribkit.core.shapes import Images, Scores
from attribkit.engine.model import HookedModel
from attribkit.targets.target import Target


@dataclass(frozen=True)
class Random(Method):
    """Uniform noise, the same for every image."""

    name: ClassVar[str] = "random"
    source: ClassVar[str] = "a control"
    needs_target: ClassVar[bool] = False

    seed: Seed = 0

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        random = torch.Generator().manual_seed(self.seed)
        noise = torch.rand(
            1, 1, *x.shape[2:], generator=random, dtype=torch.float32, device="cpu"
        )  # the same for every precision
        return noise.to(x).expand(len(x), -1, *x.shape[2:])


@dataclass(frozen=True)
class Centre(Method):
    """A Gaussian at the centre of the image, where photographers put their objects."""

    name: ClassVar[str] = "centre"
    source: ClassVar[str] = "a control"
    needs_target: ClassVar[bool] = False

    sigma: PositiveFloat = 0.25  # standard deviation along each axis, as a share of its length

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        axes = [torch.linspace(-0.5 + 0.5 / n, 0.5 - 0.5 / n, n, device=x.device, dtype=x.dtype) for n in x.shape[2:]]
        squared = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0)
        return torch.exp(-squared / (2 * self.sigma**2)).expand(len(x), 1, *x.shape[2:])


@dataclass(frozen=True)
class Edges(Method):
    """The magnitude of the image's own gradient, by Sobel filters along each axis, largest over the channels."""

    name: ClassVar[str] = "edges"
    source: ClassVar[str] = "a control; Sobel and Feldman, 1968"
    needs_target: ClassVar[bool] = False

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        slopes = [_slope(x, axis) for axis in range(2, x.ndim)]
        return torch.stack(slopes).square().sum(0).sqrt().amax(1, keepdim=True)


@dataclass(frozen=True)
class Constant(Method):
    """One everywhere: what a metric gives a map that prefers no pixel."""

    name: ClassVar[str] = "constant"
    source: ClassVar[str] = "a control"
    needs_target: ClassVar[bool] = False

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return x.new_ones(len(x), 1, *x.shape[2:])


@dataclass(frozen=True)
class InputNorm(Method):
    """How far each pixel is from the mean colour: its norm over the channels of the normalised image."""

    name: ClassVar[str] = "input_norm"
    source: ClassVar[str] = "a control"
    needs_target: ClassVar[bool] = False

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return x.norm(dim=1, keepdim=True)


def _slope(x: Images, axis: int) -> Images:
    """Differences along one axis, smoothed along the others; the border is repeated."""
    for other in range(2, x.ndim):
        kernel = (-1.0, 0.0, 1.0) if other == axis else (1.0, 2.0, 1.0)
        padding = [0] * (2 * (x.ndim - 1 - other)) + [1, 1] + [0] * (2 * (other - 2))
        wide = F.pad(x, padding, mode="replicate")
        x = torch.stack([weight * wide.narrow(other, i, x.shape[other]) for i, weight in enumerate(kernel)]).sum(0)
    return x
