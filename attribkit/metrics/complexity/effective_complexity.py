"""Effective complexity."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from attribkit.core.attribution import Attribution
from attribkit.core.metric import Complexity
from attribkit.core.options import ShareBelowOne
from attribkit.core.shapes import PerImage
from attribkit.metrics.complexity.magnitudes import relative_magnitudes


@dataclass(frozen=True)
class EffectiveComplexity(Complexity):
    """How many pixels of the heatmap are more than negligible beside the largest magnitude; NaN where it is zero."""

    name: ClassVar[str] = "effective_complexity"
    source: ClassVar[str] = "Nguyen and Martinez, 2020, arXiv:2007.07584, effective complexity, of magnitudes"
    higher_is_better: ClassVar[bool | None] = False

    negligible: ShareBelowOne = 1e-5  # share of the largest magnitude up to which a pixel does not count

    def __call__(self, attribution: Attribution) -> PerImage:
        magnitudes = relative_magnitudes(self.heatmap(attribution))
        return torch.where(magnitudes.isnan(), torch.nan, (magnitudes > self.negligible).double()).sum(1)
