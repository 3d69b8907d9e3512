"""[metrics/masked/on_masked] What the metrics on masked images have in common: the mask, and what the model says of the image under it.
[metrics/masked/average_drop] Average drop.
[metrics/masked/average_gain] Average gain.
[metrics/masked/increase_in_confidence] Increase in confidence.
[metrics/masked/adcc] Average DCC.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribkit.contracts.attribution import Attribution
from attribkit.contracts.metric import Faithfulness
from attribkit.core.pictures import extremes
from attribkit.core.shapes import Heatmaps, Images, PerImage
from attribkit.engine.model import HookedModel
from attribkit.metrics.correlation import pearson_correlation, rounding_error
from attribkit.metrics.scores import original_score, recompute, scored_target
from attribkit.targets.binary import Binary, BinaryScore
from attribkit.targets.logits import Probability
from attribkit.targets.regions import Box
from attribkit.targets.resolution import PerImageTargets, with_score_type
from attribkit.targets.target import FunctionTarget, Target


@dataclass(frozen=True, kw_only=True)
class MaskedImageMetric(Faithfulness):
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
        self, model: HookedModel, attributions: Sequence[Attribution], score: BinaryScore
    ) -> tuple[PerImage, Float[Tensor, "m b"]]:
        """The score of the images, and under each map."""
        target = scored_target(attributions[0], score)
        after = [self._after(model, each, target) for each in attributions]
        return original_score(model, attributions[0].x, target), torch.stack(after)

    def _after(self, model: HookedModel, attribution: Attribution, target: Target) -> PerImage:
        key = ("score under a map", attribution, self.reduce, target)
        return model.cached(key, lambda: model.score(self.masked(attribution), target))


def stretched_to_one(heatmaps: Heatmaps) -> Heatmaps:
    """Each map from its least value, 0, to its largest, 1; a constant map is all 1 where positive, else all 0."""
    low, high = extremes(heatmaps)
    return torch.where(high > low, (heatmaps - low) / (high - low), (high > 0).to(heatmaps.dtype))


@dataclass(frozen=True, kw_only=True)
class AverageDrop(MaskedImageMetric):
    """The share of its score that an image loses once it is multiplied by its map; 0 where it gains."""

    name: ClassVar[str] = "average_drop"
    source: ClassVar[str] = "Chattopadhay et al., WACV 2018, average drop, a share, not per cent"
    higher_is_better: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "torchcam": {"score": "logit"},
        "pytorch_grad_cam": {"score": "logit", "relative": False},
    }

    score: BinaryScore = "probability"
    relative: bool = True  # to the score, NaN where that is not positive; else what is lost

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        before, after = self.before_and_after(model, attributions, self.score)
        return relative_drop(before, after) if self.relative else (before - after).relu()


def relative_drop(before: PerImage, after: Float[Tensor, "m b"]) -> Float[Tensor, "m b"]:
    """The share of the score that is lost, NaN where there was none."""
    return torch.where(before > 0, (before - after).relu() / before, torch.nan)


@dataclass(frozen=True, kw_only=True)
class AverageGain(MaskedImageMetric):
    """How much of what a probability lacks of one an image gains once it is multiplied by its map; 0 where it loses.

    NaN where the probability is one already, or where the target gives none.
    """

    name: ClassVar[str] = "average_gain"
    source: ClassVar[str] = "Zhang et al., Opti-CAM, CVIU 2024, average gain, a share, not per cent"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        before, after = self.before_and_after(model, attributions, "probability")
        lacking = (before >= 0) & (before < 1) & _may_be_probabilities(attributions[0].target).to(before.device)
        return torch.where(lacking, (after - before).relu() / (1 - before), torch.nan)


def _may_be_probabilities(target: Any) -> Bool[Tensor, " images"]:
    """Whether scores between 0 and 1 are probabilities by what is asked, and not by chance; of all images, or each."""
    asked = with_score_type(target, "probability")
    each = asked.targets if isinstance(asked, PerImageTargets) else (asked,)
    return torch.tensor([isinstance(one, Probability | Binary | Box | FunctionTarget) for one in each], device="cpu")


@dataclass(frozen=True, kw_only=True)
class IncreaseInConfidence(MaskedImageMetric):
    """1 where the score of an image is higher, by more than rounding, once it is multiplied by its map; else 0."""

    name: ClassVar[str] = "increase_in_confidence"
    source: ClassVar[str] = "Chattopadhay et al., WACV 2018, increase in confidence, a share, not per cent"
    higher_is_better: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "torchcam": {"score": "logit"},
        "pytorch_grad_cam": {"score": "logit"},
    }

    score: BinaryScore = "probability"

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        before, after = self.before_and_after(model, attributions, self.score)
        higher = (after - before > rounding_error(before.dtype) * before.abs()).to(before.dtype)
        return higher.masked_fill((after - before).isnan(), torch.nan)


@dataclass(frozen=True, kw_only=True)
class AverageDCC(MaskedImageMetric):
    """The harmonic mean of what a map keeps of the score, its coherency and its brevity, 0 to 1.

    Coherency runs the method again, on the image multiplied by the map; brevity is one less the mean of the map. NaN
    where a score that is no probability falls below zero, or a map is constant.
    """

    name: ClassVar[str] = "adcc"
    source: ClassVar[str] = "Poppi et al., CVPR Workshops 2021, average DCC"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        parts = self.details(model, attributions)
        kept, brevity = 1 - parts["average_drop"], 1 - parts["complexity"]
        mean = 3 / (1 / kept + 1 / parts["coherency"] + 1 / brevity)
        return torch.where(kept >= 0, mean, torch.nan)

    def details(self, model: HookedModel, attributions: Sequence[Attribution]) -> Mapping[str, Tensor]:
        """The three that it is made of, each (m, b)."""
        before, after = self.before_and_after(model, attributions, "probability")
        return {
            "average_drop": relative_drop(before, after),
            "coherency": torch.stack([self._coherency(model, each) for each in attributions]).to(before.dtype),
            "complexity": torch.stack([self.mask(each).flatten(1).mean(1) for each in attributions]).to(before.dtype),
        }

    def _coherency(self, model: HookedModel, attribution: Attribution) -> PerImage:
        """How alike the map is to that of the image multiplied by it: Pearson's correlation, from 0 to 1."""
        key = ("map of the image under a map", attribution, self.reduce)
        again = model.cached(key, lambda: recompute(self, model, attribution, x=self.masked(attribution)))
        return (1 + pearson_correlation(self.heatmap(attribution).flatten(1), again.flatten(1))) / 2
