"""Infidelity: the mean squared error of a map's prediction of how the score changes under perturbations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.metric import Faithfulness
from attribkit._core.options import OpenFraction, PositiveFloat, Seed
from attribkit._core.shapes import Images
from attribkit._engine.model import HookedModel
from attribkit._targets.binary import BinaryScore
from attribkit._targets.target import Target
from attribkit.metrics._scores import original_score, scored_target
from attribkit.metrics._subset_bank import CellLayout, Independent, SubsetCount, SubsetMetric, Subsets

FactorSign = Literal["positive", "any"]
Factor = FactorSign | None
Predictions = Float[Tensor, "m b k"]  # drops in the score that the maps predict


@dataclass(frozen=True, kw_only=True)
class Infidelity(SubsetMetric):
    """Mean squared error of a map's prediction of the drop in the score when grid cells are removed.

    Scores are interpreted as contributions: the prediction is their sum over the removed cells.

    Args:
        cells: As for `SubsetMetric`.
        removal_probability: Probability with which each cell is removed, independently of the others.
        samples: Number of random subsets.
        factor: Factor of each map, chosen to minimise its error, so that the scale of the map does not matter:
            "positive" from 0 up, "any" with either sign; None multiplies by 1.
    """

    name: ClassVar[str] = "infidelity"
    source: ClassVar[str] = "Yeh et al., NeurIPS 2019, definition 2.1, where cells are removed"
    higher_is_better: ClassVar[bool] = False

    cells: CellLayout | Tensor = 9
    removal_probability: OpenFraction = 0.2
    samples: SubsetCount = 200
    factor: Factor = "positive"

    def removals(self, cells: int) -> tuple[Subsets, ...]:
        return (Independent(self.removal_probability, self.samples),)

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        original = original_score(model, attributions[0].x, self.target(attributions[0]))
        (results,) = self.subset_scores(model, attributions[0])
        predicted = results.sums(self.cell_sums(model, attributions))
        return mean_squared_error(predicted, (original - results.scores).mT, self.factor).to(original.dtype)


@dataclass(frozen=True, kw_only=True)
class InfidelityUnderNoise(Faithfulness):
    """Mean squared error of a map's prediction of the drop in the score when noise is subtracted.

    Scores are interpreted as slopes: the prediction is the sum of the noise times the score, over all values of the
    image; a map without channels has the same score for all channels of a pixel.

    Args:
        score: The target class's "probability" or "logit"; targets other than a class keep their own score.
        sigma: Standard deviation of the Gaussian noise, in units of the normalised images.
        samples: Number of noisy images.
        seed: Seed of the noise, which is the same for every image.
        factor: As for `Infidelity`.
    """

    name: ClassVar[str] = "infidelity_under_noise"
    source: ClassVar[str] = "Yeh et al., NeurIPS 2019, definition 2.1, under Gaussian noise"
    higher_is_better: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"captum": {"sigma": 0.003, "samples": 10, "factor": None}}

    score: BinaryScore = "logit"
    sigma: PositiveFloat = 0.1
    samples: SubsetCount = 200
    seed: Seed = 0
    factor: Factor = "positive"

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        x, target = attributions[0].x, scored_target(attributions[0], self.score)
        original, noisy = original_score(model, x, target), self._noisy_scores(model, x, target)
        return mean_squared_error(self._predict(attributions), (original - noisy).mT, self.factor).to(original.dtype)

    def noises(self, x: Images) -> Iterator[Float[Tensor, "1 c *space"]]:
        """Yield the noise that is subtracted from the images; all images get the same."""
        generator = torch.Generator().manual_seed(self.seed)
        return (
            self.sigma * torch.randn(1, *x.shape[1:], generator=generator, dtype=torch.float32, device="cpu").to(x)
            for _ in range(self.samples)
        )

    def _noisy_scores(self, model: HookedModel, x: Images, target: Target) -> Float[Tensor, "k b"]:
        """Return the score of each noisy version, computed once for all maps and metrics."""
        versions = (x - noise for noise in self.noises(x))
        key = ("scores under noise", self.sigma, self.samples, self.seed, target)
        return model.cached(key, lambda: model.scores(versions, target, self.samples))

    def _predict(self, attributions: Sequence[Attribution]) -> Predictions:
        """Return inner products of the scores of each map with the noise, as rounded by its subtraction."""
        x, slopes = attributions[0].x, [self._slopes(each) for each in attributions]
        changes = (x.double() - (x - noise) for noise in self.noises(x))
        products = [torch.stack([(each * change).flatten(1).sum(1) for each in slopes]) for change in changes]
        return torch.stack(products, -1)

    def _slopes(self, attribution: Attribution) -> Images:
        """Return a score for each value of the images."""
        if attribution.scores.shape == attribution.x.shape:
            return attribution.scores
        return self.heatmap(attribution)[:, None].expand_as(attribution.x)


def mean_squared_error(predicted: Predictions, falls: Float[Tensor, "b k"], factor: Factor) -> Float[Tensor, "m b"]:
    """Return the mean squared error of each map's predictions, scaled by its factor, in float64."""
    predicted, falls = predicted.double(), falls.double()
    if factor is not None:
        predicted = predicted * _best_factor(predicted, falls, factor)
    return (predicted - falls).square().mean(-1)


def _best_factor(predicted: Predictions, falls: Float[Tensor, "b k"], sign: FactorSign) -> Float[Tensor, "m b 1"]:
    """Return the factor of each map that minimises the mean squared error; it is 0 for a map of zeros."""
    squares = predicted.square().sum(-1, keepdim=True)
    best = (predicted * falls).sum(-1, keepdim=True) / squares.masked_fill(squares == 0, 1)
    return best.clamp(min=0) if sign == "positive" else best
