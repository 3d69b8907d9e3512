"""Deletion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.model import HookedModel
from attribkit.metrics.curves.curve_metric import CurveMetric
from attribkit.metrics.curves.presets import DELETION, Presets


@dataclass(frozen=True, kw_only=True)
class Deletion(CurveMetric):
    """The area under the score while the pixels of the highest scores are taken away first."""

    name: ClassVar[str] = "deletion"
    source: ClassVar[str] = "Petsiuk et al., BMVC 2018, sec. 4.1"
    higher_is_better: ClassVar[bool] = False
    presets: ClassVar[Presets] = DELETION

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self._area(self._walk("delete"), model, attributions)
