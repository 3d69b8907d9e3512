"""Single deletion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.model import HookedModel
from attribkit.metrics.banks.cells import Cells
from attribkit.metrics.banks.on_bank import OnBank
from attribkit.metrics.banks.subsets import Single, Subsets


@dataclass(frozen=True, kw_only=True)
class SingleDeletion(OnBank):
    """How a map ranks the cells of the image beside how far the score falls without each of them, by Spearman.

    IDSDS is the same on a model that was fine-tuned on images with cells removed.
    """

    name: ClassVar[str] = "single_deletion"
    source: ClassVar[str] = "Hesse et al., NeurIPS 2024, IDSDS without fine-tuning"
    higher_is_better: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"idsds": {"cells": 4, "substrate": "zero", "score": "logit"}}

    cells: Cells | Tensor = 4

    def removals(self, cells: int) -> tuple[Subsets, ...]:
        return (Single(),)

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self.correlations(model, attributions, "spearman").squeeze(-1)
