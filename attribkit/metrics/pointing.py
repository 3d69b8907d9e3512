"""[metrics/localization/near] Whether points are near an object, exactly and in pixels of any size.
[metrics/localization/share] How much of a map lies inside a region.
[metrics/localization/boxes] Boxes of objects, told or around the connected parts of masks; on the CPU.
[metrics/localization/pointing_game] The pointing game.
[metrics/localization/energy_pointing_game] The pointing game of energies.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Bool, Float, Int, Num
from scipy.ndimage import find_objects, generate_binary_structure, label
from torch import Tensor

from attribkit.contracts.attribution import Attribution
from attribkit.contracts.metric import Localization
from attribkit.core.errors import InvalidInput
from attribkit.core.ground_truth import GroundTruth, filled_boxes
from attribkit.core.options import FractionAboveZero, NonNegativeFloat
from attribkit.core.pictures import extremes
from attribkit.core.shapes import Heatmaps, Masks, PerImage

Points = Int[Tensor, "points place"]  # of each point its image, and where it is along each axis

_FEW = 16  # points of an image from which on looking around each takes longer than a map of distances


def is_near_object(
    truth: GroundTruth, points: Points, tolerance: float, *, closed: bool, corners: int | None = None
) -> Bool[Tensor, " points"]:
    """Whether a pixel of the object is nearer to each point than the tolerance, or as near where that is closed.

    Distances are between centres, in pixels of the photograph; a point on the object always is near. corners: of the
    regular polygon in the circle, the first beside the point, that stands for the circle in photographs.
    """
    mask, sides = truth.mask, _sides(truth)
    reach = (tolerance / sides.amin(0)).floor().minimum(torch.tensor(mask.shape[1:], device=mask.device))
    far: list[int] = reach.long().tolist()

    def near(squared: Tensor) -> Tensor:
        return (squared <= tolerance**2 if closed else squared < tolerance**2) | (squared == 0)

    if corners is None and len(points) > _FEW * len(mask):
        return near(_squared_distances(mask, sides, far))[points.unbind(1)]
    steps = _steps(far, mask.device)
    lengths = steps * sides[:, None]
    reached = near(lengths.square().sum(2)) if corners is None else _in_polygon(lengths, tolerance, closed, corners)
    return torch.cat([_touches(mask, some, steps, reached) for some in points.split(_FEW * len(mask) or 1)])


def _in_polygon(steps: Float[Tensor, "b k axes"], radius: float, closed: bool, corners: int) -> Bool[Tensor, "b k"]:
    """Whether steps of two axes end in a regular polygon around their beginning: none is farther out than its edge."""
    down, right = steps.unbind(2)
    sector = 2 * math.pi / corners
    outward = torch.hypot(down, right) * torch.cos(torch.atan2(down, right).remainder(sector) - sector / 2)
    edge, rounding = radius * math.cos(sector / 2), 1e-9 * radius
    return (outward <= edge + rounding if closed else outward < edge - rounding) | (outward == 0)


def _sides(truth: GroundTruth) -> Float[Tensor, "b axes"]:
    shape = (len(truth.mask), truth.mask.ndim - 1)
    if truth.pixel is None:
        return torch.ones(shape, dtype=torch.float64, device=truth.mask.device)
    return truth.pixel.double()


def _steps(far: list[int], device: torch.device) -> Int[Tensor, "k axes"]:
    """From a pixel to those around it, so far along each axis."""
    axes = [torch.arange(-most, most + 1, device=device) for most in far]
    return torch.cartesian_prod(*axes).reshape(-1, len(far))


def _touches(
    mask: Masks, points: Points, steps: Int[Tensor, "k axes"], near: Bool[Tensor, "b k"]
) -> Bool[Tensor, " points"]:
    """Whether the object is at any of the steps from each point that are near in its image."""
    wide = F.pad(mask, [most for most in reversed(steps[-1].tolist()) for _ in range(2)], value=False)
    places = points[:, None, 1:] + steps + steps[-1]  # (points, k, axes)
    return (wide[(points[:, :1], *places.unbind(2))] & near[points[:, 0]]).any(1)


def _squared_distances(mask: Masks, sides: Float[Tensor, "b axes"], far: list[int]) -> Heatmaps:
    """From each pixel to the object, where that is so far away at most; else infinite or too large.

    Squares add up over the axes, so that the nearest is found along one after the other.
    """
    nearest = torch.zeros(mask.shape, dtype=torch.float64, device=mask.device).masked_fill(~mask, torch.inf)
    for axis, most in enumerate(far):
        before, side = nearest.clone(), sides[:, axis].reshape(-1, *(1,) * (mask.ndim - 1))
        for step in range(1, min(most, mask.shape[1 + axis] - 1) + 1):
            farther, kept = (step * side).square(), mask.shape[1 + axis] - step
            for to, start in ((0, step), (step, 0)):
                part = nearest.narrow(1 + axis, to, kept)
                part.copy_(part.minimum(before.narrow(1 + axis, start, kept) + farther))
    return nearest


def mass_fraction(energy: Heatmaps, region: Masks, least: float = 0.0) -> PerImage:
    """The share of the energy that lies in the region, 0 to 1.

    energy: from 0 up. NaN where all of it is no more than the least, or the region is empty.
    """
    energy, region = energy.flatten(1), region.flatten(1)
    total = energy.sum(1)
    defined = (total > least) & region.any(1)
    return torch.where(defined, (energy * region).sum(1) / total, torch.nan)


PixelPlaces = Num[np.ndarray, "_ axes 2"]  # of boxes, where they begin and end on each axis


class ConnectedParts(NamedTuple):
    """The connected parts of a mask, in the order in which a scan meets them; pixels that touch at a corner connect."""

    places: Int[np.ndarray, "n axes 2"]  # first and last + 1 along each axis
    sizes: Int[np.ndarray, " n"]  # pixels of each part, not of its box


def boxes_of(mask: Bool[Tensor, "*space"] | Bool[np.ndarray, "*space"]) -> ConnectedParts:
    """The boxes of a mask's connected parts."""
    parts, count = label(np.asarray(mask), generate_binary_structure(mask.ndim, mask.ndim))
    places = [[(axis.start, axis.stop) for axis in part] for part in find_objects(parts)]
    return ConnectedParts(
        np.array(places, dtype=np.int64).reshape(count, mask.ndim, 2), np.bincount(parts.ravel(), minlength=1)[1:]
    )


def boxes_of_objects(truth: GroundTruth) -> list[PixelPlaces]:
    """Each image's boxes: those that the truth holds, or else those around its mask's connected parts."""
    around: list[PixelPlaces] = [boxes_of(image).places for image in truth.mask.cpu()]
    if truth.boxes is None:
        return around
    top_to_bottom_left_to_right = truth.boxes[..., [1, 3, 0, 2]].unflatten(2, (2, 2)).cpu().double().numpy()
    told = [each[np.isfinite(each).all((1, 2))] for each in top_to_bottom_left_to_right]
    return [own if len(own) else parts for own, parts in zip(told, around, strict=True)]


def overlaps(first: PixelPlaces, second: PixelPlaces) -> np.ndarray:
    """Intersection over union of each pair of boxes, (n, m)."""
    low = np.maximum(first[:, None, :, 0], second[None, :, :, 0])
    high = np.minimum(first[:, None, :, 1], second[None, :, :, 1])
    common = (high - low).clip(min=0).prod(2)
    volumes = [(each[..., 1] - each[..., 0]).prod(1) for each in (first, second)]
    return common / (volumes[0][:, None] + volumes[1][None] - common)


PolygonCorners = Annotated[int, Ge(3)]
Maxima = Literal["first", "any", "expected"]


@dataclass(frozen=True)
class PointingGame(Localization):
    """1 where the heatmap is largest on the object, or as near to it as is tolerated; 0 where elsewhere.

    Images without an object give NaN.
    """

    name: ClassVar[str] = "pointing_game"
    source: ClassVar[str] = "Zhang et al., ECCV 2016, sec. 4.1"
    higher_is_better: ClassVar[bool | None] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "torchray": {"tolerance": 15.0, "closed": False, "maxima": "first"},
        "excitation_bp": {"tolerance": 15.0, "corners": 64, "maxima": "first"},
        "quantus": {"maxima": "any"},
    }

    tolerance: NonNegativeFloat = 0.0  # pixels of the photograph from the object, between centres
    closed: bool = True  # whether a point as far away as is tolerated is a hit, not only one that is nearer
    corners: PolygonCorners | None = (
        None  # of the polygon in the circle that stands for it, as geometry libraries draw it
    )
    maxima: Maxima = "expected"  # where several pixels are largest: the first, any of them, the share of those that hit

    def __call__(self, attribution: Attribution, truth: GroundTruth) -> PerImage:
        heatmap = self.heatmap_on(attribution, truth)
        if self.corners is not None and heatmap.ndim != 3:
            raise InvalidInput(
                f"corners={self.corners} draws on photographs, got a map {tuple(heatmap.shape)}: use None."
            )
        points = self._points(heatmap)
        hits = is_near_object(truth, points, self.tolerance, closed=self.closed, corners=self.corners)
        each, count = points[:, 0], len(heatmap)
        hit, largest = each[hits].bincount(minlength=count), each.bincount(minlength=count)
        value = (hit > 0).double() if self.maxima == "any" else hit.double() / largest
        return torch.where(truth.mask.flatten(1).any(1), value, torch.nan)

    def _points(self, heatmap: Heatmaps) -> Points:
        """Each maximum that counts: its image, and where it is along each axis."""
        if self.maxima == "first":
            places = torch.unravel_index(heatmap.flatten(1).argmax(1), heatmap.shape[1:])
            return torch.stack([torch.arange(len(heatmap), device=heatmap.device), *places], 1)
        return (heatmap == extremes(heatmap)[1]).nonzero()


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
    largest: FractionAboveZero = 1.0  # boxes that cover more than this share of the image give NaN

    def __call__(self, attribution: Attribution, truth: GroundTruth) -> PerImage:
        energy = self.heatmap_on(attribution, truth).relu()
        if self.from_smallest:
            energy = energy - extremes(energy)[0]
        boxes = boxed(truth)
        covered = boxes.flatten(1).double().mean(1)
        return torch.where(covered <= self.largest, mass_fraction(energy, boxes), torch.nan)


def boxed(truth: GroundTruth) -> Masks:
    """The masks with the boxes of the objects filled."""
    around = torch.zeros_like(truth.mask, device="cpu")
    for own, image in zip(around, truth.mask.cpu(), strict=True):
        for place in boxes_of(image).places:
            own[tuple(slice(*axis) for axis in place)] = True
    around = around.to(truth.mask.device)
    if truth.boxes is None:
        return around
    told = truth.boxes.isfinite().flatten(1).any(1)
    return torch.where(told[:, None, None], filled_boxes(truth.boxes, *truth.mask.shape[1:]), around)
