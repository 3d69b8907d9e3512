"""Faithfulness correlation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.model import HookedModel
from attribkit.core.options import Count
from attribkit.metrics.banks.on_bank import OnBank
from attribkit.metrics.banks.subsets import OfSize, Several, Subsets


@dataclass(frozen=True, kw_only=True)
class FaithfulnessCorrelation(OnBank):
    """How the sum of a map over a subset of cells goes with the fall of the score without them, by Pearson."""

    name: ClassVar[str] = "faithfulness_correlation"
    source: ClassVar[str] = "Bhatt et al., IJCAI 2020, faithfulness, over cells"
    higher_is_better: ClassVar[bool] = True

    size: Count = 20  # cells in a subset
    subsets: Several = 100  # all of this size where there are no more

    def removals(self, cells: int) -> tuple[Subsets, ...]:
        return (OfSize(self.size, self.subsets),)

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self.correlations(model, attributions, "pearson").squeeze(-1)
