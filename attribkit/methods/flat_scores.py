"""Scores that no change of the images moves: a map made of them would be one of chance."""

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.core.shapes import Images, PerImage
from attribkit.engine.model import HookedModel

ScoreVersions = Float[Tensor, "k b"]  # scores of k versions of each image

_ROUNDINGS = 4  # of the last digit, that a sum may differ by


def note_flat_scores(model: HookedModel, x: Images, scores: ScoreVersions) -> None:
    """Tell the images whose scores are the same in all of several versions, up to rounding.

    x: the images, in the precision in which the model computes.
    """
    low, high = scores.aminmax(dim=0)
    unmoved = (high - low <= rounding_of(scores, x.dtype)).nonzero().flatten().tolist()
    if unmoved and len(scores) > 1:
        model.note(
            f"the score is the same for images {unmoved}, up to rounding, whatever of them is hidden: "
            "the map does not tell what it depends on"
        )


def rounding_of(scores: ScoreVersions, precision: torch.dtype) -> PerImage:
    """What scores that a model of this precision computed may differ by without meaning it."""
    return _ROUNDINGS * torch.finfo(precision).eps * scores.abs().amax(0)
