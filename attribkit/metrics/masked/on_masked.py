"""What the metrics on masked images have in common: the mask, and what the model says of the image under it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.broadcast import extremes
from attribkit.core.metric import Faithfulness
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Heatmaps, Images, PerImage
from attribkit.core.targets.asked import Score
from attribkit.core.targets.target import Target
from attribkit.metrics.asked_score import asked_target, score_of_whole


@dataclass(frozen=True, kw_only=True)
class OnMasked(Faithfulness):
    """Compares the score of an image with its score once it is multiplied by its map, stretched to 0..1.

    The product is taken of normalised images, so that what is masked takes the mean colour.
    """

    def mask(self, attribution: Attribution) -> Heatmaps:
        """The map stretched to 0..1."""
        return stretched_to_one(self.heatmap(attribution))

    def masked(self, attribution: Attribution) -> Images:
        """The images multiplied by their maps."""
        return attribution.x * self.mask(attribution)[:, None].to(attribution.x.dtype)

    def before_and_after(
        self, model: HookedModel, attributions: Sequence[Attribution], score: Score
    ) -> tuple[PerImage, Float[Tensor, "m b"]]:
        """The score of the images, and under each map."""
        target = asked_target(attributions[0], score)
        after = [self._after(model, each, target) for each in attributions]
        return score_of_whole(model, attributions[0].x, target), torch.stack(after)

    def _after(self, model: HookedModel, attribution: Attribution, target: Target) -> PerImage:
        key = ("score under a map", attribution, self.reduce, target)
        return model.remembered(key, lambda: model.score(self.masked(attribution), target))


def stretched_to_one(heatmaps: Heatmaps) -> Heatmaps:
    """Each map from its least value, 0, to its largest, 1; a constant map is all 1 where positive, else all 0."""
    low, high = extremes(heatmaps)
    return torch.where(high > low, (heatmaps - low) / (high - low), (high > 0).to(heatmaps.dtype))
