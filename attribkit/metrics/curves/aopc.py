"""Area over the perturbation curve."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.axes import PerAxis
from attribkit.core.model import HookedModel
from attribkit.core.options import Count
from attribkit.core.substrates import Filling
from attribkit.metrics.curves.curve_metric import CurveMetric
from attribkit.metrics.curves.stops import Area


@dataclass(frozen=True, kw_only=True)
class AOPC(CurveMetric):
    """How far the score falls on average while the patches of the highest scores are taken away first."""

    name: ClassVar[str] = "aopc"
    source: ClassVar[str] = "Samek et al., TNNLS 2017, area over the perturbation curve, most relevant first"
    higher_is_better: ClassVar[bool] = True

    substrate: Filling = "uniform"
    per_step: Count | None = 1
    until: Count | None = 100
    area: Area = "mean"
    patch: PerAxis = 9

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        walk = self._walk("delete")
        return walk.image_score(model, attributions) - self._area(walk, model, attributions)
