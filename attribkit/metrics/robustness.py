"""[metrics/robustness/moves] How far a map moves when the image moves a little.
[metrics/robustness/average_sensitivity] Average sensitivity.
[metrics/robustness/local_lipschitz] Local Lipschitz estimate.
[metrics/robustness/max_sensitivity] Maximum sensitivity.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.contracts.attribution import Attribution
from attribkit.contracts.metric import Robustness
from attribkit.core.options import PositiveFloat, PositiveInt, Seed
from attribkit.core.progress import track
from attribkit.core.shapes import Images, PerImage
from attribkit.engine.model import HookedModel
from attribkit.metrics.scores import recompute

Noise = Callable[[tuple[int, ...], torch.Generator], Tensor]  # for a shape, on the CPU
Distances = Float[Tensor, "samples b 2"]  # lengths, in float64: by how much the heatmaps differ, and the images


def perturbation_distances(
    metric: Robustness, model: HookedModel, attribution: Attribution, noise: Noise, samples: int, seed: int
) -> Distances:
    """How far the heatmaps of noisy images are from those of the images, and the images from each other.

    The noise is the same for every image.
    """
    own, x = metric.heatmap(attribution), attribution.x
    found = []
    for noisy in _noisy(x, noise, samples, seed):
        again = recompute(metric, model, attribution, x=noisy)
        found.append(torch.stack([euclidean_norms(again - own), euclidean_norms(noisy - x)], 1))
    return torch.stack(found)


def uniform_perturbation_distances(
    metric: Robustness, model: HookedModel, attribution: Attribution, radius: float, samples: int, seed: int
) -> Distances:
    """The moves under noise that is uniform up to the radius; asked once for all metrics that read the same."""

    def noise(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
        return (2 * torch.rand(shape, generator=random, dtype=torch.float32, device="cpu") - 1) * radius

    key = ("uniform moves", attribution, metric.reduce, radius, samples, seed)
    return model.cached(key, lambda: perturbation_distances(metric, model, attribution, noise, samples, seed))


def euclidean_norms(maps: Tensor) -> Float[Tensor, " b"]:
    """The Euclidean norm of each image's values, in float64."""
    return maps.flatten(1).double().norm(dim=1)


def _noisy(x: Images, noise: Noise, samples: int, seed: int) -> Iterator[Images]:
    random = torch.Generator().manual_seed(seed)
    for _ in track(range(samples), "noisy images", samples):
        yield x + noise((1, *x.shape[1:]), random).to(x)


@dataclass(frozen=True)
class AverageSensitivity(Robustness):
    """The mean move of the heatmap under a little uniform noise, as a share of the heatmap's norm.

    NaN where the heatmap is zero.
    """

    name: ClassVar[str] = "average_sensitivity"
    source: ClassVar[str] = (
        "Bhatt et al., IJCAI 2020, average sensitivity, of uniform noise and by the norm of the heatmap"
    )
    higher_is_better: ClassVar[bool | None] = False

    radius: PositiveFloat = 0.02  # largest change of a value, in the units of the model's images
    samples: PositiveInt = 10  # noisy images
    seed: Seed = 0

    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        moved = uniform_perturbation_distances(self, model, attribution, self.radius, self.samples, self.seed)[
            ..., 0
        ].mean(0)
        norm = euclidean_norms(self.heatmap(attribution))
        return torch.where(norm > 0, moved / norm, torch.nan)


@dataclass(frozen=True)
class LocalLipschitz(Robustness):
    """The largest move of the heatmap by the move of the image, under a little normal noise."""

    name: ClassVar[str] = "local_lipschitz"
    source: ClassVar[str] = "Alvarez-Melis and Jaakkola, 2018, arXiv:1806.08049, local Lipschitz estimate, by sampling"
    higher_is_better: ClassVar[bool | None] = None

    sigma: PositiveFloat = 0.1  # standard deviation of the noise, in the units of the model's images
    samples: PositiveInt = 10  # noisy images; grows with their number
    seed: Seed = 0

    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        found = perturbation_distances(self, model, attribution, self._noise, self.samples, self.seed)
        return (found[..., 0] / found[..., 1]).amax(0)

    def _noise(self, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float32, device="cpu") * self.sigma


@dataclass(frozen=True)
class MaxSensitivity(Robustness):
    """The largest move of the heatmap under a little uniform noise, as a share of the heatmap's norm.

    NaN where the heatmap is zero.
    """

    name: ClassVar[str] = "max_sensitivity"
    source: ClassVar[str] = "Yeh et al., NeurIPS 2019, definition 3, by the norm of the heatmap as their code has it"
    higher_is_better: ClassVar[bool | None] = False

    radius: PositiveFloat = 0.02  # largest change of a value, in the units of the model's images
    samples: PositiveInt = 10  # noisy images; grows with their number
    seed: Seed = 0

    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        moved = uniform_perturbation_distances(self, model, attribution, self.radius, self.samples, self.seed)[
            ..., 0
        ].amax(0)
        norm = euclidean_norms(self.heatmap(attribution))
        return torch.where(norm > 0, moved / norm, torch.nan)
