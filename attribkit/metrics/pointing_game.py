"""The pointing game."""

from dataclasses import dataclass
from typing import ClassVar

from attribkit.core.attribution import Attribution
from attribkit.core.metric import Localization
from attribkit.core.shapes import PerImage
from attribkit.core.truth import Truth


@dataclass(frozen=True)
class PointingGame(Localization):
    """1 where the heatmap is largest on the object, 0 where elsewhere; a tie counts by its share on the object."""

    name: ClassVar[str] = "pointing_game"
    source: ClassVar[str] = "Zhang et al., ECCV 2016, sec. 4.1, without tolerance"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, attribution: Attribution, truth: Truth) -> PerImage:
        heatmap = self.heatmap_on(attribution, truth).flatten(1)
        largest = heatmap == heatmap.amax(1, keepdim=True)
        return (largest & truth.mask.flatten(1)).sum(1) / largest.sum(1)
