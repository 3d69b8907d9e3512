"""[metrics/localization/largest] The largest pixels of a map, and where they are.
[metrics/localization/localization_auc] Area under the ROC curve of localisation.
[metrics/localization/relevance_mass] Relevance mass.
[metrics/localization/relevance_rank] Relevance rank.
[metrics/localization/top_k_intersection] Intersection of the largest pixels with the object.
[metrics/localization/box_iou] Overlap of boxes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attribkit.contracts.attribution import Attribution
from attribkit.contracts.metric import Localization
from attribkit.core.ground_truth import GroundTruth
from attribkit.core.options import FractionAboveZero, NonNegativeFloat, PositiveInt
from attribkit.core.pictures import extremes
from attribkit.core.shapes import Heatmaps, Masks, PerImage
from attribkit.metrics.correlation import average_ranks
from attribkit.metrics.pointing import PixelPlaces, boxes_of, boxes_of_objects, mass_fraction, overlaps


def expected_inside(
    values: Float[Tensor, "b n"], inside: Bool[Tensor, "b n"], count: Int[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """How many of the `count` largest values of each row are inside, in float64.

    Where values are equal at the border of the largest, each of them is among these as often as the others.
    """
    border = values.sort(1, descending=True).values.gather(1, (count - 1).clamp(min=0)[:, None])
    above, level = values > border, values == border
    share = (count - above.sum(1)).double() / level.sum(1)
    return (above & inside).sum(1) + share * (level & inside).sum(1)


@dataclass(frozen=True)
class LocalizationAUC(Localization):
    """How often a pixel of the object is larger than one of the background, a tie counting half, 0 to 1.

    That is the area under the ROC curve. Images without an object, or without a background, give NaN.
    """

    name: ClassVar[str] = "localization_auc"
    source: ClassVar[str] = "Fawcett, Pattern Recognition Letters 2006; by ranks: Hanley and McNeil, Radiology 1982"
    higher_is_better: ClassVar[bool | None] = True

    def __call__(self, attribution: Attribution, truth: GroundTruth) -> PerImage:
        mask = truth.mask.flatten(1)
        ranks = average_ranks(self.heatmap_on(attribution, truth).flatten(1))
        inside, outside = mask.sum(1).double(), (~mask).sum(1)
        larger = (ranks * mask).sum(1) - inside * (inside + 1) / 2  # pairs, of U by Mann and Whitney
        return torch.where((inside > 0) & (outside > 0), larger / (inside * outside), torch.nan)


@dataclass(frozen=True)
class RelevanceMass(Localization):
    """The share of the heatmap's positive part that lies on the object, 0 to 1.

    NaN where there is no positive part, or no object. With a cell of a grid of images for a mask this is the grid
    pointing game.
    """

    name: ClassVar[str] = "relevance_mass"
    source: ClassVar[str] = "Arras et al., Information Fusion 2022, relevance mass accuracy of the positive part"
    higher_is_better: ClassVar[bool | None] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"grid_pointing_game": {"least": 1e-7, "without": 0.0}}

    least: NonNegativeFloat = 0.0  # a positive part of no more than this, summed over the pixels, is none
    without: float | None = None  # the number of an image whose heatmap has no positive part; None is NaN

    def __call__(self, attribution: Attribution, truth: GroundTruth) -> PerImage:
        positive = self.heatmap_on(attribution, truth).relu()
        share = mass_fraction(positive, truth.mask, least=self.least)
        if self.without is None:
            return share
        lacks = (positive.flatten(1).sum(1) <= self.least) & truth.mask.flatten(1).any(1)
        return torch.where(lacks, self.without, share)


@dataclass(frozen=True)
class RelevanceRank(Localization):
    """The share of the object that is found among as many of the largest pixels as the object has, 0 to 1.

    Equal pixels count by their share. Images without an object give NaN.
    """

    name: ClassVar[str] = "relevance_rank"
    source: ClassVar[str] = "Arras et al., Information Fusion 2022, relevance rank accuracy"
    higher_is_better: ClassVar[bool | None] = True

    def __call__(self, attribution: Attribution, truth: GroundTruth) -> PerImage:
        mask = truth.mask.flatten(1)
        size = mask.sum(1)
        found = expected_inside(self.heatmap_on(attribution, truth).flatten(1), mask, size)
        return torch.where(size > 0, found / size, torch.nan)


@dataclass(frozen=True)
class TopKIntersection(Localization):
    """The share of the k largest pixels that are on the object, 0 to 1; of equal pixels each counts by its share.

    Images without an object, or of fewer than k pixels, give NaN.
    """

    name: ClassVar[str] = "top_k_intersection"
    source: ClassVar[str] = "Theiner et al., WACV 2022, top-k intersection and concept influence"
    higher_is_better: ClassVar[bool | None] = True

    k: PositiveInt = 1000  # pixels of the mask
    relative_to_size: bool = False  # divided by the share of the image that the object takes: 1 is chance

    def __call__(self, attribution: Attribution, truth: GroundTruth) -> PerImage:
        mask = truth.mask.flatten(1)
        if self.k > mask.shape[1]:
            return torch.full((len(mask),), torch.nan, device=mask.device, dtype=torch.float32)
        count = torch.full((len(mask),), self.k, device=mask.device)
        share = expected_inside(self.heatmap_on(attribution, truth).flatten(1), mask, count) / self.k
        size = mask.double().mean(1)
        return torch.where(size > 0, share / size if self.relative_to_size else share, torch.nan)


BoxSelection = Literal["largest", "every"]


@dataclass(frozen=True)
class BoxIoU(Localization):
    """How well a box around what is bright in the heatmap fits a box of the object: intersection over union, 0 to 1.

    The object's boxes are those that the truth holds, or else those around the connected parts of its mask; the best
    pair counts. NaN where there is no object, or where the heatmap is constant. Boxes are found on the CPU.
    """

    name: ClassVar[str] = "box_iou"
    source: ClassVar[str] = (
        "Zhou et al., CVPR 2016, sec. 3.2; best pairs of boxes: Choe et al., TPAMI 2022, MaxBoxAccV2"
    )
    higher_is_better: ClassVar[bool | None] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cam": {"boxes": "largest"},
        "maxboxaccv2": {"boxes": "every"},
    }

    threshold: FractionAboveZero = 0.2  # share of the heatmap's range from which on a pixel is bright
    boxes: BoxSelection = "largest"  # of the bright parts: the box of the largest, or of every one

    def __call__(self, attribution: Attribution, truth: GroundTruth) -> PerImage:
        heatmap = self.heatmap_on(attribution, truth)
        pairs = zip(self._bright(heatmap).cpu().numpy(), boxes_of_objects(truth), strict=True)
        values = [self._best(bright, wanted) for bright, wanted in pairs]
        return torch.tensor(values, dtype=heatmap.dtype, device=heatmap.device)

    def _bright(self, heatmap: Heatmaps) -> Masks:
        """The pixels from the threshold on; none of a constant heatmap."""
        low, high = extremes(heatmap)
        return ((heatmap - low) >= self.threshold * (high - low)) & (high > low)

    def _best(self, bright: np.ndarray, wanted: PixelPlaces) -> float:
        """The overlap of the best pair; NaN where there is none."""
        found = boxes_of(bright)
        places = found.places
        if self.boxes == "largest" and len(places):
            places = places[found.sizes.argmax()][None]
        return float(overlaps(places, wanted).max()) if len(places) and len(wanted) else float("nan")
