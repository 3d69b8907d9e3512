"""Average sensitivity."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from attribkit.core.attribution import Attribution
from attribkit.core.metric import Robustness
from attribkit.core.model import HookedModel
from attribkit.core.options import Count, Positive, Seed
from attribkit.core.shapes import PerImage
from attribkit.metrics.robustness.moves import lengths, uniform_moves


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

    radius: Positive = 0.02  # largest change of a value, in the units of the model's images
    samples: Count = 10  # noisy images
    seed: Seed = 0

    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        moved = uniform_moves(self, model, attribution, self.radius, self.samples, self.seed)[..., 0].mean(0)
        norm = lengths(self.heatmap(attribution))
        return torch.where(norm > 0, moved / norm, torch.nan)
