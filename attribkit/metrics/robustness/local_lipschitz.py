"""Local Lipschitz estimate."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.metric import Robustness
from attribkit.core.model import HookedModel
from attribkit.core.options import Count, Positive, Seed
from attribkit.core.shapes import PerImage
from attribkit.metrics.robustness.moves import moves


@dataclass(frozen=True)
class LocalLipschitz(Robustness):
    """The largest move of the heatmap by the move of the image, under a little normal noise."""

    name: ClassVar[str] = "local_lipschitz"
    source: ClassVar[str] = "Alvarez-Melis and Jaakkola, 2018, arXiv:1806.08049, local Lipschitz estimate, by sampling"
    higher_is_better: ClassVar[bool | None] = None

    sigma: Positive = 0.1  # standard deviation of the noise, in the units of the model's images
    samples: Count = 10  # noisy images; grows with their number
    seed: Seed = 0

    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        found = moves(self, model, attribution, self._noise, self.samples, self.seed)
        return (found[..., 0] / found[..., 1]).amax(0)

    def _noise(self, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float32, device="cpu") * self.sigma
