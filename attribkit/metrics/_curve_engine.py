"""Engine of the curve metrics: the model's score while the units of an image are removed or inserted in rank order.

Units are pixels, single channels of pixels, or patches. `PixelOrder` ranks them, `Stops` says how many of them are
changed at each point of a curve, and `Walk` computes the curves.
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

from attribkit._contracts.attribution import Attribution, Reduction, resize_map
from attribkit._core.axes import PerAxis, per_axis
from attribkit._core.errors import InvalidInput
from attribkit._core.shapes import Heatmaps, Images, PerImage
from attribkit._core.substrates import Fill, Imputer, make_filling
from attribkit._core.tensors import to_device
from attribkit._display.progress import track
from attribkit._engine.model import HookedModel
from attribkit._targets.binary import BinaryScore
from attribkit._targets.target import Target
from attribkit.metrics._scores import original_score, scored_target

# Order of units with equal scores: "random" is a seeded order, the same for all maps and images; "first" the order in
# memory, as of a stable sort; "last" its reverse, as of a stable sort whose result is reversed.
Ties = Literal["random", "first", "last"]


def rank_pixels(heatmaps: Heatmaps, ties: Ties = "random", seed: int = 0) -> Int[Tensor, "b ..."]:
    """Rank the pixels of each heatmap by decreasing value.

    Args:
        heatmaps: One value for each pixel, (b, *space).
        ties: Order of equal pixels: "random" by a seeded order that all images share, "first" or "last" in memory.
        seed: Seed of the random order.

    Returns:
        The rank of each pixel, (b, *space), from 0 for the largest value: ``ranks < n`` selects the n largest pixels.
    """
    return rank_units(heatmaps.flatten(1), ties, seed)[0].reshape(heatmaps.shape)


def rank_units(scores: Float[Tensor, "b units"], ties: Ties, seed: int = 0) -> tuple[Int[Tensor, "b units"], PerImage]:
    """Return the rank of each unit by decreasing score, from 0, and the fraction of units that are tied."""
    units = scores.shape[1]
    order = _tie_order(units, ties, seed, scores.device)
    sorted_scores = (scores + 0)[:, order].sort(dim=1, descending=True, stable=True)  # -0 + 0 is 0
    numbers = torch.arange(units, dtype=torch.int32, device=scores.device).expand_as(scores)
    ranks = torch.empty_like(numbers).scatter_(1, order[sorted_scores.indices], numbers)
    return ranks, _tied_fraction(sorted_scores.values)


@lru_cache(maxsize=4)
def _tie_order(units: int, ties: Ties, seed: int, device: torch.device) -> Tensor:
    """Return the order of equal units; a random one is drawn on the CPU, so that it is the same on every device."""
    with torch.inference_mode(False):  # the cached tensor must be usable outside of inference mode
        if ties == "random":
            return torch.randperm(units, generator=torch.Generator().manual_seed(seed), device="cpu").to(device)
        return torch.arange(units, device=device) if ties == "first" else torch.arange(units, device=device).flip(0)


def _tied_fraction(sorted_scores: Tensor) -> PerImage:
    equal = sorted_scores[:, 1:] == sorted_scores[:, :-1]
    border = equal.new_zeros(len(equal), 1)
    tied = torch.cat([border, equal], 1) | torch.cat([equal, border], 1)
    return tied.sum(1) / tied.shape[1]


_POOLS: dict[int, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {  # by the number of spatial axes
    1: (F.avg_pool1d, F.max_pool1d),
    2: (F.avg_pool2d, F.max_pool2d),
    3: (F.avg_pool3d, F.max_pool3d),
}

Channels = Literal["together", "apart"]  # the channels of a pixel are one unit, or one unit each


@dataclass(frozen=True, eq=False)
class PixelRanking:
    """Ranks of the units of a batch of images, by decreasing score from 0.

    Args:
        ranks: Rank of the unit that each pixel belongs to; k is 1, or the number of channels if they are "apart".
        units: Number of units of an image.
        tie_fraction: Fraction of the units of each image that have the same score as another unit.
    """

    ranks: Int[Tensor, "b k *space"]
    units: int
    tie_fraction: PerImage


@dataclass(frozen=True)
class PixelOrder:
    """Definition of the units, and of their order by the scores of a map.

    Args:
        reduce: Reduction of the scores over the channels, where these are "together".
        channels: Whether the channels of a pixel are one unit or one unit each.
        patch: Sides of a unit, in pixels.
        ties: Order of units with equal scores.
        seed: Seed of the random order of ties.
    """

    reduce: Reduction
    channels: Channels
    patch: PerAxis
    ties: Ties
    seed: int

    def __call__(self, attribution: Attribution) -> PixelRanking:
        """Rank the units of each image by one stable sort."""
        space = attribution.x.shape[2:]
        sides = tuple(map(min, per_axis("patch", self.patch, space), space))
        scores = _patch_means(self._maps(attribution), sides)
        ranks, tie_fraction = rank_units(scores.flatten(1), self.ties, self.seed)
        return PixelRanking(_repeat_in_patches(ranks.view(scores.shape), sides, space), ranks.shape[1], tie_fraction)

    def _maps(self, attribution: Attribution) -> Images:
        """Return the values to rank, (b, 1 or c, *space); a map without channels is repeated for each channel."""
        if self.channels == "together":
            return attribution.heatmap(self.reduce)[:, None]
        x = attribution.x
        return resize_map(attribution.scores, x.shape[2:], attribution.extent).expand(-1, x.shape[1], *x.shape[2:])


def _patch_means(maps: Images, sides: Sequence[int]) -> Tensor:
    """Return the mean of each patch, in float64; a patch that the border cuts off has the mean of its pixels."""
    if max(sides) == 1:
        return maps
    avg_pool, max_pool = _POOLS[len(sides)]
    maps = maps.double()
    means = avg_pool(maps, sides, sides, ceil_mode=True, count_include_pad=False)
    low, high = -max_pool(-maps, sides, sides, ceil_mode=True), max_pool(maps, sides, sides, ceil_mode=True)
    return means.clamp(low, high)  # constant patches of different sizes get exactly the same mean


def _repeat_in_patches(ranks: Tensor, sides: Sequence[int], space: Sequence[int]) -> Tensor:
    """Repeat the rank of each patch for all of its pixels."""
    for axis, (side, length) in enumerate(zip(sides, space, strict=True), start=2):
        if side > 1:
            ranks = ranks.repeat_interleave(side, axis).narrow(axis, 0, length)
    return ranks


Ends = Literal["both", "start", "end", "none"]  # which of the first and the last stop belong to the curve
LastStep = Literal["shorter", "equal"]  # the last step takes the remaining units, or all steps are as equal as possible
# "trapezoid": trapezoidal rule over the fractions of changed units, divided by their range. "uniform": the same as if
# all steps had equal width. "sum": steps of width one. "per_stop": steps of width one over the number of stops. "mean":
# mean of the heights at the stops.
Area = Literal["trapezoid", "uniform", "sum", "per_stop", "mean"]

_STEPS = 28  # by default: 1,792 pixels per step for images of 224 x 224


@dataclass(frozen=True)
class Stops:
    """Numbers of changed units at the stops of a curve.

    Args:
        steps: Maximum number of steps; None means 28, unless `per_step` or `fractions` is given.
        per_step: Units per step, as an alternative to `steps`.
        until: Number of units that are changed at the last stop; None means all of them.
        fractions: Fractions of changed units at the stops, as an alternative to the other options.
        last_step: Whether the last step is shorter, or all steps are as equal as whole units allow.
        ends: Which of the first and the last stop belong to the curve.
    """

    steps: int | None
    per_step: int | None
    until: int | None
    fractions: tuple[float, ...] | None
    last_step: LastStep
    ends: Ends

    def __post_init__(self) -> None:
        if self.fractions is not None:
            self._check_fractions(self.fractions)
        if self.steps is not None and self.per_step is not None:
            raise InvalidInput(
                f"steps={self.steps} and per_step={self.per_step} cannot be combined: set one of them to None."
            )
        if self.last_step == "equal" and self.per_step is not None:
            raise InvalidInput("last_step='equal' needs steps=...: set per_step to None, or use last_step='shorter'.")

    def _check_fractions(self, fractions: tuple[float, ...]) -> None:
        if not all(low < high for low, high in pairwise(fractions)):
            raise InvalidInput(f"fractions={fractions} must be strictly increasing, such as (0, 0.1, 0.5, 1).")
        if (self.steps, self.per_step, self.until) != (None, None, None):
            raise InvalidInput("fractions=... cannot be combined with steps, per_step or until: set these to None.")

    def counts(self, units: int) -> tuple[int, ...]:
        """Return the numbers of changed units at the stops, increasing and without duplicates."""
        counts = tuple(dict.fromkeys(self._all_counts(units)))
        first = 0 if self.ends in ("both", "start") else 1
        last = len(counts) if self.ends in ("both", "end") else len(counts) - 1
        return counts[first:last]

    def _all_counts(self, units: int) -> list[int]:
        if self.fractions is not None:
            return [round(fraction * units) for fraction in self.fractions]
        steps, last = self.steps or _STEPS, min(units, self.until or units)
        if self.last_step == "equal":
            return [i * last // steps for i in range(steps + 1)]
        return [*range(0, last, self.per_step or -(-last // steps)), last]


def area_weights(area: Area, counts: Sequence[int]) -> list[float]:
    """Return the weights of a curve's heights in its area; NaN if there are too few stops for an area."""
    if area == "mean":
        return [1 / len(counts)] * len(counts)
    if len(counts) < 2:
        return [float("nan")] * len(counts)
    widths = [b - a for a, b in pairwise(counts)] if area == "trapezoid" else [1] * (len(counts) - 1)
    total = {"trapezoid": sum(widths), "uniform": len(widths), "sum": 1, "per_stop": len(counts)}[area]
    return [(left + right) / (2 * total) for left, right in zip([0, *widths], [*widths, 0], strict=True)]


CurveDirection = Literal["delete", "insert"]


@dataclass(frozen=True, eq=False)
class Curve:
    """Score of each image at each stop.

    Args:
        heights: The scores.
        counts: Number of changed units at each stop.
        units: Number of units of an image.
        tie_fraction: Fraction of the units of each image that have the same score in the map as another unit.
    """

    heights: Float[Tensor, "b stops"]
    counts: tuple[int, ...]
    units: int
    tie_fraction: PerImage

    def area(self, area: Area) -> PerImage:
        """Return the area under the curve; NaN if there are too few stops."""
        if not self.counts:
            return self.heights.new_full((len(self.heights),), float("nan"))
        return (self.heights * self._to_tensor(area_weights(area, self.counts))).sum(1)

    def fractions(self) -> Float[Tensor, "b stops"]:
        """Return the fraction of units that are changed at each stop."""
        fractions = [count / self.units for count in self.counts]
        return self._to_tensor(fractions).expand_as(self.heights)

    def _to_tensor(self, numbers: Sequence[float]) -> Float[Tensor, " stops"]:
        return to_device(numbers, self.heights.device, self.heights.dtype)


@dataclass(frozen=True)
class Walk:
    """Sequence of images between an image and its substrate, where units change by decreasing score of a map.

    Results are cached in the model: equal walks are computed once for all metrics, the scores of their ends once for
    all maps, and the ranks of equal orders once for all walks. Only curves and ranks are kept in memory.

    Args:
        direction: "delete" replaces units of the image by the substrate, "insert" units of the substrate by the image.
        order: Definition and order of the units.
        stops: Numbers of changed units at which the score is computed.
        substrate: What replaces removed units: anything that `attribkit._core.substrates.make_filling` accepts.
        seed: Seed of a substrate that is noise.
        score: Score type of the target's class.
    """

    direction: CurveDirection
    order: PixelOrder
    stops: Stops
    substrate: Any
    seed: int
    score: BinaryScore

    def __post_init__(self) -> None:
        fills_pixels = isinstance(self.substrate, Imputer) or (
            isinstance(self.substrate, str) and self.substrate == "inpaint"
        )
        if fills_pixels and self.order.channels == "apart":
            raise InvalidInput(
                f"substrate={self.substrate!r} fills all channels of a pixel and cannot be combined with "
                "channels='apart': use channels='together', or another substrate."
            )

    def curves(self, model: HookedModel, attributions: Sequence[Attribution]) -> list[Curve]:
        """Return the curve of each map; it does not depend on the other maps, not even by rounding."""
        x, target = attributions[0].x, scored_target(attributions[0], self.score)
        curves = []
        for attribution in track(attributions, "maps"):
            curves.append(model.cached((self, attribution), partial(self._curve, model, x, target, attribution)))
        return curves

    def image_score(self, model: HookedModel, attributions: Sequence[Attribution]) -> PerImage:
        """Return the score of the unperturbed images, computed once."""
        return original_score(model, attributions[0].x, scored_target(attributions[0], self.score))

    def _curve(self, model: HookedModel, x: Images, target: Target, attribution: Attribution) -> Curve:
        ranking = model.cached((self.order, attribution), partial(self.order, attribution))
        fill = self._fill(model, x)
        counts = self.stops.counts(ranking.units)
        between = [count for count in counts if 0 < count < ranking.units]
        changed = (fill(self._removed(ranking.ranks, count)) for count in between)
        scores = iter(model.scores(changed, target, len(between)) if between else ())
        first = partial(original_score, model, x, target)
        key = ("score of substrate", self.substrate, self.seed, target)
        last = partial(model.cached, key, partial(self._substrate_score, model, x, target))
        if self.direction == "insert":
            first, last = last, first
        ends: dict[int, Callable[[], PerImage]] = {0: first, ranking.units: last}
        heights = []
        for count in counts:
            heights.append(ends[count]() if count in ends else next(scores))
        stacked = torch.stack(heights, 1) if heights else torch.empty(len(x), 0, device=x.device, dtype=torch.float32)
        return Curve(stacked, counts, ranking.units, ranking.tie_fraction)

    def _removed(self, ranks: Tensor, count: int) -> Tensor:
        return ranks < count if self.direction == "delete" else ranks >= count

    def _fill(self, model: HookedModel, x: Images) -> Fill:
        key = ("filling", self.substrate, self.seed)
        return model.cached(key, lambda: make_filling(x, self.substrate, self.seed))

    def _substrate_score(self, model: HookedModel, x: Images, target: Target) -> PerImage:
        """Return the score of the images with all units removed."""
        all_pixels = torch.ones(1, 1, *x.shape[2:], dtype=torch.bool, device=x.device)
        return model.score(self._fill(model, x)(all_pixels), target)
