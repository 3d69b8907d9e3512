"""Maximum sensitivity."""

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
class MaxSensitivity(Robustness):
    """The largest move of the heatmap under a little uniform noise, as a share of the heatmap's norm.

    NaN where the heatmap is zero.
    """

    name: ClassVar[str] = "max_sensitivity"
    source: ClassVar[str] = "Yeh et al., NeurIPS 2019, definition 3, by the norm of the heatmap as their code has it"
    higher_is_better: ClassVar[bool | None] = False

    radius: Positive = 0.02  # largest change of a value, in the units of the model's images
    samples: Count = 10  # noisy images; grows with their number
    seed: Seed = 0

    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        moved = uniform_moves(self, model, attribution, self.radius, self.samples, self.seed)[..., 0].amax(0)
        norm = lengths(self.heatmap(attribution))
        return torch.where(norm > 0, moved / norm, torch.nan)
