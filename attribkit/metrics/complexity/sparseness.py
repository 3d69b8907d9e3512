"""Sparseness: the Gini index of a map."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from attribkit.core.attribution import Attribution
from attribkit.core.metric import Complexity
from attribkit.core.shapes import PerImage
from attribkit.metrics.complexity.magnitudes import relative_magnitudes


@dataclass(frozen=True)
class Sparseness(Complexity):
    """The Gini index of the heatmap's magnitudes: 0 where all pixels are alike, 1 - 1/N where one of N has it all.

    NaN where the heatmap is zero.
    """

    name: ClassVar[str] = "sparseness"
    source: ClassVar[str] = "Chalasani et al., ICML 2020, Gini index"
    higher_is_better: ClassVar[bool | None] = True

    def __call__(self, attribution: Attribution) -> PerImage:
        ordered = relative_magnitudes(self.heatmap(attribution)).sort(1).values
        count = ordered.shape[1]
        place = torch.arange(1, count + 1, dtype=ordered.dtype, device=ordered.device)
        return (ordered * (2 * place - count - 1)).sum(1) / (count * ordered.sum(1))
