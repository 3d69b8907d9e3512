"""The pointing game."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge

from attribkit.core.attribution import Attribution
from attribkit.core.broadcast import extremes
from attribkit.core.errors import InvalidInput
from attribkit.core.metric import Localization
from attribkit.core.options import NotNegative
from attribkit.core.shapes import Heatmaps, PerImage
from attribkit.core.truth import Truth
from attribkit.metrics.localization.near import Points, near_object

Corners = Annotated[int, Ge(3)]
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

    tolerance: NotNegative = 0.0  # pixels of the photograph from the object, between centres
    closed: bool = True  # whether a point as far away as is tolerated is a hit, not only one that is nearer
    corners: Corners | None = None  # of the polygon in the circle that stands for it, as geometry libraries draw it
    maxima: Maxima = "expected"  # where several pixels are largest: the first, any of them, the share of those that hit

    def __call__(self, attribution: Attribution, truth: Truth) -> PerImage:
        heatmap = self.heatmap_on(attribution, truth)
        if self.corners is not None and heatmap.ndim != 3:
            raise InvalidInput(
                f"corners={self.corners} draws on photographs, got a map {tuple(heatmap.shape)}: use None."
            )
        points = self._points(heatmap)
        hits = near_object(truth, points, self.tolerance, closed=self.closed, corners=self.corners)
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
