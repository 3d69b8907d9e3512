"""Relevance mass."""

from dataclasses import dataclass
from typing import ClassVar

from attribkit.core.attribution import Attribution
from attribkit.core.metric import Localization
from attribkit.core.shapes import PerImage
from attribkit.core.truth import Truth


@dataclass(frozen=True)
class RelevanceMass(Localization):
    """The share of the heatmap's positive part that lies on the object, 0 to 1; 0 where there is no positive part."""

    name: ClassVar[str] = "relevance_mass"
    source: ClassVar[str] = "Arras et al., Information Fusion 2022, relevance mass accuracy of the positive part"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, attribution: Attribution, truth: Truth) -> PerImage:
        positive = self.heatmap_on(attribution, truth).relu().flatten(1)
        inside = (positive * truth.mask.flatten(1)).sum(1)
        return inside / positive.sum(1).clamp(min=1e-30)
