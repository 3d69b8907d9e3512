"""Metrics of robustness: how far a map changes when a little noise is added to the image."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.metric import Robustness
from attribkit._core.options import PositiveFloat, PositiveInt, Seed
from attribkit._core.shapes import Images, PerImage
from attribkit._display.progress import track
from attribkit._engine.model import HookedModel
from attribkit.metrics._scores import recompute

Noise = Callable[[tuple[int, ...], torch.Generator], Tensor]  # draws noise of a shape, on the CPU
Distances = Float[Tensor, "samples b 2"]  # float64 norms of the change of the heatmap, and of the image


def perturbation_distances(
    metric: Robustness, model: HookedModel, attribution: Attribution, noise: Noise, samples: int, seed: int
) -> Distances:
    """Compute how far the heatmap, and the image, change under noise that is the same for every image."""
    heatmap, x = metric.heatmap(attribution), attribution.x
    distances = []
    for noisy in _noisy_images(x, noise, samples, seed):
        noisy_heatmap = recompute(metric, model, attribution, x=noisy)
        distances.append(torch.stack([euclidean_norms(noisy_heatmap - heatmap), euclidean_norms(noisy - x)], 1))
    return torch.stack(distances)


def uniform_perturbation_distances(
    metric: Robustness, model: HookedModel, attribution: Attribution, radius: float, samples: int, seed: int
) -> Distances:
    """Compute the distances under uniform noise from -radius to radius, once for all metrics with equal options."""

    def noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return (2 * torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") - 1) * radius

    key = ("uniform perturbation distances", attribution, metric.reduce, radius, samples, seed)
    return model.cached(key, lambda: perturbation_distances(metric, model, attribution, noise, samples, seed))


def euclidean_norms(maps: Tensor) -> Float[Tensor, " b"]:
    """Return the Euclidean norm of each image's values, in float64."""
    return maps.flatten(1).double().norm(dim=1)


def _noisy_images(x: Images, noise: Noise, samples: int, seed: int) -> Iterator[Images]:
    generator = torch.Generator().manual_seed(seed)
    for _ in track(range(samples), "noisy images"):
        yield x + noise((1, *x.shape[1:]), generator).to(x)


@dataclass(frozen=True)
class UniformNoiseSensitivity(Robustness):
    """Base class for distances of the heatmaps of noisy images from the heatmap, relative to its norm.

    They are NaN where the heatmap is zero everywhere.

    Args:
        radius: Maximum change of a value by the uniform noise, in units of the normalised images.
        samples: Number of noisy images.
        seed: Seed of the noise.
    """

    higher_is_better: ClassVar[bool | None] = False

    radius: PositiveFloat = 0.02
    samples: PositiveInt = 10
    seed: Seed = 0

    def relative_distances(self, model: HookedModel, attribution: Attribution) -> Float[Tensor, "samples b"]:
        """Return the distance of the heatmap of each noisy image, relative to the norm of the heatmap."""
        distances = uniform_perturbation_distances(self, model, attribution, self.radius, self.samples, self.seed)
        norm = euclidean_norms(self.heatmap(attribution))
        return torch.where(norm > 0, distances[..., 0] / norm, torch.nan)


class AverageSensitivity(UniformNoiseSensitivity):
    """Mean distance of the heatmaps of noisy images from the heatmap; the options are those of the base class."""

    name: ClassVar[str] = "average_sensitivity"
    source: ClassVar[str] = (
        "Bhatt et al., IJCAI 2020, average sensitivity, of uniform noise and by the norm of the heatmap"
    )

    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        return self.relative_distances(model, attribution).mean(0)


class MaxSensitivity(UniformNoiseSensitivity):
    """Maximum distance of the heatmaps of noisy images from the heatmap; it grows with the number of samples."""

    name: ClassVar[str] = "max_sensitivity"
    source: ClassVar[str] = "Yeh et al., NeurIPS 2019, definition 3, by the norm of the heatmap as their code has it"

    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        return self.relative_distances(model, attribution).amax(0)


@dataclass(frozen=True)
class LocalLipschitz(Robustness):
    """Maximum ratio of the distance of heatmaps to the distance of images, under normal noise.

    The value grows with the number of samples.

    Args:
        sigma: Standard deviation of the noise, in units of the normalised images.
        samples: Number of noisy images.
        seed: Seed of the noise.
    """

    name: ClassVar[str] = "local_lipschitz"
    source: ClassVar[str] = "Alvarez-Melis and Jaakkola, 2018, arXiv:1806.08049, local Lipschitz estimate, by sampling"
    higher_is_better: ClassVar[bool | None] = None

    sigma: PositiveFloat = 0.1
    samples: PositiveInt = 10
    seed: Seed = 0

    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        distances = perturbation_distances(self, model, attribution, self._noise, self.samples, self.seed)
        return (distances[..., 0] / distances[..., 1]).amax(0)

    def _noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu") * self.sigma
