"""Insertion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.model import HookedModel
from attribkit.core.substrates import Filling
from attribkit.metrics.curves.curve_metric import CurveMetric
from attribkit.metrics.curves.presets import INSERTION, Presets
from attribkit.metrics.curves.walk import Walk


@dataclass(frozen=True, kw_only=True)
class Insertion(CurveMetric):
    """The area under the score while the pixels of the highest scores are put first into the blurred image."""

    name: ClassVar[str] = "insertion"
    source: ClassVar[str] = "Petsiuk et al., BMVC 2018, sec. 4.1"
    higher_is_better: ClassVar[bool] = True
    presets: ClassVar[Presets] = INSERTION

    substrate: Filling = "folded_blur"

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self._area(self._walk("insert"), model, attributions)

    def _walks(self) -> dict[str, Walk]:
        return {"curve": self._walk("insert")}
