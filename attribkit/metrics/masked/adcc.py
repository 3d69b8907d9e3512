"""Average DCC."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.model import HookedModel
from attribkit.core.shapes import PerImage
from attribkit.metrics.asked_again import asked_again
from attribkit.metrics.correlation import pearson
from attribkit.metrics.masked.average_drop import relative_drop
from attribkit.metrics.masked.on_masked import OnMasked


@dataclass(frozen=True, kw_only=True)
class AverageDCC(OnMasked):
    """The harmonic mean of what a map keeps of the score, its coherency and its brevity, 0 to 1.

    Coherency runs the method again, on the image multiplied by the map; brevity is one less the mean of the map. NaN
    where a score that is no probability falls below zero, or a map is constant.
    """

    name: ClassVar[str] = "adcc"
    source: ClassVar[str] = "Poppi et al., CVPR Workshops 2021, average DCC"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        parts = self.details(model, attributions)
        kept, brevity = 1 - parts["average_drop"], 1 - parts["complexity"]
        mean = 3 / (1 / kept + 1 / parts["coherency"] + 1 / brevity)
        return torch.where(kept >= 0, mean, torch.nan)

    def details(self, model: HookedModel, attributions: Sequence[Attribution]) -> Mapping[str, Tensor]:
        """The three that it is made of, each (m, b)."""
        before, after = self.before_and_after(model, attributions, "probability")
        return {
            "average_drop": relative_drop(before, after),
            "coherency": torch.stack([self._coherency(model, each) for each in attributions]).to(before.dtype),
            "complexity": torch.stack([self.mask(each).flatten(1).mean(1) for each in attributions]).to(before.dtype),
        }

    def _coherency(self, model: HookedModel, attribution: Attribution) -> PerImage:
        """How alike the map is to that of the image multiplied by it: Pearson's correlation, from 0 to 1."""
        key = ("map of the image under a map", attribution, self.reduce)
        again = model.remembered(key, lambda: asked_again(self, model, attribution, x=self.masked(attribution)))
        return (1 + pearson(self.heatmap(attribution).flatten(1), again.flatten(1))) / 2
