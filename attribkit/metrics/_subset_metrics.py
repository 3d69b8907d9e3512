"""Metrics that correlate a map's sums over subsets of grid cells with the drop in the score without the subsets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit._contracts.attribution import Attribution
from attribkit._core.options import OneOrMore, OpenFraction, PositiveInt
from attribkit._engine.model import HookedModel
from attribkit.metrics._subset_bank import CellLayout, Independent, OfSize, Single, SubsetCount, SubsetMetric, Subsets


@dataclass(frozen=True, kw_only=True)
class FaithfulnessCorrelation(SubsetMetric):
    """Pearson's correlation of a map's sum over a subset of grid cells with the drop in the score without the subset.

    Args:
        size: Number of cells in a subset.
        subsets: Number of random subsets; all subsets of this size are used if there are fewer. The other options are
            those of `SubsetMetric`.
    """

    name: ClassVar[str] = "faithfulness_correlation"
    source: ClassVar[str] = "Bhatt et al., IJCAI 2020, faithfulness, over cells"
    higher_is_better: ClassVar[bool] = True

    size: PositiveInt = 20
    subsets: SubsetCount = 100

    def removals(self, cells: int) -> tuple[Subsets, ...]:
        return (OfSize(self.size, self.subsets),)

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self.correlations(model, attributions, "pearson").squeeze(-1)


@dataclass(frozen=True, kw_only=True)
class MuFidelity(SubsetMetric):
    """Spearman's correlation of a map's sum over the removed grid cells with the drop in the score.

    Args:
        cells: As for `SubsetMetric`.
        removal_probability: Probability with which each cell is removed, independently of the others.
        samples: Number of random subsets.
    """

    name: ClassVar[str] = "mu_fidelity"
    source: ClassVar[str] = "Bhatt et al., IJCAI 2020, faithfulness, in the form of xplique (Fel et al., 2022)"
    higher_is_better: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "xplique": {"cells": 9, "removal_probability": 0.2, "samples": 200, "substrate": "zero", "score": "logit"}
    }

    cells: CellLayout | Tensor = 9
    removal_probability: OpenFraction = 0.2
    samples: SubsetCount = 200

    def removals(self, cells: int) -> tuple[Subsets, ...]:
        return (Independent(self.removal_probability, self.samples),)

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self.correlations(model, attributions, "spearman").squeeze(-1)


_LARGEST_SIZE = 0.8  # largest of the spread sizes, as a fraction of the cells


@dataclass(frozen=True, kw_only=True)
class SensitivityN(SubsetMetric):
    """Pearson's correlation of a map's sum over n removed grid cells with the drop in the score, averaged over n.

    Sizes where the correlation is not defined are left out; for n = all cells there is only one subset. `details`
    returns the correlation at each size.

    Args:
        sizes: The subset sizes n, or their number: they are then spread evenly on a logarithmic scale from 1 to 80% of
            the cells.
        subsets: Number of random subsets of each size; all of them are used if there are fewer. The other options are
            those of `SubsetMetric`.
    """

    name: ClassVar[str] = "sensitivity_n"
    source: ClassVar[str] = "Ancona et al., ICLR 2018, sensitivity-n, over cells"
    higher_is_better: ClassVar[bool] = True

    sizes: PositiveInt | OneOrMore[PositiveInt] = 10
    subsets: SubsetCount = 100

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self._by_size(model, attributions).nanmean(-1)

    def details(self, model: HookedModel, attributions: Sequence[Attribution]) -> Mapping[str, Tensor]:
        """Return the correlation at each size, (m, b, sizes)."""
        return {"correlation": self._by_size(model, attributions)}

    def removals(self, cells: int) -> tuple[Subsets, ...]:
        return tuple(OfSize(size, self.subsets) for size in self.chosen_sizes(cells))

    def chosen_sizes(self, cells: int) -> tuple[int, ...]:
        """Return the subset sizes for a number of cells, without duplicates."""
        if isinstance(self.sizes, tuple):
            return self.sizes
        largest = max(1, int(_LARGEST_SIZE * cells))
        spread = torch.logspace(0, math.log10(largest), self.sizes, dtype=torch.float64, device="cpu")
        return tuple(spread.round().long().unique().tolist())

    def _by_size(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b sizes"]:
        key = (self, tuple(attributions))
        return model.cached(key, lambda: self.correlations(model, attributions, "pearson"))


@dataclass(frozen=True, kw_only=True)
class SingleDeletion(SubsetMetric):
    """Spearman's correlation of a map's sum in each grid cell with the drop in the score without the cell.

    On a model that was fine-tuned on images with removed cells this is IDSDS. The options are those of `SubsetMetric`.
    """

    name: ClassVar[str] = "single_deletion"
    source: ClassVar[str] = "Hesse et al., NeurIPS 2024, IDSDS without fine-tuning"
    higher_is_better: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"idsds": {"cells": 4, "substrate": "zero", "score": "logit"}}

    cells: CellLayout | Tensor = 4

    def removals(self, cells: int) -> tuple[Subsets, ...]:
        return (Single(),)

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self.correlations(model, attributions, "spearman").squeeze(-1)
