"""Infidelity."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.errors import InvalidInput
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images
from attribkit.metrics.asked_score import score_of_whole
from attribkit.metrics.banks.cells import Cells
from attribkit.metrics.banks.on_bank import OnBank
from attribkit.metrics.banks.subsets import Independent

Expected = Float[Tensor, "m b k"]  # by how much the scores of the maps say that the model's score falls


@dataclass(frozen=True, kw_only=True)
class Infidelity(OnBank):
    """The mean square of what a map predicts of the fall of the score, less the fall itself.

    Under removal scores are read as contributions: the prediction is their sum over the removed cells. Under noise they
    are read as slopes: it is the sum of each feature's noise times its score, or that of its pixel where the map does
    not tell channels apart.
    """

    name: ClassVar[str] = "infidelity"
    source: ClassVar[str] = "Yeh et al., NeurIPS 2019, definition 2.1; scaled as in the authors' code"
    higher_is_better: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "captum": {"perturbation": "noise", "sigma": 0.003, "samples": 10, "scaled": False}
    }

    cells: Cells | Tensor = 9
    perturbation: Literal["removal", "noise"] = "removal"
    share: float = 0.2  # the probability with which a cell is removed
    sigma: float = 0.1  # standard deviation of the noise, in units of the images
    samples: int = 200
    scaled: bool = True  # each map by the factor that makes its infidelity least, so that its own scale does not matter

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        left, expected = self._asked(model, attributions)
        whole = score_of_whole(model, attributions[0].x, self.asked(attributions[0]))
        falls = (whole - left).mT.double()  # (b, k)
        expected = expected.double()
        if self.scaled:
            expected = expected * _best_factor(expected, falls)
        return (expected - falls).square().mean(-1).to(left.dtype)

    def _asked(self, model: HookedModel, attributions: Sequence[Attribution]) -> tuple[Float[Tensor, "k b"], Expected]:
        """The score of each perturbed version, and the falls that the maps let expect."""
        if self.perturbation == "removal":
            answered = self.answered(model, attributions[0], Independent(self.share, self.samples))
            return answered.scores, answered.sums([self.heatmap(each) for each in attributions])
        if self.perturbation != "noise":
            raise InvalidInput(f"perturbation={self.perturbation!r} is neither 'removal' nor 'noise'.")
        slopes = [self._slopes(each) for each in attributions]
        x = attributions[0].x
        expected = torch.stack([_products(slopes, x.double() - (x - noise)) for noise in self.noises(x)], -1)
        return self._noisy_scores(model, attributions[0]), expected

    def noises(self, x: Images) -> Iterator[Float[Tensor, "1 c *space"]]:
        """What is subtracted from the images, one after the other; the same for every image."""
        generator = torch.Generator().manual_seed(self.seed)
        return (self.sigma * torch.randn(1, *x.shape[1:], generator=generator).to(x) for _ in range(self.samples))

    def _noisy_scores(self, model: HookedModel, attribution: Attribution) -> Float[Tensor, "k b"]:
        x, target = attribution.x, self.asked(attribution)
        versions = (x - noise for noise in self.noises(x))
        key = ("infidelity under noise", self.sigma, self.samples, self.seed, target)
        return model.remembered(key, lambda: model.scores(versions, target, self.samples))

    def _slopes(self, attribution: Attribution) -> Images:
        """A score for each feature of the images."""
        if attribution.scores.shape == attribution.x.shape:
            return attribution.scores
        return self.heatmap(attribution)[:, None].expand_as(attribution.x)


def _products(slopes: Sequence[Images], moves: Images) -> Float[Tensor, "m b"]:
    """Inner products of what rounding left of the noise with the scores of each map and image."""
    return torch.stack([(each * moves).flatten(1).sum(1) for each in slopes])


def _best_factor(expected: Expected, falls: Float[Tensor, "b k"]) -> Float[Tensor, "m b 1"]:
    """The factor of the maps that brings what they let expect nearest to the falls; any does for a map of zeros."""
    squares = expected.square().sum(-1, keepdim=True)
    return (expected * falls).sum(-1, keepdim=True) / squares.masked_fill(squares == 0, 1)
