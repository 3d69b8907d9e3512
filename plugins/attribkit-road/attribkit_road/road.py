"""Remove and debias."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attribkit import Faithfulness, NonNegativeFloat, OneOrMore, OpenFraction, Seed, with_score_type

from .noisy_linear import NoisyLinear


@dataclass(frozen=True, kw_only=True)
class Road(Faithfulness):
    """How much more the score keeps without the least relevant pixels than without the most relevant, halved.

    Exactly floor(fraction times pixels) are removed, whatever the ties, which a seeded order breaks; noisy linear
    imputation fills them. The mean over the fractions is that of (LeRF - MoRF) / 2.
    """

    name = "road"
    source = "Rong et al., ICML 2022, of single images as in pytorch-grad-cam's ROADCombined"
    higher_is_better = True
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "pytorch_grad_cam": {"fractions": tuple(tenths / 10 for tenths in range(1, 10)), "score": "logit"}
    }
    fractions: OneOrMore[OpenFraction] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)  # of the pixels; those of the paper
    noise: NonNegativeFloat = 0.01  # as of the imputer
    tolerance: OpenFraction = 1e-4  # as of the imputer
    score: Literal["probability", "logit"] = "probability"
    seed: Seed = 0  # of the order of ties, and of the noise

    def __call__(self, model, attributions):
        curves = self.details(model, attributions)
        return ((curves["lerf"] - curves["morf"]) / 2).mean(-1)

    def details(self, model, attributions):
        """The score without the most and without the least relevant pixels, and their share; each (m, b, fractions)."""
        curves = torch.stack([self._curves(model, each) for each in attributions])
        fractions = curves.new_tensor(self.fractions).expand_as(curves[:, 0])
        return {"morf": curves[:, 0], "lerf": curves[:, 1], "fractions": fractions}

    def _curves(self, model, attribution):
        """Asked once for a map: (2, b, fractions)."""
        return model.cached((self, attribution), lambda: self._asked(model, attribution))

    def _asked(self, model, attribution):
        x, rank = attribution.x, ranks(self.heatmap(attribution), self.seed)
        pixels = x[0, 0].numel()
        counts = [int(pixels * fraction + 1e-9) for fraction in self.fractions]  # 0.29 times 100 is 28.999999999999996
        impute = NoisyLinear(self.noise, self.tolerance, self.seed)
        masks = [rank < count for count in counts] + [rank >= pixels - count for count in counts]
        stream = (impute(x, mask[:, None]) for mask in masks)
        target = with_score_type(attribution.target, self.score)
        return model.scores(stream, target, len(masks)).reshape(2, len(counts), -1).mT


def ranks(heatmaps: Tensor, seed: int) -> Tensor:
    """The place of each pixel by decreasing value, from 0, (b, *space); ties in one seeded order for all images."""
    values = heatmaps.flatten(1) + 0  # no -0, which is 0
    shuffled = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(seed), device="cpu").to(
        values.device
    )
    order = shuffled[values[:, shuffled].sort(dim=1, descending=True, stable=True).indices]
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, places).reshape(heatmaps.shape)
