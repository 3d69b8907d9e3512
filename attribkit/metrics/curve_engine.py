"""[metrics/curves/ranks] Ranks of scores, and what is done about equal ones.
[metrics/curves/order] The order in which units of an image are changed: pixels, their channels one by one, or patches.
[metrics/curves/stops] Where on the way from no unit changed to all of them the model is asked.
[metrics/curves/walk] The engine: a model's score while units of its images are taken away or put back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from attribkit.contracts.attribution import Attribution, Reduction, resize_map
from attribkit.core.axes import PerAxis, per_axis
from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import Images, PerImage
from attribkit.core.substrates import Fill, Imputer, filling
from attribkit.core.tensors import to_device
from attribkit.engine.model import HookedModel
from attribkit.metrics.scores import original_score, scored_target
from attribkit.targets.binary import BinaryScore
from attribkit.targets.target import Target

# Which of equal units comes first: by a seeded order that all maps and images share; the first in memory, as a stable
# sort has it; the last in memory, as a stable sort that is then reversed has it.
Ties = Literal["random", "first", "last"]


def ranked(scores: Float[Tensor, "b units"], ties: Ties, seed: int = 0) -> tuple[Int[Tensor, "b units"], PerImage]:
    """Each unit's rank by decreasing score, from 0, and the share of units that another one of the image equals."""
    units = scores.shape[1]
    places = _places(units, ties, seed, scores.device)
    sorted_scores = (scores + 0)[:, places].sort(dim=1, descending=True, stable=True)  # + 0: no -0, which is 0
    numbers = torch.arange(units, dtype=torch.int32, device=scores.device).expand_as(scores)
    ranks = torch.empty_like(numbers).scatter_(1, places[sorted_scores.indices], numbers)
    return ranks, _share_of_equal(sorted_scores.values)


@lru_cache(maxsize=4)
def _places(units: int, ties: Ties, seed: int, device: torch.device) -> Tensor:
    """The order in which equal units come; the random one is the CPU's, so that every device has the same."""
    with torch.inference_mode(False):  # those who come later may be elsewhere
        if ties == "random":
            return torch.randperm(units, generator=torch.Generator().manual_seed(seed), device="cpu").to(device)
        return torch.arange(units, device=device) if ties == "first" else torch.arange(units, device=device).flip(0)


def _share_of_equal(sorted_scores: Tensor) -> PerImage:
    equal = sorted_scores[:, 1:] == sorted_scores[:, :-1]
    alone = equal.new_zeros(len(equal), 1)
    tied = torch.cat([alone, equal], 1) | torch.cat([equal, alone], 1)
    return tied.sum(1) / tied.shape[1]


_POOLS: dict[int, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {  # by the number of axes of space
    1: (F.avg_pool1d, F.max_pool1d),
    2: (F.avg_pool2d, F.max_pool2d),
    3: (F.avg_pool3d, F.max_pool3d),
}

Channels = Literal["together", "apart"]  # of a pixel: changed at once, or units of their own


@dataclass(frozen=True, eq=False)
class PixelRanking:
    """The rank of each pixel's unit by decreasing score, from 0."""

    ranks: Int[Tensor, "b k *space"]  # k is 1, or c where the channels are apart
    units: int
    tie_share: PerImage  # of units that another one equals


@dataclass(frozen=True)
class PixelOrder:
    """What the units are, and how they are ordered by a map."""

    reduce: Reduction
    channels: Channels
    patch: PerAxis
    ties: Ties
    seed: int

    def __call__(self, attribution: Attribution) -> PixelRanking:
        """Rank the units of each image by one stable sort."""
        space = attribution.x.shape[2:]
        sides = tuple(map(min, per_axis("patch", self.patch, space), space))
        cells = _means(self._maps(attribution), sides)
        ranks, tie_share = ranked(cells.flatten(1), self.ties, self.seed)
        return PixelRanking(_spread(ranks.view(cells.shape), sides, space), ranks.shape[1], tie_share)

    def _maps(self, attribution: Attribution) -> Images:
        """What is ranked, (b, 1 or c, *space); apart, channels that share one map are equal."""
        if self.channels == "together":
            return attribution.heatmap(self.reduce)[:, None]
        x = attribution.x
        return resize_map(attribution.scores, x.shape[2:], attribution.extent).expand(-1, x.shape[1], *x.shape[2:])


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


Ends = Literal["both", "start", "end", "none"]  # which of the first and last stop belong to the curve
LastStep = Literal["shorter", "equal"]  # the last step takes the rest, or all are as equal as whole units allow
# The mean height of the curve over the shares of units; the same as if all steps were equally wide; the trapezoids with
# steps of one; with steps of one over the number of stops; the mean of the heights at the stops.
Area = Literal["trapezoid", "uniform", "sum", "per_stop", "mean"]

_STEPS = 28  # where nothing is asked for; 1,792 pixels a step of 224 x 224 images


@dataclass(frozen=True)
class Stops:
    """How many units are changed at each stop."""

    steps: int | None  # all units in so many steps at most
    per_step: int | None  # units a step, instead
    until: int | None  # units changed at the last stop; None is all of them
    fractions: tuple[float, ...] | None  # the shares of units themselves
    last_step: LastStep
    ends: Ends

    def __post_init__(self) -> None:
        if self.fractions is not None:
            self._check_fractions(self.fractions)
        if self.steps is not None and self.per_step is not None:
            raise InvalidInput(
                f"steps={self.steps} and per_step={self.per_step} say the same in two ways: set one of them to None."
            )
        if self.last_step == "equal" and self.per_step is not None:
            raise InvalidInput("last_step='equal' divides the units by steps=...; per_step=... leaves a shorter one.")

    def _check_fractions(self, fractions: tuple[float, ...]) -> None:
        if not all(low < high for low, high in pairwise(fractions)):
            raise InvalidInput(f"fractions={fractions} must rise from 0 or more to 1 or less, as (0, 0.1, 0.5, 1).")
        if (self.steps, self.per_step, self.until) != (None, None, None):
            raise InvalidInput("fractions=... say where the model is asked: set steps, per_step and until to None.")

    def counts(self, units: int) -> tuple[int, ...]:
        """The numbers of changed units, rising, each once."""
        counts = tuple(dict.fromkeys(self._all(units)))
        first = 0 if self.ends in ("both", "start") else 1
        last = len(counts) if self.ends in ("both", "end") else len(counts) - 1
        return counts[first:last]

    def _all(self, units: int) -> list[int]:
        if self.fractions is not None:
            return [round(fraction * units) for fraction in self.fractions]
        steps, last = self.steps or _STEPS, min(units, self.until or units)
        if self.last_step == "equal":
            return [i * last // steps for i in range(steps + 1)]
        return [*range(0, last, self.per_step or -(-last // steps)), last]


def area_weights(area: Area, counts: Sequence[int]) -> list[float]:
    """What the heights of a curve at its stops are weighted by; NaN where a curve of so few stops has no area."""
    if area == "mean":
        return [1 / len(counts)] * len(counts)
    if len(counts) < 2:
        return [float("nan")] * len(counts)
    widths = [b - a for a, b in pairwise(counts)] if area == "trapezoid" else [1] * (len(counts) - 1)
    whole = {"trapezoid": sum(widths), "uniform": len(widths), "sum": 1, "per_stop": len(counts)}[area]
    return [(left + right) / (2 * whole) for left, right in zip([0, *widths], [*widths, 0], strict=True)]


CurveDirection = Literal["delete", "insert"]


@dataclass(frozen=True, eq=False)
class Curve:
    """The score of each image at each stop, and how it came to it."""

    heights: Float[Tensor, "b stops"]
    counts: tuple[int, ...]  # of changed units, at each stop
    units: int
    tie_share: PerImage  # of units that another one of the image equals

    def area(self, area: Area) -> PerImage:
        """The area under the curve; NaN where it has too few stops."""
        if not self.counts:
            return self.heights.new_full((len(self.heights),), float("nan"))
        return (self.heights * self._beside(area_weights(area, self.counts))).sum(1)

    def fractions(self) -> Float[Tensor, "b stops"]:
        """The share of units that are changed at each stop."""
        shares = [count / self.units for count in self.counts]
        return self._beside(shares).expand_as(self.heights)

    def _beside(self, numbers: Sequence[float]) -> Float[Tensor, " stops"]:
        return to_device(numbers, self.heights.device, self.heights.dtype)


@dataclass(frozen=True)
class Walk:
    """From the image to its substrate, or back, by decreasing score.

    Equal walks are walked once for all metrics, their ends are asked once for all maps, and equal orders are sorted
    once for all walks. Only curves and ranks are kept.
    """

    direction: CurveDirection
    order: PixelOrder
    stops: Stops
    substrate: Any
    seed: int  # of noise
    score: BinaryScore

    def __post_init__(self) -> None:
        whole = isinstance(self.substrate, Imputer) or (isinstance(self.substrate, str) and self.substrate == "inpaint")
        if whole and self.order.channels == "apart":
            raise InvalidInput(
                f"{self.substrate!r} fills whole pixels: leave channels='together', or name a substrate."
            )

    def curves(self, model: HookedModel, attributions: Sequence[Attribution]) -> list[Curve]:
        """One for each map; a map's curve does not depend on the maps beside it, not in the last bit."""
        x, target = attributions[0].x, scored_target(attributions[0], self.score)
        return [model.cached((self, each), partial(self._curve, model, x, target, each)) for each in attributions]

    def image_score(self, model: HookedModel, attributions: Sequence[Attribution]) -> PerImage:
        """The score of the images as they are, asked once."""
        return original_score(model, attributions[0].x, scored_target(attributions[0], self.score))

    def _curve(self, model: HookedModel, x: Images, target: Target, attribution: Attribution) -> Curve:
        ranking = model.cached((self.order, attribution), partial(self.order, attribution))
        fill = self._fill(model, x)
        counts = self.stops.counts(ranking.units)
        between = [count for count in counts if 0 < count < ranking.units]
        changed = (fill(self._removed(ranking.ranks, count)) for count in between)
        scores = iter(model.scores(changed, target, len(between)) if between else ())
        first = partial(original_score, model, x, target)
        last = partial(self._substrate_score, model, x, target)
        if self.direction == "insert":
            first, last = last, first
        ends: dict[int, Callable[[], PerImage]] = {0: first, ranking.units: last}
        heights = [ends[count]() if count in ends else next(scores) for count in counts]
        stacked = torch.stack(heights, 1) if heights else torch.empty(len(x), 0, device=x.device, dtype=torch.float32)
        return Curve(stacked, counts, ranking.units, ranking.tie_share)

    def _removed(self, ranks: Tensor, count: int) -> Tensor:
        return ranks < count if self.direction == "delete" else ranks >= count

    def _fill(self, model: HookedModel, x: Images) -> Fill:
        key = ("filling", self.substrate, self.seed)
        return model.cached(key, lambda: filling(x, self.substrate, self.seed))

    def _substrate_score(self, model: HookedModel, x: Images, target: Target) -> PerImage:
        """The score where nothing of the images is left, asked once."""

        def asked() -> PerImage:
            everything = torch.ones(1, 1, *x.shape[2:], dtype=torch.bool, device=x.device)
            return model.score(self._fill(model, x)(everything), target)

        return model.cached(("score of substrate", self.substrate, self.seed, target), asked)
