"""Metrics that compare the score of an image with the score of the image multiplied by its map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.metric import Faithfulness
from attribkit._core.pictures import extremes
from attribkit._core.shapes import Heatmaps, Images, PerImage
from attribkit._engine.model import HookedModel
from attribkit._targets.binary import Binary, BinaryScore
from attribkit._targets.logits import Probability
from attribkit._targets.regions import Box
from attribkit._targets.resolution import PerImageTargets, with_score_type
from attribkit._targets.target import FunctionTarget, Target
from attribkit.metrics._correlation import pearson_correlation, rounding_error
from attribkit.metrics._scores import original_score, recompute, scored_target


@dataclass(frozen=True, kw_only=True)
class MaskedImageMetric(Faithfulness):
    """Base class for metrics that multiply an image by its map, scaled to 0 to 1.

    The normalised image is multiplied, so that masked pixels get the mean colour.
    """

    def mask(self, attribution: Attribution) -> Heatmaps:
        """Return the map scaled to 0 to 1."""
        return scale_to_unit_range(self.heatmap(attribution))

    def masked(self, attribution: Attribution) -> Images:
        """Return the images multiplied by their maps."""
        return attribution.x * self.mask(attribution)[:, None].to(attribution.x.dtype)

    def before_and_after(
        self, model: HookedModel, attributions: Sequence[Attribution], score: BinaryScore
    ) -> tuple[PerImage, Float[Tensor, "m b"]]:
        """Return the score of the images, and of the images multiplied by each map."""
        target = scored_target(attributions[0], score)
        after = [self._masked_score(model, each, target) for each in attributions]
        return original_score(model, attributions[0].x, target), torch.stack(after)

    def _masked_score(self, model: HookedModel, attribution: Attribution, target: Target) -> PerImage:
        key = ("score of masked image", attribution, self.reduce, target)
        return model.cached(key, lambda: model.score(self.masked(attribution), target))


def scale_to_unit_range(heatmaps: Heatmaps) -> Heatmaps:
    """Scale each map linearly to the range 0 to 1; a constant map becomes 1 where it is positive, else 0."""
    low, high = extremes(heatmaps)
    return torch.where(high > low, (heatmaps - low) / (high - low), (high > 0).to(heatmaps.dtype))


@dataclass(frozen=True, kw_only=True)
class AverageDrop(MaskedImageMetric):
    """Relative drop in the score when the image is multiplied by its map, ReLU(y - y_masked) / y.

    Args:
        score: The target class's "probability" or "logit"; targets other than a class keep their own score.
        relative: Whether the drop is divided by the score, with NaN where the score is not positive; False gives the
            absolute drop.
    """

    name: ClassVar[str] = "average_drop"
    source: ClassVar[str] = "Chattopadhay et al., WACV 2018, average drop, a fraction, not per cent"
    higher_is_better: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "torchcam": {"score": "logit"},
        "pytorch_grad_cam": {"score": "logit", "relative": False},
    }

    score: BinaryScore = "probability"
    relative: bool = True

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        before, after = self.before_and_after(model, attributions, self.score)
        return relative_drop(before, after) if self.relative else (before - after).relu()


def relative_drop(before: PerImage, after: Float[Tensor, "m b"]) -> Float[Tensor, "m b"]:
    """Return the drop in the score as a fraction of the score; NaN where the score is not positive."""
    return torch.where(before > 0, (before - after).relu() / before, torch.nan)


@dataclass(frozen=True, kw_only=True)
class AverageGain(MaskedImageMetric):
    """Relative rise of the probability when the image is multiplied by its map, ReLU(p_masked - p) / (1 - p).

    It is NaN where the probability is one, or where the score of the target is not a probability.
    """

    name: ClassVar[str] = "average_gain"
    source: ClassVar[str] = "Zhang et al., Opti-CAM, CVIU 2024, average gain, a fraction, not per cent"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        before, after = self.before_and_after(model, attributions, "probability")
        defined = (before >= 0) & (before < 1) & _are_probabilities(attributions[0].target).to(before.device)
        return torch.where(defined, (after - before).relu() / (1 - before), torch.nan)


def _are_probabilities(target: Any) -> Bool[Tensor, " images"]:
    """Return whether the target's scores may be probabilities, for all images or for each of them."""
    target = with_score_type(target, "probability")
    targets = target.targets if isinstance(target, PerImageTargets) else (target,)
    return torch.tensor(
        [isinstance(each, Probability | Binary | Box | FunctionTarget) for each in targets], device="cpu"
    )


@dataclass(frozen=True, kw_only=True)
class IncreaseInConfidence(MaskedImageMetric):
    """Whether the score is higher when the image is multiplied by its map, 1 or 0; rounding does not count.

    The option `score` is that of `AverageDrop`.
    """

    name: ClassVar[str] = "increase_in_confidence"
    source: ClassVar[str] = "Chattopadhay et al., WACV 2018, increase in confidence, a fraction, not per cent"
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
    """Harmonic mean of three values from 0 to 1: 1 - average drop, coherency, and 1 - complexity.

    Coherency is the correlation, scaled to 0 to 1, of the map with the method's map of the image multiplied by the map:
    the method runs again. Complexity is the mean of the map. The metric is NaN where the masked score of a target other
    than a probability is negative, or a map is constant.
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
        """Return average drop, coherency and complexity, each (m, b)."""
        before, after = self.before_and_after(model, attributions, "probability")
        return {
            "average_drop": relative_drop(before, after),
            "coherency": torch.stack([self._coherency(model, each) for each in attributions]).to(before.dtype),
            "complexity": torch.stack([self.mask(each).flatten(1).mean(1) for each in attributions]).to(before.dtype),
        }

    def _coherency(self, model: HookedModel, attribution: Attribution) -> PerImage:
        """Return Pearson's correlation, scaled to 0 to 1, of the map and that of the masked image."""
        key = ("map of masked image", attribution, self.reduce)
        second = model.cached(key, lambda: recompute(self, model, attribution, x=self.masked(attribution)))
        return (1 + pearson_correlation(self.heatmap(attribution).flatten(1), second.flatten(1))) / 2
