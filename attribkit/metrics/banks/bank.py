"""Perturbed versions of the images, and what the model says of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attribkit.core.model import HookedModel
from attribkit.core.shapes import Heatmaps, Images
from attribkit.core.substrates import filling
from attribkit.core.targets.target import Target
from attribkit.metrics.banks.cells import Cells, labels_of, sums_over
from attribkit.metrics.banks.subsets import Subsets

_AT_ONCE = 2**24  # entries of the masks that are multiplied by maps together


@dataclass(frozen=True, eq=False)
class Answered:
    """What a bank's masks remove, and what the model then says."""

    removed: Bool[Tensor, "k n"]  # cells
    labels: Int[Tensor, "*space"]  # the number of each pixel's cell
    scores: Float[Tensor, "k b"]

    def sums(self, heatmaps: Sequence[Heatmaps]) -> Float[Tensor, "m b k"]:
        """What each of m maps holds in the removed cells, in the precision of the maps."""
        cells = torch.stack([sums_over(self.labels, self.removed.shape[1], each) for each in heatmaps])
        parts = self.removed.split(max(1, _AT_ONCE // self.removed.shape[1]))
        return torch.cat([cells @ part.to(cells).mT for part in parts], -1).to(heatmaps[0].dtype)


@dataclass(frozen=True)
class Bank:
    """Versions of the images that lack some of their cells, the same of every image.

    A bank does not know the maps: the model is asked once for all maps and all metrics whose banks are equal.
    """

    subsets: Subsets
    cells: Cells
    substrate: Any  # whatever `filling` takes
    seed: int

    def answered(self, model: HookedModel, x: Images, target: Target) -> Answered:
        """The target's score of each version, asked at most once for these images."""
        return model.remembered((self, target), lambda: self._answered(model, x, target))

    def _answered(self, model: HookedModel, x: Images, target: Target) -> Answered:
        labels = labels_of(self.cells, tuple(x.shape[2:])).to(x.device)
        removed = self.subsets(int(labels.max()) + 1, self.seed).to(x.device)
        without = filling(x, self.substrate, self.seed)
        versions = (without(each[labels][None, None]) for each in removed)
        return Answered(removed, labels, model.scores(versions, target, len(removed)))
