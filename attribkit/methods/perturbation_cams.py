"""[methods/ablationcam] Ablation-CAM.
[methods/scorecam] Score-CAM.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from attribkit.contracts.attribution import resize_map
from attribkit.contracts.method import Method
from attribkit.core.layouts import Extent
from attribkit.core.options import Name
from attribkit.core.pictures import extremes
from attribkit.core.shapes import Images, LayerMaps, Scores
from attribkit.engine.model import HookedModel
from attribkit.methods.flat_scores import note_flat_scores
from attribkit.methods.gradcam import weighted_sum
from attribkit.targets.target import Target


@dataclass(frozen=True)
class AblationCAM(Method):
    """A layer's channels, each weighted by how much of the score is lost without it; no gradients.

    The loss is a share of the score's magnitude, so that a channel which a negative score needs counts for it too.
    """

    name: ClassVar[str] = "ablationcam"
    source: ClassVar[str] = "Desai and Ramaswamy, WACV 2020, sec. 3"

    layer: Name | None = None  # dotted name; None is the last map of the image

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        activation = model.activation(x, self.layer, target)
        if bool((activation < 0).any()):
            model.note("ablationcam sets channels to zero, which is absence only behind a ReLU; this layer is signed")
        without: list[Callable[[Tensor], Tensor]] = [
            partial(_without, channel) for channel in range(activation.shape[1])
        ]
        score = model.score(x, target)
        scores = model.scores_with(x, target, self.layer, without)  # (d, b)
        note_flat_scores(model, x, torch.cat([scores, score[None]]))
        return weighted_sum(activation, ((score - scores) / score.abs().clamp(min=1e-12)).T).relu()


def _without(channel: int, output: Tensor) -> Tensor:
    """A layer's output with one of its channels, on the second axis, set to zero."""
    output = output.clone()
    output[:, channel] = 0
    return output


@dataclass(frozen=True)
class ScoreCAM(Method):
    """A layer's channels, each weighted by the score of the image seen through it alone; no gradients."""

    name: ClassVar[str] = "scorecam"
    source: ClassVar[str] = "Wang et al., CVPR Workshops 2020, sec. 3"

    layer: Name | None = None  # dotted name; None is the last map of the image

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        activation = model.activation(x, self.layer, target)
        masked = _masked(x, activation, model.extent(self.layer))
        scores = model.scores(masked, target, total=activation.shape[1])  # (d, b)
        if len(scores) == 1:
            model.note("the layer has one channel: its weight is 1, whatever the score")
        note_flat_scores(model, x, scores)
        return weighted_sum(activation, scores.softmax(0).T).relu()


def _masked(x: Images, activation: LayerMaps, extent: Extent | None) -> Iterator[Images]:
    """The images, times each channel brought to their size and to the range 0 to 1."""
    for channel in activation.split(1, dim=1):
        mask = resize_map(channel, x.shape[2:], extent)
        low, high = extremes(mask)
        yield x * ((mask - low) / (high - low).clamp(min=1e-8)).to(x.dtype)
