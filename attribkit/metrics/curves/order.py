"""The order in which units of an image are changed: pixels, their channels one by one, or patches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from attribkit.core.attribution import Attribution, Reduction, resized
from attribkit.core.axes import PerAxis, per_axis
from attribkit.core.shapes import Images, PerImage
from attribkit.metrics.curves.ranks import Ties, ranked

_POOLS: dict[int, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {  # by the number of axes of space
    1: (F.avg_pool1d, F.max_pool1d),
    2: (F.avg_pool2d, F.max_pool2d),
    3: (F.avg_pool3d, F.max_pool3d),
}

Channels = Literal["together", "apart"]  # of a pixel: changed at once, or units of their own


@dataclass(frozen=True, eq=False)
class Ranking:
    """The rank of each pixel's unit by decreasing score, from 0."""

    ranks: Int[Tensor, "b k *space"]  # k is 1, or c where the channels are apart
    units: int
    tie_share: PerImage  # of units that another one equals


@dataclass(frozen=True)
class Order:
    """What the units are, and how they are ordered by a map."""

    reduce: Reduction
    channels: Channels
    patch: PerAxis
    ties: Ties
    seed: int

    def __call__(self, attribution: Attribution) -> Ranking:
        """Rank the units of each image by one stable sort."""
        space = attribution.x.shape[2:]
        sides = tuple(map(min, per_axis("patch", self.patch, space), space))
        cells = _means(self._maps(attribution), sides)
        ranks, tie_share = ranked(cells.flatten(1), self.ties, self.seed)
        return Ranking(_spread(ranks.view(cells.shape), sides, space), ranks.shape[1], tie_share)

    def _maps(self, attribution: Attribution) -> Images:
        """What is ranked, (b, 1 or c, *space); apart, channels that share one map are equal."""
        if self.channels == "together":
            return attribution.heatmap(self.reduce)[:, None]
        x = attribution.x
        return resized(attribution.scores, x.shape[2:], attribution.extent).expand(-1, x.shape[1], *x.shape[2:])


def _means(maps: Images, sides: Sequence[int]) -> Tensor:
    """The mean over each patch, in float64; of those that are cut off at the far border, over the pixels they have."""
    if max(sides) == 1:
        return maps
    mean, largest = _POOLS[len(sides)]
    maps = maps.double()
    means = mean(maps, sides, sides, ceil_mode=True, count_include_pad=False)
    low, high = -largest(-maps, sides, sides, ceil_mode=True), largest(maps, sides, sides, ceil_mode=True)
    return means.clamp(low, high)  # patches of one value are equal, whatever their size


def _spread(ranks: Tensor, sides: Sequence[int], space: Sequence[int]) -> Tensor:
    """Each patch's rank at all of its pixels."""
    for axis, (side, length) in enumerate(zip(sides, space, strict=True), start=2):
        if side > 1:
            ranks = ranks.repeat_interleave(side, axis).narrow(axis, 0, length)
    return ranks
