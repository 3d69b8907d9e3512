"""Infidelity under noise."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.metric import Faithfulness
from attribkit.core.model import HookedModel
from attribkit.core.options import Positive, Seed
from attribkit.core.shapes import Images
from attribkit.core.targets.asked import Score
from attribkit.core.targets.target import Target
from attribkit.metrics.asked_score import asked_target, score_of_whole
from attribkit.metrics.banks.best_factor import Expected, Factor, mean_square
from attribkit.metrics.banks.subsets import Several


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

    score: Score = "logit"
    sigma: Positive = 0.1  # standard deviation of the noise, in units of the images
    samples: Several = 200
    seed: Seed = 0
    factor: Factor = "positive"  # of each map, chosen so that infidelity is least and the map's own scale is nothing

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        x, target = attributions[0].x, asked_target(attributions[0], self.score)
        whole, left = score_of_whole(model, x, target), self._left(model, x, target)
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
        return model.remembered(key, lambda: model.scores(versions, target, self.samples))

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
