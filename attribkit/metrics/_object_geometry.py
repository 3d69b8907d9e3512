"""Geometry of annotated objects: distances to them, boxes around them, and the fraction of a map inside them."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Num
from scipy.ndimage import find_objects, generate_binary_structure, label
from torch import Tensor

from attribkit._core.ground_truth import GroundTruth, filled_boxes
from attribkit._core.shapes import Heatmaps, Masks, PerImage

Points = Int[Tensor, "points coordinates"]  # image and index along each spatial axis of each point
BoxSpans = Num[np.ndarray, "_ axes 2"]  # start and end of each box along each axis

_FEW_POINTS = 16  # per image; with more points a map of distances is faster than a search around each point


def is_near_object(
    truth: GroundTruth, points: Points, tolerance: float, *, closed: bool, corners: int | None = None
) -> Bool[Tensor, " points"]:
    """Return whether each point is on the object or within a distance of it.

    Distances are between pixel centres, in pixels of the original photograph.

    Args:
        truth: Masks of the objects, and the sides of their pixels in pixels of the photograph.
        points: The points, by image and index along each axis.
        tolerance: The distance.
        closed: Whether a point at exactly this distance counts.
        corners: Number of corners of a regular polygon, inscribed with its first corner on the last axis, that replaces
            the circle around a point; for two axes only. None uses the circle.
    """
    mask, sides = truth.mask, _pixel_sides(truth)
    reach = (tolerance / sides.amin(0)).floor().minimum(torch.tensor(mask.shape[1:], device=mask.device))
    max_steps: list[int] = reach.long().tolist()

    def within(squared: Tensor) -> Tensor:
        return (squared <= tolerance**2 if closed else squared < tolerance**2) | (squared == 0)

    if corners is None and len(points) > _FEW_POINTS * len(mask):
        return within(_squared_distances(mask, sides, max_steps))[points.unbind(1)]
    offsets = _offsets(max_steps, mask.device)
    lengths = offsets * sides[:, None]
    if corners is None:
        is_near = within(lengths.square().sum(2))
    else:
        is_near = _is_in_polygon(lengths, tolerance, closed, corners)
    parts = points.split(_FEW_POINTS * len(mask) or 1)
    return torch.cat([_touches_object(mask, part, offsets, is_near) for part in parts])


def mass_fraction(energy: Heatmaps, region: Masks, min_mass: float = 0.0) -> PerImage:
    """Return the fraction of each map's sum that is inside a region, 0 to 1.

    Maps must not have negative values. The fraction is NaN for an empty region, or a sum of at most `min_mass`.
    """
    energy, region = energy.flatten(1), region.flatten(1)
    total = energy.sum(1)
    defined = (total > min_mass) & region.any(1)
    return torch.where(defined, (energy * region).sum(1) / total, torch.nan)


class ConnectedParts(NamedTuple):
    """Connected parts of a mask, in scan order; pixels that touch at a corner are connected."""

    boxes: Int[np.ndarray, "n axes 2"]  # first index and last index + 1 along each axis
    sizes: Int[np.ndarray, " n"]  # pixels of each part itself


def connected_parts(mask: Bool[Tensor, "*space"] | Bool[np.ndarray, "*space"]) -> ConnectedParts:
    """Return the boxes and sizes of a mask's connected parts; computed on the CPU."""
    parts, count = label(np.asarray(mask), generate_binary_structure(mask.ndim, mask.ndim))
    boxes = [[(axis.start, axis.stop) for axis in part] for part in find_objects(parts)]
    return ConnectedParts(
        np.array(boxes, dtype=np.int64).reshape(count, mask.ndim, 2), np.bincount(parts.ravel(), minlength=1)[1:]
    )


def object_boxes(truth: GroundTruth) -> list[BoxSpans]:
    """Return each image's annotated boxes, or, without any, the boxes of its mask's connected parts."""
    around: list[BoxSpans] = [connected_parts(image).boxes for image in truth.mask.cpu()]
    if truth.boxes is None:
        return around
    rows_then_columns = truth.boxes[..., [1, 3, 0, 2]].unflatten(2, (2, 2)).cpu().double().numpy()
    annotated = [boxes[np.isfinite(boxes).all((1, 2))] for boxes in rows_then_columns]
    return [boxes if len(boxes) else parts for boxes, parts in zip(annotated, around, strict=True)]


def fill_object_boxes(truth: GroundTruth) -> Masks:
    """Return the masks with each object's boxes filled."""
    around = torch.zeros_like(truth.mask, device="cpu")
    for filled, image in zip(around, truth.mask.cpu(), strict=True):
        for box in connected_parts(image).boxes:
            filled[tuple(slice(*axis) for axis in box)] = True
    around = around.to(truth.mask.device)
    if truth.boxes is None:
        return around
    annotated = truth.boxes.isfinite().flatten(1).any(1)
    return torch.where(annotated[:, None, None], filled_boxes(truth.boxes, *truth.mask.shape[1:]), around)


def box_overlaps(first: BoxSpans, second: BoxSpans) -> np.ndarray:
    """Return the intersection over union of each pair of boxes, (n, m)."""
    low = np.maximum(first[:, None, :, 0], second[None, :, :, 0])
    high = np.minimum(first[:, None, :, 1], second[None, :, :, 1])
    common = (high - low).clip(min=0).prod(2)
    volumes = [(boxes[..., 1] - boxes[..., 0]).prod(1) for boxes in (first, second)]
    return common / (volumes[0][:, None] + volumes[1][None] - common)


def _pixel_sides(truth: GroundTruth) -> Float[Tensor, "b axes"]:
    shape = (len(truth.mask), truth.mask.ndim - 1)
    if truth.pixel is None:
        return torch.ones(shape, dtype=torch.float64, device=truth.mask.device)
    return truth.pixel.double()


def _offsets(max_steps: list[int], device: torch.device) -> Int[Tensor, "k axes"]:
    """Return the offsets from a pixel to all pixels within a number of steps along each axis."""
    axes = [torch.arange(-count, count + 1, device=device) for count in max_steps]
    return torch.cartesian_prod(*axes).reshape(-1, len(max_steps))


def _is_in_polygon(
    offsets: Float[Tensor, "b k axes"], radius: float, closed: bool, corners: int
) -> Bool[Tensor, "b k"]:
    """Return whether offsets along two axes end inside a regular polygon around their origin."""
    down, right = offsets.unbind(2)
    sector = 2 * math.pi / corners
    outward = torch.hypot(down, right) * torch.cos(torch.atan2(down, right).remainder(sector) - sector / 2)
    edge, rounding = radius * math.cos(sector / 2), 1e-9 * radius
    return (outward <= edge + rounding if closed else outward < edge - rounding) | (outward == 0)


def _touches_object(
    mask: Masks, points: Points, offsets: Int[Tensor, "k axes"], is_near: Bool[Tensor, "b k"]
) -> Bool[Tensor, " points"]:
    """Return whether the object covers any of the nearby pixels of each point, given by their offsets."""
    padded = F.pad(mask, [count for count in reversed(offsets[-1].tolist()) for _ in range(2)], value=False)
    positions = points[:, None, 1:] + offsets + offsets[-1]  # (points, k, axes)
    return (padded[(points[:, :1], *positions.unbind(2))] & is_near[points[:, 0]]).any(1)


def _squared_distances(mask: Masks, sides: Float[Tensor, "b axes"], max_steps: list[int]) -> Heatmaps:
    """Return each pixel's squared distance to the object, exact within the maximum steps, else infinite or too large.

    Squared distances are sums over the axes, so the axes can be minimised one after the other.
    """
    nearest = torch.zeros(mask.shape, dtype=torch.float64, device=mask.device).masked_fill(~mask, torch.inf)
    for axis, count in enumerate(max_steps):
        before, side = nearest.clone(), sides[:, axis].reshape(-1, *(1,) * (mask.ndim - 1))
        for step in range(1, min(count, mask.shape[1 + axis] - 1) + 1):
            added, length = (step * side).square(), mask.shape[1 + axis] - step
            for to, start in ((0, step), (step, 0)):
                part = nearest.narrow(1 + axis, to, length)
                part.copy_(part.minimum(before.narrow(1 + axis, start, length) + added))
    return nearest
