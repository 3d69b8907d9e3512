"""What deletion, insertion and their kin share: the options of a walk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.axes import PerAxis
from attribkit.core.metric import Faithfulness
from attribkit.core.model import HookedModel
from attribkit.core.options import Count, OneOrMore, Seed, Share
from attribkit.core.substrates import Filling, Given
from attribkit.core.targets.asked import Score
from attribkit.metrics.curves.order import Channels, Order
from attribkit.metrics.curves.ranks import Ties
from attribkit.metrics.curves.stops import Area, Ends, LastStep, Stops
from attribkit.metrics.curves.walk import Direction, Walk


@dataclass(frozen=True, kw_only=True)
class CurveMetric(Faithfulness):
    """A number from curves of the model's score along the order of a map; the options say which curve."""

    substrate: Filling = "zero"  # what is where the image is not
    score: Score = "probability"  # of the attributed class; "logit" for that; other targets are scored as they are
    steps: Count | None = None  # all units in so many steps at most; None is 28, where nothing else says
    per_step: Count | None = None  # units a step, instead: pixels, or patches, or channels of pixels
    until: Count | None = None  # units changed in the end; None is all of them
    fractions: OneOrMore[Share] | None = None  # shares of units at which the model is asked, instead of steps
    last_step: LastStep = "shorter"
    ends: Ends = "both"
    area: Area = "trapezoid"
    channels: Channels = "together"
    patch: PerAxis = 1  # sides of a unit, in pixels; a patch has the mean of its scores
    ties: Ties = "random"
    seed: Seed = 0  # of random ties and of noise

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                object.__setattr__(self, name, Given(value))
        self._walks()  # refuses what does not go together

    def details(self, model: HookedModel, attributions: Sequence[Attribution]) -> Mapping[str, Tensor]:
        """The heights of each curve, the shares of changed units at which they are, and of units that are tied."""
        walks = {name: walk.curves(model, attributions) for name, walk in self._walks().items()}
        heights = {name: torch.stack([curve.heights for curve in curves]) for name, curves in walks.items()}
        curves = next(iter(walks.values()))  # the order and the stops are the same for all
        fractions = torch.stack([curve.fractions() for curve in curves])
        return {**heights, "fractions": fractions, "tie_share": torch.stack([curve.tie_share for curve in curves])}

    def _area(self, walk: Walk, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return torch.stack([curve.area(self.area) for curve in walk.curves(model, attributions)])

    def _walks(self) -> dict[str, Walk]:
        """The curves that the number is made of, by the names that the details give them."""
        return {"curve": self._walk("delete")}

    def _walk(self, direction: Direction, substrate: Any = None) -> Walk:
        order = Order(self.reduce, self.channels, self.patch, self.ties, self.seed)
        stops = Stops(self.steps, self.per_step, self.until, self.fractions, self.last_step, self.ends)
        filled = self.substrate if substrate is None else substrate
        return Walk(direction, order, stops, filled, self.seed, self.score)
