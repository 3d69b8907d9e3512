"""Metrics of how concentrated a map is: its Gini index, its entropy, and the number of pixels that matter."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.metric import Complexity
from attribkit._core.options import FractionBelowOne
from attribkit._core.shapes import Heatmaps, PerImage


@dataclass(frozen=True)
class Sparseness(Complexity):
    """Gini index of the heatmap's magnitudes: 0 if they are all equal, 1 - 1/N if one of N pixels has the whole sum.

    The value is NaN for a heatmap that is zero everywhere.
    """

    name: ClassVar[str] = "sparseness"
    source: ClassVar[str] = "Chalasani et al., ICML 2020, Gini index"
    higher_is_better: ClassVar[bool | None] = True

    def __call__(self, attribution: Attribution) -> PerImage:
        ordered = relative_magnitudes(self.heatmap(attribution)).sort(1).values
        count = ordered.shape[1]
        rank = torch.arange(1, count + 1, dtype=ordered.dtype, device=ordered.device)
        return (ordered * (2 * rank - count - 1)).sum(1) / (count * ordered.sum(1))


@dataclass(frozen=True)
class MapEntropy(Complexity):
    """Entropy of the heatmap's magnitudes, normalised to a sum of one, in nats: 0 to the logarithm of the pixel count.

    The value is NaN for a heatmap that is zero everywhere.
    """

    name: ClassVar[str] = "complexity"
    source: ClassVar[str] = "Bhatt et al., IJCAI 2020, complexity"
    higher_is_better: ClassVar[bool | None] = False

    def __call__(self, attribution: Attribution) -> PerImage:
        magnitudes = relative_magnitudes(self.heatmap(attribution))
        return torch.special.entr(magnitudes / magnitudes.sum(1, keepdim=True)).sum(1)


@dataclass(frozen=True)
class EffectiveComplexity(Complexity):
    """Number of pixels whose magnitude is not negligible relative to the largest magnitude of the heatmap.

    The value is NaN for a heatmap that is zero everywhere.

    Args:
        negligible: Fraction of the largest magnitude up to which a pixel does not count.
    """

    name: ClassVar[str] = "effective_complexity"
    source: ClassVar[str] = "Nguyen and Martinez, 2020, arXiv:2007.07584, effective complexity, of magnitudes"
    higher_is_better: ClassVar[bool | None] = False

    negligible: FractionBelowOne = 1e-5

    def __call__(self, attribution: Attribution) -> PerImage:
        magnitudes = relative_magnitudes(self.heatmap(attribution))
        return torch.where(magnitudes.isnan(), torch.nan, (magnitudes > self.negligible).double()).sum(1)


def relative_magnitudes(heatmap: Heatmaps) -> Float[Tensor, "b n"]:
    """Divide the pixels' magnitudes by the largest of the image, in float64; NaN where an image is zero everywhere."""
    magnitudes = heatmap.double().abs().flatten(1)
    return magnitudes / magnitudes.amax(1, keepdim=True)
