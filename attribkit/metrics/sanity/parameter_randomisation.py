"""Randomisation of the model's parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.errors import InvalidInput
from attribkit.core.metric import Robustness
from attribkit.core.model import HookedModel
from attribkit.core.options import Count, Seed
from attribkit.core.progress import tracked
from attribkit.core.shapes import Heatmaps, PerImage
from attribkit.metrics.asked_again import asked_again
from attribkit.metrics.sanity.random_weights import RandomCopy, stages_of
from attribkit.metrics.sanity.similarity import Similarity, similarity

Order = Literal["cascading", "independent"]
Value = Literal["last", "mean"]


class _Found(NamedTuple):
    similarity: Float[Tensor, "b stages"]
    floor: PerImage


@dataclass(frozen=True)
class ParameterRandomisation(Robustness):
    """How much the heatmap resembles that of the same model with random weights; a method that reads them is far off 1.

    The details tell the similarity at each stage, (b, stages), and a floor, (b,): the similarity of the heatmaps of two
    models that are random throughout in two ways, below which nothing is to be expected.
    """

    name: ClassVar[str] = "parameter_randomisation"
    source: ClassVar[str] = "Adebayo et al., NeurIPS 2018, model parameter randomisation test"
    higher_is_better: ClassVar[bool | None] = None

    order: Order = "cascading"  # from the output down; or one stage at a time, the others as they are
    value: Value | None = None  # similarity at the last stage, or its mean; None: the last of a cascade, else the mean
    stages: Count | None = 10  # at most so many groups of modules, of a cascade and of its details; None: every module
    similarity: Similarity = "spearman"
    magnitudes: bool = False  # whether the sign of the heatmaps is dropped first
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.order == "independent" and self.value == "last":
            raise InvalidInput("value='last' of order='independent' is one layer at the input: write value='mean'.")

    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        found = self._found(model, attribution).similarity
        last = self.value == "last" or (self.value is None and self.order == "cascading")
        return found[:, -1] if last else found.mean(1)

    def details(self, model: HookedModel, attribution: Attribution) -> Mapping[str, Tensor]:
        return self._found(model, attribution)._asdict()

    def _found(self, model: HookedModel, attribution: Attribution) -> _Found:
        return model.remembered((self, attribution), lambda: self._compared(model, attribution))

    def _compared(self, model: HookedModel, attribution: Attribution) -> _Found:
        key = ("stages", self.stages)
        stages = model.remembered(key, lambda: stages_of(model, attribution.x, self.stages))
        changed, own, found = RandomCopy(model, self.seed), self._read(self.heatmap(attribution)), []
        for names in tracked(stages, "stages", len(stages)):
            changed.randomise(names)
            heatmap = self._map_of(changed, attribution)
            found.append(similarity(self.similarity, own, heatmap))
            if self.order == "independent":
                changed.restore(names)
        throughout = [heatmap] if self.order == "cascading" else []  # whose last stage is random throughout
        for draw in range(len(throughout), 2):
            changed.randomise(list(chain(*stages)), draw)
            throughout.append(self._map_of(changed, attribution))
        return _Found(torch.stack(found, 1), similarity(self.similarity, *throughout))

    def _map_of(self, changed: RandomCopy, attribution: Attribution) -> Heatmaps:
        return self._read(asked_again(self, changed.model, attribution))

    def _read(self, heatmap: Heatmaps) -> Heatmaps:
        return heatmap.abs() if self.magnitudes else heatmap
