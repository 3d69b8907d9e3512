"""[metrics/banks/best_factor] How far what maps let expect is from what the model does, whatever the units of the maps.
[metrics/banks/infidelity] Infidelity.
[metrics/banks/infidelity_under_noise] Infidelity under noise.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.contracts.attribution import Attribution
from attribkit.contracts.metric import Faithfulness
from attribkit.core.options import OpenFraction, PositiveFloat, Seed
from attribkit.core.shapes import Images
from attribkit.engine.model import HookedModel
from attribkit.metrics.scores import original_score, scored_target
from attribkit.metrics.subset_bank import CellSize, Independent, SubsetCount, SubsetMetric, Subsets
from attribkit.targets.binary import BinaryScore
from attribkit.targets.target import Target

Sign = Literal["positive", "any"]
Factor = Sign | None  # by which a map is multiplied: the best one from 0 up, the best of all, or none
Expected = Float[Tensor, "m b k"]  # by how much the scores of the maps say that the model's score falls


def mean_square(expected: Expected, falls: Float[Tensor, "b k"], factor: Factor) -> Float[Tensor, "m b"]:
    """The mean square of what each map lets expect, times its factor, less the falls; in double."""
    expected, falls = expected.double(), falls.double()
    if factor is not None:
        expected = expected * _best(expected, falls, factor)
    return (expected - falls).square().mean(-1)


def _best(expected: Expected, falls: Float[Tensor, "b k"], sign: Sign) -> Float[Tensor, "m b 1"]:
    """The factor of each map that makes the mean square least; any does for a map of zeros."""
    squares = expected.square().sum(-1, keepdim=True)
    best = (expected * falls).sum(-1, keepdim=True) / squares.masked_fill(squares == 0, 1)
    return best.clamp(min=0) if sign == "positive" else best


@dataclass(frozen=True, kw_only=True)
class Infidelity(SubsetMetric):
    """The mean square of what a map predicts of the fall of the score without some cells, less the fall itself.

    Scores are read as contributions: the prediction is their sum over the removed cells.
    """

    name: ClassVar[str] = "infidelity"
    source: ClassVar[str] = "Yeh et al., NeurIPS 2019, definition 2.1, where cells are removed"
    higher_is_better: ClassVar[bool] = False

    cells: CellSize | Tensor = 9
    share: OpenFraction = 0.2  # the probability with which a cell is removed
    samples: SubsetCount = 200
    factor: Factor = "positive"  # of each map, chosen so that infidelity is least and the map's own scale is nothing

    def removals(self, cells: int) -> tuple[Subsets, ...]:
        return (Independent(self.share, self.samples),)

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        whole = original_score(model, attributions[0].x, self.asked(attributions[0]))
        (answered,) = self.answered(model, attributions[0])
        expected = answered.sums(self.held(model, attributions))
        return mean_square(expected, (whole - answered.scores).mT, self.factor).to(whole.dtype)


@dataclass(frozen=True, kw_only=True)
class InfidelityUnderNoise(Faithfulness):
    """The mean square of what a map predicts of the fall of the score when noise is subtracted, less the fall itself.

    Scores are read as slopes: the prediction is the sum of each feature's noise times its score, or that of its pixel
    where the map does not tell channels apart.
    """

    name: ClassVar[str] = "infidelity_under_noise"
    source: ClassVar[str] = "Yeh et al., NeurIPS 2019, definition 2.1, under Gaussian noise"
    higher_is_better: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"captum": {"sigma": 0.003, "samples": 10, "factor": None}}

    score: BinaryScore = "logit"
    sigma: PositiveFloat = 0.1  # standard deviation of the noise, in units of the images
    samples: SubsetCount = 200
    seed: Seed = 0
    factor: Factor = "positive"  # of each map, chosen so that infidelity is least and the map's own scale is nothing

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        x, target = attributions[0].x, scored_target(attributions[0], self.score)
        whole, left = original_score(model, x, target), self._left(model, x, target)
        return mean_square(self._expected(attributions), (whole - left).mT, self.factor).to(whole.dtype)

    def noises(self, x: Images) -> Iterator[Float[Tensor, "1 c *space"]]:
        """What is subtracted from the images, one after the other; the same for every image."""
        generator = torch.Generator().manual_seed(self.seed)
        return (
            self.sigma * torch.randn(1, *x.shape[1:], generator=generator, dtype=torch.float32, device="cpu").to(x)
            for _ in range(self.samples)
        )

    def _left(self, model: HookedModel, x: Images, target: Target) -> Float[Tensor, "k b"]:
        """The score of each noisy version, asked once for all maps and metrics."""
        versions = (x - noise for noise in self.noises(x))
        key = ("scores under noise", self.sigma, self.samples, self.seed, target)
        return model.cached(key, lambda: model.scores(versions, target, self.samples))

    def _expected(self, attributions: Sequence[Attribution]) -> Expected:
        """Inner products of the scores of each map with what rounding left of the noise."""
        x, slopes = attributions[0].x, [self._slopes(each) for each in attributions]
        moves = (x.double() - (x - noise) for noise in self.noises(x))
        products = [torch.stack([(each * move).flatten(1).sum(1) for each in slopes]) for move in moves]
        return torch.stack(products, -1)

    def _slopes(self, attribution: Attribution) -> Images:
        """A score for each feature of the images."""
        if attribution.scores.shape == attribution.x.shape:
            return attribution.scores
        return self.heatmap(attribution)[:, None].expand_as(attribution.x)
