"""Area under the ROC curve of localisation."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from attribkit.core.attribution import Attribution
from attribkit.core.metric import Localization
from attribkit.core.shapes import PerImage
from attribkit.core.truth import Truth
from attribkit.metrics.correlation import average_ranks


@dataclass(frozen=True)
class LocalizationAUC(Localization):
    """How often a pixel of the object is larger than one of the background, a tie counting half, 0 to 1.

    That is the area under the ROC curve. Images without an object, or without a background, give NaN.
    """

    name: ClassVar[str] = "localization_auc"
    source: ClassVar[str] = "Fawcett, Pattern Recognition Letters 2006; by ranks: Hanley and McNeil, Radiology 1982"
    higher_is_better: ClassVar[bool | None] = True

    def __call__(self, attribution: Attribution, truth: Truth) -> PerImage:
        mask = truth.mask.flatten(1)
        ranks = average_ranks(self.heatmap_on(attribution, truth).flatten(1))
        inside, outside = mask.sum(1).double(), (~mask).sum(1)
        larger = (ranks * mask).sum(1) - inside * (inside + 1) / 2  # pairs, of U by Mann and Whitney
        return torch.where((inside > 0) & (outside > 0), larger / (inside * outside), torch.nan)
