"""Infidelity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.model import HookedModel
from attribkit.core.options import InnerShare
from attribkit.metrics.asked_score import score_of_whole
from attribkit.metrics.banks.best_factor import Factor, mean_square
from attribkit.metrics.banks.cells import Cells
from attribkit.metrics.banks.on_bank import OnBank
from attribkit.metrics.banks.subsets import Independent, Several, Subsets


@dataclass(frozen=True, kw_only=True)
class Infidelity(OnBank):
    """The mean square of what a map predicts of the fall of the score without some cells, less the fall itself.

    Scores are read as contributions: the prediction is their sum over the removed cells.
    """

    name: ClassVar[str] = "infidelity"
    source: ClassVar[str] = "Yeh et al., NeurIPS 2019, definition 2.1, where cells are removed"
    higher_is_better: ClassVar[bool] = False

    cells: Cells | Tensor = 9
    share: InnerShare = 0.2  # the probability with which a cell is removed
    samples: Several = 200
    factor: Factor = "positive"  # of each map, chosen so that infidelity is least and the map's own scale is nothing

    def removals(self, cells: int) -> tuple[Subsets, ...]:
        return (Independent(self.share, self.samples),)

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        whole = score_of_whole(model, attributions[0].x, self.asked(attributions[0]))
        (answered,) = self.answered(model, attributions[0])
        expected = answered.sums(self.held(model, attributions))
        return mean_square(expected, (whole - answered.scores).mT, self.factor).to(whole.dtype)
