"""Insertion minus deletion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.model import HookedModel
from attribkit.core.substrates import Filling
from attribkit.metrics.curves.curve_metric import CurveMetric
from attribkit.metrics.curves.presets import DIFFERENCE, Presets
from attribkit.metrics.curves.walk import Walk


@dataclass(frozen=True, kw_only=True)
class InsertionMinusDeletion(CurveMetric):
    """Insertion minus deletion; on one substrate, the symmetric relevance gain.

    It is least removed first minus most removed first, since what is inserted last is what is removed first of the
    reversed order.
    """

    name: ClassVar[str] = "insertion_minus_deletion"
    source: ClassVar[str] = "Bluecher et al., TMLR 2024, symmetric relevance gain"
    higher_is_better: ClassVar[bool] = True
    presets: ClassVar[Presets] = DIFFERENCE

    insertion_substrate: Filling | None = None  # None is that of deletion

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        deletion, insertion = (self._area(walk, model, attributions) for walk in self._walks().values())
        return insertion - deletion

    def _walks(self) -> dict[str, Walk]:
        return {
            "deletion_curve": self._walk("delete"),
            "insertion_curve": self._walk("insert", self.insertion_substrate),
        }
