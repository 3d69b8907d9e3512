"""[metrics/complexity/magnitudes] The magnitudes of a map, for what asks how they are spread.
[metrics/complexity/sparseness] Sparseness: the Gini index of a map.
[metrics/complexity/entropy] Complexity: the entropy of a map.
[metrics/complexity/effective_complexity] Effective complexity.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.contracts.attribution import Attribution
from attribkit.contracts.metric import Complexity
from attribkit.core.options import FractionBelowOne
from attribkit.core.shapes import Heatmaps, PerImage


def relative_magnitudes(heatmap: Heatmaps) -> Float[Tensor, "b n"]:
    """The pixels' magnitudes by the largest of the image, in float64; NaN throughout an image that is zero."""
    magnitudes = heatmap.double().abs().flatten(1)
    return magnitudes / magnitudes.amax(1, keepdim=True)


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


@dataclass(frozen=True)
class EffectiveComplexity(Complexity):
    """How many pixels of the heatmap are more than negligible beside the largest magnitude; NaN where it is zero."""

    name: ClassVar[str] = "effective_complexity"
    source: ClassVar[str] = "Nguyen and Martinez, 2020, arXiv:2007.07584, effective complexity, of magnitudes"
    higher_is_better: ClassVar[bool | None] = False

    negligible: FractionBelowOne = 1e-5  # share of the largest magnitude up to which a pixel does not count

    def __call__(self, attribution: Attribution) -> PerImage:
        magnitudes = relative_magnitudes(self.heatmap(attribution))
        return torch.where(magnitudes.isnan(), torch.nan, (magnitudes > self.negligible).double()).sum(1)
