"""Increase in confidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.model import HookedModel
from attribkit.core.targets.asked import Score
from attribkit.metrics.masked.on_masked import OnMasked
from attribkit.metrics.rounding import rounding


@dataclass(frozen=True, kw_only=True)
class IncreaseInConfidence(OnMasked):
    """1 where the score of an image is higher, by more than rounding, once it is multiplied by its map; else 0."""

    name: ClassVar[str] = "increase_in_confidence"
    source: ClassVar[str] = "Chattopadhay et al., WACV 2018, increase in confidence, a share, not per cent"
    higher_is_better: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "torchcam": {"score": "logit"},
        "pytorch_grad_cam": {"score": "logit"},
    }

    score: Score = "probability"

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        before, after = self.before_and_after(model, attributions, self.score)
        higher = (after - before > rounding(before.dtype) * before.abs()).to(before.dtype)
        return higher.masked_fill((after - before).isnan(), torch.nan)
