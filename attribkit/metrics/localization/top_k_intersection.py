"""Intersection of the largest pixels with the object."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from attribkit.core.attribution import Attribution
from attribkit.core.metric import Localization
from attribkit.core.options import Count
from attribkit.core.shapes import PerImage
from attribkit.core.truth import Truth
from attribkit.metrics.localization.largest import expected_inside


@dataclass(frozen=True)
class TopKIntersection(Localization):
    """The share of the k largest pixels that are on the object, 0 to 1; of equal pixels each counts by its share.

    Images without an object, or of fewer than k pixels, give NaN.
    """

    name: ClassVar[str] = "top_k_intersection"
    source: ClassVar[str] = "Theiner et al., WACV 2022, top-k intersection and concept influence"
    higher_is_better: ClassVar[bool | None] = True

    k: Count = 1000  # pixels of the mask
    relative_to_size: bool = False  # divided by the share of the image that the object takes: 1 is chance

    def __call__(self, attribution: Attribution, truth: Truth) -> PerImage:
        mask = truth.mask.flatten(1)
        if self.k > mask.shape[1]:
            return torch.full((len(mask),), torch.nan, device=mask.device, dtype=torch.float32)
        count = torch.full((len(mask),), self.k, device=mask.device)
        share = expected_inside(self.heatmap_on(attribution, truth).flatten(1), mask, count) / self.k
        size = mask.double().mean(1)
        return torch.where(size > 0, share / size if self.relative_to_size else share, torch.nan)
