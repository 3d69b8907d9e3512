"""Ablation-CAM."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.options import Name
from attribkit.core.shapes import Images, Scores
from attribkit.core.targets.target import Target
from attribkit.methods.layer_maps import weighted
from attribkit.methods.unmoved import note_unmoved


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
        note_unmoved(model, x, torch.cat([scores, score[None]]))
        return weighted(activation, ((score - scores) / score.abs().clamp(min=1e-12)).T).relu()


def _without(channel: int, output: Tensor) -> Tensor:
    """A layer's output with one of its channels, on the second axis, set to zero."""
    output = output.clone()
    output[:, channel] = 0
    return output
