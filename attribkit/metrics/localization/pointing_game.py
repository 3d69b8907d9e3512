"""The pointing game."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.errors import InvalidInput
from attribkit.core.metric import Localization
from attribkit.core.shapes import Heatmaps, Masks, PerImage
from attribkit.core.truth import Truth

Maxima = Literal["first", "any", "expected"]

_POINTS = 4096  # whose windows are looked at together: some 4 million pixels at a tolerance of 15


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
        "excitation_bp": {"tolerance": 15.0, "closed": False, "maxima": "first"},
        "quantus": {"maxima": "any"},
    }

    tolerance: float = 0.0  # pixels of the photograph from the object, between centres
    closed: bool = True  # whether a point as far away as is tolerated is a hit, not only one that is nearer
    maxima: Maxima = "expected"  # where several pixels are largest: the first, any of them, the share of those that hit

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < math.inf:
            raise InvalidInput(f"tolerance={self.tolerance} must be a number of pixels from 0.")
        if self.maxima not in get_args(Maxima):
            raise InvalidInput(f"maxima={self.maxima!r} is not known; known: {', '.join(get_args(Maxima))}.")

    def __call__(self, attribution: Attribution, truth: Truth) -> PerImage:
        heatmap = self.heatmap_on(attribution, truth)
        points = self._points(heatmap)
        offsets, near = self._window(truth)
        hits = [_touches(truth.mask, part, offsets, near) for part in points.split(_POINTS)]
        counts = torch.zeros(2, len(heatmap), dtype=heatmap.dtype, device=heatmap.device)
        counts[0].index_add_(0, points[:, 0], torch.cat(hits).to(heatmap.dtype))
        counts[1].index_add_(0, points[:, 0], torch.ones(len(points), dtype=heatmap.dtype, device=heatmap.device))
        value = (counts[0] > 0).to(heatmap.dtype) if self.maxima == "any" else counts[0] / counts[1]
        return torch.where(truth.mask.flatten(1).any(1), value, torch.nan)

    def _points(self, heatmap: Heatmaps) -> Int[Tensor, "points place"]:
        """Each maximum that counts: its image, and where it is along each axis."""
        if self.maxima == "first":
            places = torch.unravel_index(heatmap.flatten(1).argmax(1), heatmap.shape[1:])
            return torch.stack([torch.arange(len(heatmap), device=heatmap.device), *places], 1)
        largest = heatmap.flatten(1).amax(1)
        return (heatmap == largest[(..., *(None,) * (heatmap.ndim - 1))]).nonzero()

    def _window(self, truth: Truth) -> tuple[Int[Tensor, "k axes"], Bool[Tensor, "b k"]]:
        """Steps from a point, in pixels of the mask, and for each image which of them are within the tolerance."""
        mask, axes = truth.mask, truth.mask.ndim - 1
        one = torch.ones(len(mask), axes, dtype=torch.float64, device=mask.device)
        sides = one if truth.pixel is None else truth.pixel.double()
        reach = (self.tolerance / sides.amin(0)).floor().minimum(torch.tensor(mask.shape[1:], device=mask.device))
        steps = [torch.arange(-most, most + 1, device=mask.device) for most in reach.long().tolist()]
        offsets = torch.cartesian_prod(*steps).reshape(-1, axes)
        return offsets, self._tolerated((offsets * sides[:, None]).square().sum(2))

    def _tolerated(self, squared: Float[Tensor, "b k"]) -> Bool[Tensor, "b k"]:
        """Which squared distances from the object are a hit; no distance always is."""
        limit = self.tolerance**2
        return (squared <= limit if self.closed else squared < limit) | (squared == 0)


def _touches(
    mask: Masks, points: Int[Tensor, "points place"], offsets: Int[Tensor, "k axes"], near: Bool[Tensor, "b k"]
) -> Bool[Tensor, " points"]:
    """Whether the object is in the window around each point."""
    margin = offsets[-1].tolist()  # the largest steps
    padding = [most for most in reversed(margin) for _ in range(2)]
    wide = F.pad(mask, padding, value=False)
    places = points[:, None, 1:] + offsets + offsets[-1]  # (points, k, axes)
    seen = wide[(points[:, :1], *places.unbind(2))]
    return (seen & near[points[:, 0]]).any(1)
