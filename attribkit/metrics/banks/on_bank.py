"""What the metrics on banks have in common: their options, and how they ask."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.metric import Faithfulness
from attribkit.core.model import HookedModel
from attribkit.core.substrates import Filling, Given
from attribkit.core.targets.asked import Score
from attribkit.core.targets.target import Target
from attribkit.metrics.asked_score import asked_target
from attribkit.metrics.banks.bank import Answered, Bank
from attribkit.metrics.banks.cells import Cells, GivenCells
from attribkit.metrics.banks.subsets import Subsets
from attribkit.metrics.correlation import Correlation, pearson, spearman

CORRELATIONS = {"pearson": pearson, "spearman": spearman}


@dataclass(frozen=True, kw_only=True)
class OnBank(Faithfulness):
    """Compares what a map holds in cells of the image with what the model loses without them."""

    cells: Cells | Tensor = 14
    substrate: Filling = "zero"
    score: Score = "logit"
    seed: int = 0  # of the subsets, and of noise

    def __post_init__(self) -> None:
        if isinstance(self.cells, Tensor):
            object.__setattr__(self, "cells", GivenCells(self.cells))
        for name, value in vars(self).items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))  # configuration files have lists
        if isinstance(self.substrate, Tensor):
            object.__setattr__(self, "substrate", Given(self.substrate))

    def asked(self, attribution: Attribution) -> Target:
        """What the model is asked about the perturbed images."""
        return asked_target(attribution, self.score)

    def answered(self, model: HookedModel, attribution: Attribution, subsets: Subsets) -> Answered:
        """What the model says of the images without these cells."""
        bank = Bank(subsets, self.cells, self.substrate, self.seed)  # type: ignore[arg-type]
        return bank.answered(model, attribution.x, self.asked(attribution))

    def correlations(
        self, model: HookedModel, attributions: Sequence[Attribution], subsets: Subsets, kind: Correlation
    ) -> Float[Tensor, "m b"]:
        """How what the maps hold in the removed cells goes with what the model loses."""
        answered = self.answered(model, attributions[0], subsets)
        sums = answered.sums([self.heatmap(each) for each in attributions])
        # What is left falls as what is lost grows; taken as it is, it tells rounding from a loss.
        found = CORRELATIONS[kind](sums, -answered.scores.mT.expand_as(sums))
        return found.to(answered.scores.dtype)
