"""Remove and debias: the score without the most, and without the least relevant pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from attribkit import (
    Attribution,
    Faithfulness,
    HookedModel,
    NonNegativeFloat,
    OneOrMore,
    OpenFraction,
    Seed,
    Target,
    rank_pixels,
    with_score_type,
)

from .noisy_linear import NoisyLinear


@dataclass(frozen=True, kw_only=True)
class Road(Faithfulness):
    """Half the difference of the scores without the least and without the most relevant pixels, (LeRF - MoRF) / 2.

    The value is the mean over fractions of removed pixels, which noisy linear imputation fills. Exactly floor(fraction
    times pixels) are removed: a seeded order breaks ties. `details` returns the two curves.

    Args:
        fractions: Fractions of removed pixels, by default those of the paper.
        noise: As for `NoisyLinear`.
        tolerance: As for `NoisyLinear`.
        score: The target class's "probability" or "logit"; targets other than a class keep their own score.
        seed: Seed of the order of ties, and of the noise.
    """

    name = "road"
    source = "Rong et al., ICML 2022, of single images as in pytorch-grad-cam's ROADCombined"
    higher_is_better = True
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "pytorch_grad_cam": {"fractions": tuple(tenths / 10 for tenths in range(1, 10)), "score": "logit"}
    }
    fractions: OneOrMore[OpenFraction] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
    noise: NonNegativeFloat = 0.01
    tolerance: OpenFraction = 1e-4
    score: Literal["probability", "logit"] = "probability"
    seed: Seed = 0

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Tensor:
        curves = self.details(model, attributions)
        return ((curves["lerf"] - curves["morf"]) / 2).mean(-1)

    def details(self, model: HookedModel, attributions: Sequence[Attribution]) -> dict[str, Tensor]:
        """Return both curves and the fractions of removed pixels, each (m, b, fractions)."""
        curves = torch.stack([self._curves(model, each) for each in attributions])
        fractions = curves.new_tensor(self.fractions).expand_as(curves[:, 0])
        return {"morf": curves[:, 0], "lerf": curves[:, 1], "fractions": fractions}

    def _curves(self, model: HookedModel, attribution: Attribution) -> Tensor:
        """Return both curves of a map, (2, b, fractions), computed once."""
        return model.cached((self, attribution), lambda: self._compute_curves(model, attribution))

    def _compute_curves(self, model: HookedModel, attribution: Attribution) -> Tensor:
        x, rank = attribution.x, rank_pixels(self.heatmap(attribution), seed=self.seed)
        pixels = x[0, 0].numel()
        counts = [int(pixels * fraction + 1e-9) for fraction in self.fractions]  # 0.29 * 100 is 28.999999999999996
        impute = NoisyLinear(self.noise, self.tolerance, self.seed)
        masks = [rank < count for count in counts] + [rank >= pixels - count for count in counts]
        versions = (impute(x, mask[:, None]) for mask in masks)
        target = with_score_type(cast(Target, attribution.target), self.score)
        return model.scores(versions, target, len(masks)).reshape(2, len(counts), -1).mT
