"""Mu-fidelity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.model import HookedModel
from attribkit.core.options import InnerShare
from attribkit.metrics.banks.cells import Cells
from attribkit.metrics.banks.on_bank import OnBank
from attribkit.metrics.banks.subsets import Independent, Several, Subsets


@dataclass(frozen=True, kw_only=True)
class MuFidelity(OnBank):
    """How the sum of a map over cells, each removed by chance, goes with the fall of the score, by Spearman."""

    name: ClassVar[str] = "mu_fidelity"
    source: ClassVar[str] = "Bhatt et al., IJCAI 2020, faithfulness, in the form of xplique (Fel et al., 2022)"
    higher_is_better: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "xplique": {"cells": 9, "share": 0.2, "samples": 200, "substrate": "zero", "score": "logit"}
    }

    cells: Cells | Tensor = 9
    share: InnerShare = 0.2  # the probability with which a cell is removed
    samples: Several = 200

    def removals(self, cells: int) -> tuple[Subsets, ...]:
        return (Independent(self.share, self.samples),)

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self.correlations(model, attributions, "spearman").squeeze(-1)
