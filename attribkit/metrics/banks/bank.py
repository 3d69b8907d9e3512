"""Perturbed versions of the images, and what the model says of them."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images
from attribkit.core.substrates import filling
from attribkit.core.targets.target import Target
from attribkit.metrics.banks.cells import Settled, partition
from attribkit.metrics.banks.subsets import Subsets

_AT_ONCE = 2**24  # entries of the masks that are multiplied by maps together


@dataclass(frozen=True, eq=False)
class Answered:
    """What a bank's masks remove, and what the model then says."""

    removed: Bool[Tensor, "k n"]  # cells
    scores: Float[Tensor, "k b"]

    def sums(self, cells: Float[Tensor, "m b n"]) -> Float[Tensor, "m b k"]:
        """What each of m maps holds in the removed cells, by what it holds in each cell."""
        parts = self.removed.split(max(1, _AT_ONCE // self.removed.shape[1]))
        return torch.cat([cells @ part.to(cells).mT for part in parts], -1)


@dataclass(frozen=True)
class Bank:
    """Versions of the images that lack some of their cells, the same of every image.

    A bank does not know the maps: the model is asked once for all maps and all metrics whose banks are equal.
    """

    subsets: Subsets
    cells: Settled
    substrate: Any  # whatever `filling` takes
    seed: int

    def answered(self, model: HookedModel, x: Images, target: Target) -> Answered:
        """The target's score of each version, asked at most once for these images."""
        return model.remembered((self, target), lambda: self._answered(model, x, target))

    def _answered(self, model: HookedModel, x: Images, target: Target) -> Answered:
        cells = partition(model, x, self.cells)
        removed = self.subsets(cells.count, self.seed).to(x.device)
        without = filling(x, self.substrate, self.seed)
        versions = (without(each[cells.labels][None, None]) for each in removed)
        return Answered(removed, model.scores(versions, target, len(removed)))
