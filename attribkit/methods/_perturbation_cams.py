"""Class activation maps without gradients: channels weighted by the scores of perturbed layers or masked images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from attribkit._contracts.attribution import resize_map
from attribkit._contracts.method import Method
from attribkit._core.layouts import Extent
from attribkit._core.options import Name
from attribkit._core.pictures import extremes
from attribkit._core.shapes import Images, LayerMaps, Scores
from attribkit._engine.model import HookedModel
from attribkit._targets.target import Target
from attribkit.methods._flat_scores import note_flat_scores
from attribkit.methods._gradcam import weighted_sum


@dataclass(frozen=True)
class AblationCAM(Method):
    """Rectified sum of a layer's channels, each weighted by the relative drop in the score when the channel is zero.

    The weight of channel k is ``(y - y_k) / |y|``. The magnitude in the denominator keeps the sign of the drop if the
    score is negative. The cost is one partial forward for each channel; gradients are not used.

    Args:
        layer: Dotted name of the layer; None means the last layer with a spatial map.
    """

    name: ClassVar[str] = "ablationcam"
    display_name: ClassVar[str] = "Ablation-CAM"
    source: ClassVar[str] = "Desai and Ramaswamy, WACV 2020, sec. 3"

    layer: Name | None = None

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        activation = model.activation(x, self.layer, target)
        if bool((activation < 0).any()):
            model.note(
                "ablationcam sets channels to zero, which removes a feature only after a ReLU; this layer has "
                "negative activations"
            )
        ablations: list[Callable[[Tensor], Tensor]] = [
            partial(_zero_channel, channel) for channel in range(activation.shape[1])
        ]
        score = model.score(x, target)
        scores = model.scores_with(x, target, self.layer, ablations)  # (d, b)
        note_flat_scores(model, x, torch.cat([scores, score[None]]))
        return weighted_sum(activation, ((score - scores) / score.abs().clamp(min=1e-12)).T).relu()


def _zero_channel(channel: int, output: Tensor) -> Tensor:
    """Return a copy of a layer's output with one of its channels, on the second axis, set to zero."""
    output = output.clone()
    output[:, channel] = 0
    return output


@dataclass(frozen=True)
class ScoreCAM(Method):
    """Rectified sum of a layer's channels, each weighted by the score of the image multiplied by the channel.

    The channel is resized to the image and scaled to 0 to 1; the weights are the softmax of the scores over the
    channels. The cost is one forward for each channel; gradients are not used.

    Args:
        layer: Dotted name of the layer; None means the last layer with a spatial map.
    """

    name: ClassVar[str] = "scorecam"
    display_name: ClassVar[str] = "Score-CAM"
    source: ClassVar[str] = "Wang et al., CVPR Workshops 2020, sec. 3"

    layer: Name | None = None

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        activation = model.activation(x, self.layer, target)
        masked = _masked(x, activation, model.extent(self.layer))
        scores = model.scores(masked, target, total=activation.shape[1])  # (d, b)
        if len(scores) == 1:
            model.note("the layer has only one channel, so its weight is 1 for any score")
        note_flat_scores(model, x, scores)
        return weighted_sum(activation, scores.softmax(0).T).relu()


def _masked(x: Images, activation: LayerMaps, extent: Extent | None) -> Iterator[Images]:
    """Yield the images times each channel, resized to the images and scaled to 0 to 1."""
    for channel in activation.split(1, dim=1):
        mask = resize_map(channel, x.shape[2:], extent)
        low, high = extremes(mask)
        yield x * ((mask - low) / (high - low).clamp(min=1e-8)).to(x.dtype)
