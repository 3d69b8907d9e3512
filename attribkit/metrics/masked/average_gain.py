"""Average gain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.model import HookedModel
from attribkit.core.targets.asked import Each, scored_as
from attribkit.core.targets.binary import Binary
from attribkit.core.targets.boxes import Box
from attribkit.core.targets.logits import Probability
from attribkit.core.targets.target import Scored
from attribkit.metrics.masked.on_masked import OnMasked


@dataclass(frozen=True, kw_only=True)
class AverageGain(OnMasked):
    """How much of what a probability lacks of one an image gains once it is multiplied by its map; 0 where it loses.

    NaN where the probability is one already, or where the target gives none.
    """

    name: ClassVar[str] = "average_gain"
    source: ClassVar[str] = "Zhang et al., Opti-CAM, CVIU 2024, average gain, a share, not per cent"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        before, after = self.before_and_after(model, attributions, "probability")
        lacking = (before >= 0) & (before < 1) & _may_be_probabilities(attributions[0].target).to(before.device)
        return torch.where(lacking, (after - before).relu() / (1 - before), torch.nan)


def _may_be_probabilities(target: Any) -> Bool[Tensor, " images"]:
    """Whether scores between 0 and 1 are probabilities by what is asked, and not by chance; of all images, or each."""
    asked = scored_as(target, "probability")
    each = asked.targets if isinstance(asked, Each) else (asked,)
    return torch.tensor([isinstance(one, Probability | Binary | Box | Scored) for one in each], device="cpu")
