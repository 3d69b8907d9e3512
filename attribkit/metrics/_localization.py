"""Metrics of agreement between a map and an annotated object: mass, ranks, maxima and boxes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.metric import Localization
from attribkit._core.errors import InvalidInput
from attribkit._core.ground_truth import GroundTruth
from attribkit._core.options import FractionAboveZero, NonNegativeFloat, PositiveInt
from attribkit._core.pictures import extremes
from attribkit._core.shapes import Heatmaps, Masks, PerImage
from attribkit.metrics._correlation import average_ranks
from attribkit.metrics._object_geometry import (
    BoxSpans,
    Points,
    box_overlaps,
    connected_parts,
    fill_object_boxes,
    is_near_object,
    mass_fraction,
    object_boxes,
)

BoxSelection = Literal["largest", "every"]
Maxima = Literal["first", "any", "expected"]
PolygonCorners = Annotated[int, Ge(3)]


@dataclass(frozen=True)
class RelevanceMass(Localization):
    """Fraction of the heatmap's positive part that is on the object, 0 to 1.

    The value is NaN without an object. If the mask is a cell of a grid of images, this is the grid pointing game.

    Args:
        min_mass: Largest sum over the pixels that counts as zero.
        empty_value: Value for an image whose positive part is zero; None means NaN.
    """

    name: ClassVar[str] = "relevance_mass"
    source: ClassVar[str] = "Arras et al., Information Fusion 2022, relevance mass accuracy of the positive part"
    higher_is_better: ClassVar[bool | None] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"grid_pointing_game": {"min_mass": 1e-7, "empty_value": 0.0}}

    min_mass: NonNegativeFloat = 0.0
    empty_value: float | None = None

    def __call__(self, attribution: Attribution, truth: GroundTruth) -> PerImage:
        positive = self.heatmap_on(attribution, truth).relu()
        fraction = mass_fraction(positive, truth.mask, min_mass=self.min_mass)
        if self.empty_value is None:
            return fraction
        empty = (positive.flatten(1).sum(1) <= self.min_mass) & truth.mask.flatten(1).any(1)
        return torch.where(empty, self.empty_value, fraction)


@dataclass(frozen=True)
class RelevanceRank(Localization):
    """Fraction of the n largest pixels of the heatmap that are on the object, where n is the object's size, 0 to 1.

    Ties are averaged over all their orders. The value is NaN for an image without an object.
    """

    name: ClassVar[str] = "relevance_rank"
    source: ClassVar[str] = "Arras et al., Information Fusion 2022, relevance rank accuracy"
    higher_is_better: ClassVar[bool | None] = True
    rank_based: ClassVar[bool] = True

    def __call__(self, attribution: Attribution, truth: GroundTruth) -> PerImage:
        mask = truth.mask.flatten(1)
        size = mask.sum(1)
        inside = expected_inside(self.heatmap_on(attribution, truth).flatten(1), mask, size)
        return torch.where(size > 0, inside / size, torch.nan)


@dataclass(frozen=True)
class TopKIntersection(Localization):
    """Fraction of the k largest pixels of the heatmap that are on the object, 0 to 1.

    Ties are averaged over all their orders. An image without an object, or of fewer than k pixels, has the value NaN.

    Args:
        k: Number of pixels of the mask.
        relative_to_size: Whether to divide by the fraction of the image that the object covers, so chance level is 1.
    """

    name: ClassVar[str] = "top_k_intersection"
    source: ClassVar[str] = "Theiner et al., WACV 2022, top-k intersection and concept influence"
    higher_is_better: ClassVar[bool | None] = True
    rank_based: ClassVar[bool] = True

    k: PositiveInt = 1000
    relative_to_size: bool = False

    def __call__(self, attribution: Attribution, truth: GroundTruth) -> PerImage:
        mask = truth.mask.flatten(1)
        if self.k > mask.shape[1]:
            return torch.full((len(mask),), torch.nan, device=mask.device, dtype=torch.float32)
        count = torch.full((len(mask),), self.k, device=mask.device)
        fraction = expected_inside(self.heatmap_on(attribution, truth).flatten(1), mask, count) / self.k
        size = mask.double().mean(1)
        return torch.where(size > 0, fraction / size if self.relative_to_size else fraction, torch.nan)


@dataclass(frozen=True)
class LocalizationAUC(Localization):
    """Area under the ROC curve of the heatmap as a classifier of the object's pixels, 0 to 1.

    It is the fraction of pairs of object and background pixels in which the object pixel is larger; ties count half.
    The value is NaN without an object or without background.
    """

    name: ClassVar[str] = "localization_auc"
    source: ClassVar[str] = "Fawcett, Pattern Recognition Letters 2006; by ranks: Hanley and McNeil, Radiology 1982"
    higher_is_better: ClassVar[bool | None] = True
    rank_based: ClassVar[bool] = True

    def __call__(self, attribution: Attribution, truth: GroundTruth) -> PerImage:
        mask = truth.mask.flatten(1)
        ranks = average_ranks(self.heatmap_on(attribution, truth).flatten(1))
        inside, outside = mask.sum(1).double(), (~mask).sum(1)
        larger = (ranks * mask).sum(1) - inside * (inside + 1) / 2  # Mann and Whitney's U, a number of pairs
        return torch.where((inside > 0) & (outside > 0), larger / (inside * outside), torch.nan)


@dataclass(frozen=True)
class PointingGame(Localization):
    """Whether the heatmap's maximum is on the object or within a tolerance of it, 1 or 0.

    The value is NaN for an image without an object.

    Args:
        tolerance: Accepted distance from the object between pixel centres, in pixels of the original photograph.
        closed: Whether a maximum at exactly this distance is a hit.
        corners: Number of corners of a regular polygon that replaces the circle of the tolerance, as geometry libraries
            draw it; for two spatial axes only. None means the circle.
        maxima: Which of equal maxima counts: the "first", "any" that hits, or their "expected" fraction of hits.
    """

    name: ClassVar[str] = "pointing_game"
    source: ClassVar[str] = "Zhang et al., ECCV 2016, sec. 4.1"
    higher_is_better: ClassVar[bool | None] = True
    rank_based: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "torchray": {"tolerance": 15.0, "closed": False, "maxima": "first"},
        "excitation_bp": {"tolerance": 15.0, "corners": 64, "maxima": "first"},
        "quantus": {"maxima": "any"},
    }

    tolerance: NonNegativeFloat = 0.0
    closed: bool = True
    corners: PolygonCorners | None = None
    maxima: Maxima = "expected"

    def __call__(self, attribution: Attribution, truth: GroundTruth) -> PerImage:
        heatmap = self.heatmap_on(attribution, truth)
        if self.corners is not None and heatmap.ndim != 3:
            raise InvalidInput(
                f"corners={self.corners} needs maps (b, h, w), got shape {tuple(heatmap.shape)}: use corners=None."
            )
        points = self._points(heatmap)
        hits = is_near_object(truth, points, self.tolerance, closed=self.closed, corners=self.corners)
        images, count = points[:, 0], len(heatmap)
        hit_count, point_count = images[hits].bincount(minlength=count), images.bincount(minlength=count)
        value = (hit_count > 0).double() if self.maxima == "any" else hit_count.double() / point_count
        return torch.where(truth.mask.flatten(1).any(1), value, torch.nan)

    def _points(self, heatmap: Heatmaps) -> Points:
        """Return the image and the indices of each maximum that counts."""
        if self.maxima == "first":
            indices = torch.unravel_index(heatmap.flatten(1).argmax(1), heatmap.shape[1:])
            return torch.stack([torch.arange(len(heatmap), device=heatmap.device), *indices], 1)
        return (heatmap == extremes(heatmap)[1]).nonzero()


@dataclass(frozen=True)
class EnergyPointingGame(Localization):
    """Fraction of the heatmap's positive part that is in the boxes of the object, 0 to 1.

    The boxes are the annotated ones, or else those of the connected parts of the mask. The value is NaN where the
    positive part is zero, the image does not show an object, or the boxes cover too much of it.

    Args:
        subtract_minimum: Whether the smallest value of the positive part is subtracted from it first.
        max_coverage: Largest fraction of the image that the boxes may cover.
    """

    name: ClassVar[str] = "energy_pointing_game"
    source: ClassVar[str] = "Wang et al., Score-CAM, CVPR Workshops 2020, energy-based pointing game"
    higher_is_better: ClassVar[bool | None] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"scorecam": {"subtract_minimum": True, "max_coverage": 0.5}}

    subtract_minimum: bool = False
    max_coverage: FractionAboveZero = 1.0

    def __call__(self, attribution: Attribution, truth: GroundTruth) -> PerImage:
        energy = self.heatmap_on(attribution, truth).relu()
        if self.subtract_minimum:
            energy = energy - extremes(energy)[0]
        boxes = fill_object_boxes(truth)
        covered = boxes.flatten(1).double().mean(1)
        return torch.where(covered <= self.max_coverage, mass_fraction(energy, boxes), torch.nan)


@dataclass(frozen=True)
class BoxIoU(Localization):
    """Intersection over union, 0 to 1, of a box around the heatmap's bright pixels and a box of the object.

    The object's boxes are the annotated ones, or else those of the connected parts of the mask; the best pair counts.
    It is NaN without an object, or where the heatmap is constant. Boxes are computed on the CPU.

    Args:
        threshold: Fraction of the heatmap's range from which a pixel counts as bright.
        boxes: The box of the "largest" connected bright part, or the boxes of "every" part.
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

    threshold: FractionAboveZero = 0.2
    boxes: BoxSelection = "largest"

    def __call__(self, attribution: Attribution, truth: GroundTruth) -> PerImage:
        heatmap = self.heatmap_on(attribution, truth)
        pairs = zip(self._bright(heatmap).cpu().numpy(), object_boxes(truth), strict=True)
        values = [self._best_overlap(bright, boxes) for bright, boxes in pairs]
        return torch.tensor(values, dtype=heatmap.dtype, device=heatmap.device)

    def _bright(self, heatmap: Heatmaps) -> Masks:
        """Return the mask of the pixels from the threshold on; it is empty for a constant heatmap."""
        low, high = extremes(heatmap)
        return ((heatmap - low) >= self.threshold * (high - low)) & (high > low)

    def _best_overlap(self, bright: np.ndarray, target_boxes: BoxSpans) -> float:
        """Return the overlap of the best pair of boxes; NaN without any pair."""
        boxes, sizes = connected_parts(bright)
        if self.boxes == "largest" and len(boxes):
            boxes = boxes[sizes.argmax()][None]
        return float(box_overlaps(boxes, target_boxes).max()) if len(boxes) and len(target_boxes) else float("nan")


def expected_inside(
    values: Float[Tensor, "b n"], inside: Bool[Tensor, "b n"], count: Int[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """Return how many of the `count` largest values of each row are inside, in float64.

    Where equal values compete for the last ranks, the result is the mean over all their orders.
    """
    threshold = values.sort(1, descending=True).values.gather(1, (count - 1).clamp(min=0)[:, None])
    above, tied = values > threshold, values == threshold
    fraction = (count - above.sum(1)).double() / tied.sum(1)
    return (above & inside).sum(1) + fraction * (tied & inside).sum(1)
