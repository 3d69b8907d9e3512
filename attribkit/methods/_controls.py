"""Baseline methods (controls): maps that do not depend on the model, which a useful method must outperform."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from attribkit._contracts.method import Method
from attribkit._core.options import PositiveFloat, Seed
from attribkit._core.shapes import Images, Scores
from attribkit._engine.model import HookedModel
from attribkit._targets.target import Target


@dataclass(frozen=True)
class Random(Method):
    """Uniform noise from 0 to 1, the same for every image of a size.

    Args:
        seed: Seed of the noise.
    """

    name: ClassVar[str] = "random"
    display_name: ClassVar[str] = "Random"
    source: ClassVar[str] = "a control"
    uses_target: ClassVar[bool] = False

    seed: Seed = 0

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        generator = torch.Generator().manual_seed(self.seed)
        # Drawn as float32 on the CPU, so that the noise does not depend on the device or the precision.
        noise = torch.rand(1, 1, *x.shape[2:], generator=generator, dtype=torch.float32, device="cpu")
        return noise.to(x).expand(len(x), -1, *x.shape[2:])


@dataclass(frozen=True)
class Centre(Method):
    """Gaussian at the centre of the image, exp(-d^2 / (2 sigma^2)), since photographs often show the object there.

    Args:
        sigma: Standard deviation along each axis, as a fraction of the axis's length.
    """

    name: ClassVar[str] = "centre"
    display_name: ClassVar[str] = "Centre"
    source: ClassVar[str] = "a control"
    uses_target: ClassVar[bool] = False

    sigma: PositiveFloat = 0.25

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        axes = [torch.linspace(-0.5 + 0.5 / n, 0.5 - 0.5 / n, n, device=x.device, dtype=x.dtype) for n in x.shape[2:]]
        squared = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0)
        return torch.exp(-squared / (2 * self.sigma**2)).expand(len(x), 1, *x.shape[2:])


@dataclass(frozen=True)
class Edges(Method):
    """Edge magnitude of the image: the norm of its Sobel gradients along all axes, maximum over the channels."""

    name: ClassVar[str] = "edges"
    display_name: ClassVar[str] = "Edges"
    source: ClassVar[str] = "a control; Sobel and Feldman, 1968"
    uses_target: ClassVar[bool] = False

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        gradients = [_sobel(x, axis) for axis in range(2, x.ndim)]
        return torch.stack(gradients).square().sum(0).sqrt().amax(1, keepdim=True)


@dataclass(frozen=True)
class Constant(Method):
    """Map that is 1 everywhere; it shows the value of a metric for a map without any preference between pixels."""

    name: ClassVar[str] = "constant"
    display_name: ClassVar[str] = "Constant"
    source: ClassVar[str] = "a control"
    uses_target: ClassVar[bool] = False

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return x.new_ones(len(x), 1, *x.shape[2:])


@dataclass(frozen=True)
class InputNorm(Method):
    """Distance of each pixel from the mean colour: the norm over the channels of the normalised image."""

    name: ClassVar[str] = "input_norm"
    display_name: ClassVar[str] = "Input norm"
    source: ClassVar[str] = "a control"
    uses_target: ClassVar[bool] = False

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return x.norm(dim=1, keepdim=True)


def _sobel(x: Images, axis: int) -> Images:
    """Compute differences along one axis, smoothed along the other axes; the border pixels are repeated."""
    for other in range(2, x.ndim):
        kernel = (-1.0, 0.0, 1.0) if other == axis else (1.0, 2.0, 1.0)
        padding = [0] * (2 * (x.ndim - 1 - other)) + [1, 1] + [0] * (2 * (other - 2))
        padded = F.pad(x, padding, mode="replicate")
        x = torch.stack([weight * padded.narrow(other, i, x.shape[other]) for i, weight in enumerate(kernel)]).sum(0)
    return x
