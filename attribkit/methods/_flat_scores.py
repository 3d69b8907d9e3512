"""Detection of scores that are equal for all perturbed versions of an image, up to rounding.

A perturbation method weights its masks or channels by such scores. Where they do not differ, the map would show only
rounding errors, and a note reports these images.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit._core.shapes import Images, PerImage
from attribkit._engine.model import HookedModel

ScoreVersions = Float[Tensor, "k b"]  # scores of k versions of each of b images

_ROUNDING_ERRORS = 4  # machine epsilons by which equal scores may differ


def note_flat_scores(model: HookedModel, x: Images, scores: ScoreVersions) -> None:
    """Add a note that lists the images whose scores are the same for all versions, up to rounding.

    Args:
        model: The model that computed the scores; it collects the note.
        x: The images, in the precision in which the model computes.
        scores: Scores of at least two versions of each image; nothing is noted for a single version.
    """
    low, high = scores.aminmax(dim=0)
    flat = (high - low <= score_rounding_error(scores, x.dtype)).nonzero().flatten().tolist()
    if flat and len(scores) > 1:
        model.note(
            f"the scores of images {flat} do not change, up to rounding, when parts of them are hidden: their maps "
            "contain no information"
        )


def score_rounding_error(scores: ScoreVersions, precision: torch.dtype) -> PerImage:
    """Return the rounding error by which equal scores of a model may differ, for each image.

    Args:
        scores: Scores of k versions of each image; the one of largest magnitude counts.
        precision: The dtype in which the model computes.
    """
    return _ROUNDING_ERRORS * torch.finfo(precision).eps * scores.abs().amax(0)
