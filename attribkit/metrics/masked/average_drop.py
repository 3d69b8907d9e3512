"""Average drop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.model import HookedModel
from attribkit.core.shapes import PerImage
from attribkit.core.targets.asked import Score
from attribkit.metrics.masked.on_masked import OnMasked


@dataclass(frozen=True, kw_only=True)
class AverageDrop(OnMasked):
    """The share of its score that an image loses once it is multiplied by its map; 0 where it gains."""

    name: ClassVar[str] = "average_drop"
    source: ClassVar[str] = "Chattopadhay et al., WACV 2018, average drop, a share, not per cent"
    higher_is_better: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "torchcam": {"score": "logit"},
        "pytorch_grad_cam": {"score": "logit", "relative": False},
    }

    score: Score = "probability"
    relative: bool = True  # to the score, NaN where that is not positive; else what is lost

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        before, after = self.before_and_after(model, attributions, self.score)
        return relative_drop(before, after) if self.relative else (before - after).relu()


def relative_drop(before: PerImage, after: Float[Tensor, "m b"]) -> Float[Tensor, "m b"]:
    """The share of the score that is lost, NaN where there was none."""
    return torch.where(before > 0, (before - after).relu() / before, torch.nan)
