"""Complexity: the entropy of a map."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from attribkit.core.attribution import Attribution
from attribkit.core.metric import Complexity
from attribkit.core.shapes import PerImage
from attribkit.metrics.complexity.magnitudes import relative_magnitudes


@dataclass(frozen=True)
class MapEntropy(Complexity):
    """The entropy of the heatmap's magnitudes as shares of their sum, in nats: 0 to the logarithm of the pixels.

    NaN where the heatmap is zero.
    """

    name: ClassVar[str] = "complexity"
    source: ClassVar[str] = "Bhatt et al., IJCAI 2020, complexity"
    higher_is_better: ClassVar[bool | None] = False

    def __call__(self, attribution: Attribution) -> PerImage:
        magnitudes = relative_magnitudes(self.heatmap(attribution))
        return torch.special.entr(magnitudes / magnitudes.sum(1, keepdim=True)).sum(1)
