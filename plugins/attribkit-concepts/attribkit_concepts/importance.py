"""The importance of concepts for a score: total Sobol indices of masked coefficients."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit import Explainer

from .latent import MaskedConceptScores
from .sobol import total_indices

_CHANGED = 0.1  # change of the mean score by the reconstruction, relative to the score, from which a note states it


@dataclass(frozen=True, eq=False)
class Importance:
    """The total Sobol index of each concept.

    Args:
        values: Mean over the images; NaN if it is not defined for any of them.
        per_image: Index for each image; NaN where the score does not depend on the masks.
        scores: Score of each image.
        reconstructed: Score of each image if the reconstruction replaces the activation of the layer.
        target: The target that was scored.
        notes: What the user must know to interpret the numbers.
    """

    values: Float[Tensor, " k"]
    per_image: Float[Tensor, "b k"]
    scores: Float[Tensor, " b"]
    reconstructed: Float[Tensor, " b"]
    target: Any
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        values = ", ".join(f"{value:.3f}" for value in self.values.tolist())
        notes = "".join(f"\n  {note}" for note in self.notes)
        return f"Importance({values}; {len(self.scores)} images, {self.target!r}){notes}"


def measure_importance(explainer: Explainer, images: Tensor, target: Any, method: MaskedConceptScores) -> Importance:
    """Return the total Sobol index of each concept for the score of the images."""
    attribution = explainer.attribute(images, method, target=target)
    scores = attribution.scores.flatten(1).cpu().double()
    per_image = total_indices(scores[:, 2:], len(method.basis))
    original, reconstructed = scores[:, 0], scores[:, 1]
    notes = dict.fromkeys((*attribution.notes, *_notes(original, reconstructed, per_image)))
    return Importance(per_image.nanmean(0), per_image, original, reconstructed, attribution.target, tuple(notes))


def _notes(original: Tensor, reconstructed: Tensor, per_image: Tensor) -> list[str]:
    notes = []
    change = (reconstructed - original).abs().mean()
    if bool(change > _CHANGED * original.abs().mean()):
        notes.append(
            f"the reconstruction from the concepts changes the score by {float(change):.3g} on average (mean score "
            f"{float(original.mean()):.3g}, of the reconstruction {float(reconstructed.mean()):.3g}): the importance "
            'describes the reconstruction. More concepts, or samples="positions", reduce the difference'
        )
    constant = torch.nonzero(per_image.isnan().any(1)).flatten().tolist()
    if constant:
        notes.append(f"the score of images {constant} does not depend on the concepts: they are left out of the mean")
    return notes
