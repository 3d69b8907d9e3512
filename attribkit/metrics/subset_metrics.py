"""[metrics/banks/faithfulness_correlation] Faithfulness correlation.
[metrics/banks/mu_fidelity] Mu-fidelity.
[metrics/banks/sensitivity_n] Sensitivity-n.
[metrics/banks/single_deletion] Single deletion.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.contracts.attribution import Attribution
from attribkit.core.options import OneOrMore, OpenFraction, PositiveInt
from attribkit.engine.model import HookedModel
from attribkit.metrics.subset_bank import CellSize, Independent, OfSize, Single, SubsetCount, SubsetMetric, Subsets


@dataclass(frozen=True, kw_only=True)
class FaithfulnessCorrelation(SubsetMetric):
    """How the sum of a map over a subset of cells goes with the fall of the score without them, by Pearson."""

    name: ClassVar[str] = "faithfulness_correlation"
    source: ClassVar[str] = "Bhatt et al., IJCAI 2020, faithfulness, over cells"
    higher_is_better: ClassVar[bool] = True

    size: PositiveInt = 20  # cells in a subset
    subsets: SubsetCount = 100  # all of this size where there are no more

    def removals(self, cells: int) -> tuple[Subsets, ...]:
        return (OfSize(self.size, self.subsets),)

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self.correlations(model, attributions, "pearson").squeeze(-1)


@dataclass(frozen=True, kw_only=True)
class MuFidelity(SubsetMetric):
    """How the sum of a map over cells, each removed by chance, goes with the fall of the score, by Spearman."""

    name: ClassVar[str] = "mu_fidelity"
    source: ClassVar[str] = "Bhatt et al., IJCAI 2020, faithfulness, in the form of xplique (Fel et al., 2022)"
    higher_is_better: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "xplique": {"cells": 9, "share": 0.2, "samples": 200, "substrate": "zero", "score": "logit"}
    }

    cells: CellSize | Tensor = 9
    share: OpenFraction = 0.2  # the probability with which a cell is removed
    samples: SubsetCount = 200

    def removals(self, cells: int) -> tuple[Subsets, ...]:
        return (Independent(self.share, self.samples),)

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self.correlations(model, attributions, "spearman").squeeze(-1)


_LARGEST = 0.8  # of the cells, where sizes are spread


@dataclass(frozen=True, kw_only=True)
class SensitivityN(SubsetMetric):
    """How the sum of a map over n removed cells goes with the fall of the score, for n from one to most of them.

    Pearson's correlation over random subsets of each size, averaged over the sizes where it is defined; over all n
    cells there is but one subset, and none.
    """

    name: ClassVar[str] = "sensitivity_n"
    source: ClassVar[str] = "Ancona et al., ICLR 2018, sensitivity-n, over cells"
    higher_is_better: ClassVar[bool] = True

    sizes: PositiveInt | OneOrMore[PositiveInt] = (
        10  # n; a number of sizes, spread evenly in their logarithm to 80% of cells
    )
    subsets: SubsetCount = 100  # of each size, all of them where there are no more

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self._found(model, attributions).nanmean(-1)

    def details(self, model: HookedModel, attributions: Sequence[Attribution]) -> Mapping[str, Tensor]:
        """The correlation at each size, (m, b, sizes)."""
        return {"correlation": self._found(model, attributions)}

    def removals(self, cells: int) -> tuple[Subsets, ...]:
        return tuple(OfSize(size, self.subsets) for size in self.chosen_sizes(cells))

    def chosen_sizes(self, cells: int) -> tuple[int, ...]:
        """The sizes of the subsets of so many cells, each once."""
        if isinstance(self.sizes, tuple):
            return self.sizes
        largest = max(1, int(_LARGEST * cells))
        spread = torch.logspace(0, math.log10(largest), self.sizes, dtype=torch.float64, device="cpu")
        return tuple(spread.round().long().unique().tolist())

    def _found(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b sizes"]:
        key = (self, tuple(attributions))
        return model.cached(key, lambda: self.correlations(model, attributions, "pearson"))


@dataclass(frozen=True, kw_only=True)
class SingleDeletion(SubsetMetric):
    """How a map ranks the cells of the image beside how far the score falls without each of them, by Spearman.

    IDSDS is the same on a model that was fine-tuned on images with cells removed.
    """

    name: ClassVar[str] = "single_deletion"
    source: ClassVar[str] = "Hesse et al., NeurIPS 2024, IDSDS without fine-tuning"
    higher_is_better: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"idsds": {"cells": 4, "substrate": "zero", "score": "logit"}}

    cells: CellSize | Tensor = 4

    def removals(self, cells: int) -> tuple[Subsets, ...]:
        return (Single(),)

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self.correlations(model, attributions, "spearman").squeeze(-1)
