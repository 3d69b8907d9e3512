"""Whether points are near an object, exactly and in pixels of any size."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attribkit.core.shapes import Heatmaps, Masks
from attribkit.core.truth import Truth

Points = Int[Tensor, "points place"]  # of each point its image, and where it is along each axis

_FEW = 16  # points of an image from which on looking around each takes longer than a map of distances


def near_object(
    truth: Truth, points: Points, tolerance: float, *, closed: bool, corners: int | None = None
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


def _sides(truth: Truth) -> Float[Tensor, "b axes"]:
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
