"""The pointing game of energies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from attribkit.core.attribution import Attribution
from attribkit.core.boxes import filled
from attribkit.core.broadcast import extremes
from attribkit.core.metric import Localization
from attribkit.core.options import ShareAboveZero
from attribkit.core.shapes import Masks, PerImage
from attribkit.core.truth import Truth
from attribkit.metrics.localization.boxes import boxes_of
from attribkit.metrics.localization.share import share_inside


@dataclass(frozen=True)
class EnergyPointingGame(Localization):
    """The share of the heatmap's positive part that lies in the boxes of the object, 0 to 1.

    Its boxes are those that the truth holds, or else those around the connected parts of its mask. NaN where there is
    no positive part, no object, or where the boxes leave too little room to miss.
    """

    name: ClassVar[str] = "energy_pointing_game"
    source: ClassVar[str] = "Wang et al., Score-CAM, CVPR Workshops 2020, energy-based pointing game"
    higher_is_better: ClassVar[bool | None] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"scorecam": {"from_smallest": True, "largest": 0.5}}

    from_smallest: bool = False  # whether the positive part counts from its own smallest value in place of zero
    largest: ShareAboveZero = 1.0  # boxes that cover more than this share of the image give NaN

    def __call__(self, attribution: Attribution, truth: Truth) -> PerImage:
        energy = self.heatmap_on(attribution, truth).relu()
        if self.from_smallest:
            energy = energy - extremes(energy)[0]
        boxes = boxed(truth)
        covered = boxes.flatten(1).double().mean(1)
        return torch.where(covered <= self.largest, share_inside(energy, boxes), torch.nan)


def boxed(truth: Truth) -> Masks:
    """The masks with the boxes of the objects filled."""
    around = torch.zeros_like(truth.mask, device="cpu")
    for own, image in zip(around, truth.mask.cpu(), strict=True):
        for place in boxes_of(image).places:
            own[tuple(slice(*axis) for axis in place)] = True
    around = around.to(truth.mask.device)
    if truth.boxes is None:
        return around
    told = truth.boxes.isfinite().flatten(1).any(1)
    return torch.where(told[:, None, None], filled(truth.boxes, *truth.mask.shape[1:]), around)
