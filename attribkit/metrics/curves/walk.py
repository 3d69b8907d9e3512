"""The engine: a model's score while units of its images are taken away or put back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.devices import sent
from attribkit.core.errors import InvalidInput
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, PerImage
from attribkit.core.substrates import Fill, Imputer, filling
from attribkit.core.targets.asked import Score
from attribkit.core.targets.target import Target
from attribkit.metrics.asked_score import asked_target, score_of_whole
from attribkit.metrics.curves.order import Order
from attribkit.metrics.curves.stops import Area, Stops, area_weights

Direction = Literal["delete", "insert"]


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
        return sent(numbers, self.heights.device, self.heights.dtype)


@dataclass(frozen=True)
class Walk:
    """From the image to its substrate, or back, by decreasing score.

    Equal walks are walked once for all metrics, their ends are asked once for all maps, and equal orders are sorted
    once for all walks. Only curves and ranks are kept.
    """

    direction: Direction
    order: Order
    stops: Stops
    substrate: Any
    seed: int  # of noise
    score: Score

    def __post_init__(self) -> None:
        whole = isinstance(self.substrate, Imputer) or (isinstance(self.substrate, str) and self.substrate == "inpaint")
        if whole and self.order.channels == "apart":
            raise InvalidInput(
                f"{self.substrate!r} fills whole pixels: leave channels='together', or name a substrate."
            )

    def curves(self, model: HookedModel, attributions: Sequence[Attribution]) -> list[Curve]:
        """One for each map; a map's curve does not depend on the maps beside it, not in the last bit."""
        x, target = attributions[0].x, asked_target(attributions[0], self.score)
        return [model.remembered((self, each), partial(self._curve, model, x, target, each)) for each in attributions]

    def image_score(self, model: HookedModel, attributions: Sequence[Attribution]) -> PerImage:
        """The score of the images as they are, asked once."""
        return score_of_whole(model, attributions[0].x, asked_target(attributions[0], self.score))

    def _curve(self, model: HookedModel, x: Images, target: Target, attribution: Attribution) -> Curve:
        ranking = model.remembered((self.order, attribution), partial(self.order, attribution))
        fill = self._fill(model, x)
        counts = self.stops.counts(ranking.units)
        between = [count for count in counts if 0 < count < ranking.units]
        changed = (fill(self._removed(ranking.ranks, count)) for count in between)
        scores = iter(model.scores(changed, target, len(between)) if between else ())
        first = partial(score_of_whole, model, x, target)
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
        return model.remembered(key, lambda: filling(x, self.substrate, self.seed))

    def _substrate_score(self, model: HookedModel, x: Images, target: Target) -> PerImage:
        """The score where nothing of the images is left, asked once."""

        def asked() -> PerImage:
            everything = torch.ones(1, 1, *x.shape[2:], dtype=torch.bool, device=x.device)
            return model.score(self._fill(model, x)(everything), target)

        return model.remembered(("score of substrate", self.substrate, self.seed, target), asked)
