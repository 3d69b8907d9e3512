"""Randomisation of the class."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.errors import InvalidInput
from attribkit.core.metric import Robustness
from attribkit.core.model import HookedModel
from attribkit.core.options import Seed
from attribkit.core.shapes import Heatmaps, Images, PerImage
from attribkit.core.targets.binary import Binary
from attribkit.core.targets.class_outputs import Returned, read_scores
from attribkit.core.targets.classes import indices
from attribkit.core.targets.logits import ClassLogit, Counterfactual, Probability
from attribkit.metrics.asked_again import asked_again
from attribkit.metrics.sanity.similarity import Similarity, similarity

ClassTarget = ClassLogit | Probability | Counterfactual | Binary


@dataclass(frozen=True)
class ClassRandomisation(Robustness):
    """How much the heatmap resembles that of another class; a method that reads what is asked is far off 1.

    The other class depends on the target and the seed alone; of a model with one output it is the other side. The
    details tell a floor, (b,): how much the heatmaps of two such classes resemble each other; NaN where the model has
    no third.
    """

    name: ClassVar[str] = "class_randomisation"
    source: ClassVar[str] = "Sixt et al., ICML 2020, random logit test"
    higher_is_better: ClassVar[bool | None] = None

    similarity: Similarity = "spearman"
    magnitudes: bool = False  # whether the sign of the heatmaps is dropped first
    seed: Seed = 0

    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        own = self._read(self.heatmap(attribution))
        return similarity(self.similarity, own, self._map_of(model, attribution, 0))

    def details(self, model: HookedModel, attribution: Attribution) -> Mapping[str, Tensor]:
        x = attribution.x
        if _classes(model, x) < 3:
            return {"floor": torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)}
        return {"floor": similarity(self.similarity, *(self._map_of(model, attribution, i) for i in range(2)))}

    def _map_of(self, model: HookedModel, attribution: Attribution, which: int) -> Heatmaps:
        """The heatmap of the first or the second other class; asked once."""

        def make() -> Heatmaps:
            other = self._other(attribution.target, model, attribution.x, which)
            return self._read(asked_again(self, model, attribution, target=other))

        return model.remembered((self, attribution, which), make)

    def _other(self, target: object, model: HookedModel, x: Images, which: int) -> ClassTarget:
        """The same question about another class."""
        if not isinstance(target, ClassTarget):
            raise InvalidInput(f"{self.name!r} asks about another class, and {target!r} is of none: explain a class.")
        classes, index = _classes(model, x), indices(target.index, model.spec.labels)
        if classes == 1:
            return _other_side(target)

        def other(index: int) -> int:
            steps = 1 + np.random.default_rng((self.seed, index)).permutation(classes - 1)
            return int(index + steps[which]) % classes

        return replace(target, index=tuple(map(other, index)) if isinstance(index, tuple) else other(index))

    def _read(self, heatmap: Heatmaps) -> Heatmaps:
        return heatmap.abs() if self.magnitudes else heatmap


def _other_side(target: ClassTarget) -> ClassTarget:
    """The same question about the other side of a single output."""
    if isinstance(target, Binary):
        sides = target.index if isinstance(target.index, tuple) else (target.index,)
        return replace(target, index=tuple(1 - each for each in sides) if target.count else 1 - sides[0])
    if isinstance(target, Probability):
        return Binary(0, "probability")
    return ClassLogit(target.index) if isinstance(target, Counterfactual) else Counterfactual(target.index)


def _classes(model: HookedModel, x: Images) -> int:
    """How many class scores the model has."""

    def count() -> int:
        with torch.no_grad():
            return int(read_scores(Returned(model.part(slice(0, 1))(x[:1]), 1)).scores.shape[1])

    return model.remembered("classes", count)
