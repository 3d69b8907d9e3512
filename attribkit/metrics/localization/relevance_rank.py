"""Relevance rank."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from attribkit.core.attribution import Attribution
from attribkit.core.metric import Localization
from attribkit.core.shapes import PerImage
from attribkit.core.truth import Truth
from attribkit.metrics.localization.largest import expected_inside


@dataclass(frozen=True)
class RelevanceRank(Localization):
    """The share of the object that is found among as many of the largest pixels as the object has, 0 to 1.

    Equal pixels count by their share. Images without an object give NaN.
    """

    name: ClassVar[str] = "relevance_rank"
    source: ClassVar[str] = "Arras et al., Information Fusion 2022, relevance rank accuracy"
    higher_is_better: ClassVar[bool | None] = True

    def __call__(self, attribution: Attribution, truth: Truth) -> PerImage:
        mask = truth.mask.flatten(1)
        size = mask.sum(1)
        found = expected_inside(self.heatmap_on(attribution, truth).flatten(1), mask, size)
        return torch.where(size > 0, found / size, torch.nan)
