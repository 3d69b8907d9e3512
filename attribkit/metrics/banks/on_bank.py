"""What the metrics on banks have in common: their options, and how they ask."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.metric import Faithfulness
from attribkit.core.model import HookedModel
from attribkit.core.options import Seed
from attribkit.core.substrates import Filling, Given
from attribkit.core.targets.asked import Score
from attribkit.core.targets.target import Target
from attribkit.metrics.asked_score import asked_target
from attribkit.metrics.banks.bank import Answered, Bank
from attribkit.metrics.banks.cells import Cells, GivenCells, Settled, partition, settled
from attribkit.metrics.banks.subsets import Subsets
from attribkit.metrics.correlation import Correlation, pearson, spearman

CORRELATIONS = {"pearson": pearson, "spearman": spearman}


@dataclass(frozen=True, kw_only=True)
class OnBank(Faithfulness):
    """Compares what a map holds in cells of the image with what the model loses without them."""

    cells: Cells | Tensor = 14
    substrate: Filling = "zero"
    score: Score = "logit"
    seed: Seed = 0  # of the subsets, and of noise

    @abstractmethod
    def removals(self, cells: int) -> tuple[Subsets, ...]:
        """What is removed of so many cells, a bank for each; raises InvalidInput for options that make no sense."""

    def __post_init__(self) -> None:
        if isinstance(self.cells, Tensor):
            object.__setattr__(self, "cells", GivenCells(self.cells))
        if isinstance(self.substrate, Tensor):
            object.__setattr__(self, "substrate", Given(self.substrate))

    def asked(self, attribution: Attribution) -> Target:
        """What the model is asked about the perturbed images."""
        return asked_target(attribution, self.score)

    def answered(self, model: HookedModel, attribution: Attribution) -> list[Answered]:
        """What the model says of the images without their cells, for each bank."""
        x, target, cells = attribution.x, self.asked(attribution), self._cells(attribution)
        removals = self.removals(partition(model, x, cells).count)
        return [Bank(each, cells, self.substrate, self.seed).answered(model, x, target) for each in removals]

    def held(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b n"]:
        """What the maps hold in each cell, in double; summed once for all banks and metrics with the same cells."""
        return torch.stack([self._held(model, each) for each in attributions])

    def correlations(
        self, model: HookedModel, attributions: Sequence[Attribution], kind: Correlation
    ) -> Float[Tensor, "m b banks"]:
        """How what the maps hold in the removed cells goes with what the model loses, for each bank."""
        held, found = self.held(model, attributions), []
        for answered in self.answered(model, attributions[0]):
            sums = answered.sums(held).to(attributions[0].scores.dtype)  # whose precision tells what is rounding
            # What is left falls as what is lost grows; taken as it is, it tells rounding from a loss.
            correlation = CORRELATIONS[kind](sums, -answered.scores.mT.expand_as(sums))
            found.append(correlation.to(answered.scores.dtype))
        return torch.stack(found, -1)

    def _cells(self, attribution: Attribution) -> Settled:
        return settled(self.cells, tuple(attribution.x.shape[2:]))  # type: ignore[arg-type]

    def _held(self, model: HookedModel, attribution: Attribution) -> Float[Tensor, "b n"]:
        cells = self._cells(attribution)

        def summed() -> Tensor:
            return partition(model, attribution.x, cells).sums(self.heatmap(attribution))

        return model.remembered(("cell sums", attribution, self.reduce, cells), summed)
