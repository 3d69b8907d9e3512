"""Sensitivity-n."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.model import HookedModel
from attribkit.core.options import Count, OneOrMore
from attribkit.metrics.banks.on_bank import OnBank
from attribkit.metrics.banks.subsets import OfSize, Several, Subsets

_LARGEST = 0.8  # of the cells, where sizes are spread


@dataclass(frozen=True, kw_only=True)
class SensitivityN(OnBank):
    """How the sum of a map over n removed cells goes with the fall of the score, for n from one to most of them.

    Pearson's correlation over random subsets of each size, averaged over the sizes where it is defined; over all n
    cells there is but one subset, and none.
    """

    name: ClassVar[str] = "sensitivity_n"
    source: ClassVar[str] = "Ancona et al., ICLR 2018, sensitivity-n, over cells"
    higher_is_better: ClassVar[bool] = True

    sizes: Count | OneOrMore[Count] = 10  # n; a number of sizes, spread evenly in their logarithm to 80% of cells
    subsets: Several = 100  # of each size, all of them where there are no more

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
        return model.remembered(key, lambda: self.correlations(model, attributions, "pearson"))
