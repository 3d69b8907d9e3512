"""Relevance mass."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from attribkit.core.attribution import Attribution
from attribkit.core.metric import Localization
from attribkit.core.options import NotNegative
from attribkit.core.shapes import PerImage
from attribkit.core.truth import Truth
from attribkit.metrics.localization.share import share_inside


@dataclass(frozen=True)
class RelevanceMass(Localization):
    """The share of the heatmap's positive part that lies on the object, 0 to 1.

    NaN where there is no positive part, or no object. With a cell of a grid of images for a mask this is the grid
    pointing game.
    """

    name: ClassVar[str] = "relevance_mass"
    source: ClassVar[str] = "Arras et al., Information Fusion 2022, relevance mass accuracy of the positive part"
    higher_is_better: ClassVar[bool | None] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"grid_pointing_game": {"least": 1e-7, "without": 0.0}}

    least: NotNegative = 0.0  # a positive part of no more than this, summed over the pixels, is none
    without: float | None = None  # the number of an image whose heatmap has no positive part; None is NaN

    def __call__(self, attribution: Attribution, truth: Truth) -> PerImage:
        positive = self.heatmap_on(attribution, truth).relu()
        share = share_inside(positive, truth.mask, least=self.least)
        if self.without is None:
            return share
        lacks = (positive.flatten(1).sum(1) <= self.least) & truth.mask.flatten(1).any(1)
        return torch.where(lacks, self.without, share)
