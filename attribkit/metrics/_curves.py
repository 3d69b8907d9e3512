"""Metrics from curves of the model's score while pixels are removed or inserted in the order of a map.

The presets reproduce the curves of papers and tools; docs/metrics lists where these leave a choice undefined.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.metric import Faithfulness
from attribkit._core.axes import PerAxis
from attribkit._core.options import Fraction, OneOrMore, PositiveInt, Seed
from attribkit._core.substrates import Filling, GaussianBlur, GivenImages
from attribkit._engine.model import HookedModel
from attribkit._targets.binary import BinaryScore
from attribkit.metrics._curve_engine import (
    Area,
    Channels,
    Curve,
    CurveDirection,
    Ends,
    LastStep,
    PixelOrder,
    Stops,
    Ties,
    Walk,
)


@dataclass(frozen=True, kw_only=True)
class CurveMetric(Faithfulness):
    """Base class for metrics that reduce curves of the model's score to a number.

    A unit is a pixel, a channel of a pixel, or a patch. `details` returns the curves, the fractions of changed units at
    their stops, and `tie_fraction`, the fraction of units with the same score in the map as another unit.

    Args:
        substrate: What replaces removed units: a substrate by name, "inpaint", a blur, images, or an imputer.
        score: The target class's "probability" or "logit"; targets other than a class keep their own score.
        steps: Maximum number of steps; None means 28, unless `per_step` or `fractions` is given.
        per_step: Units per step, as an alternative to `steps`.
        until: Number of units that are changed in the end; None means all of them.
        fractions: Increasing fractions of units at which the score is computed, as an alternative to steps.
        last_step: "shorter" leaves the remaining units to the last step; "equal" makes all steps as equal as possible.
        ends: Which of the first and the last stop belong to the curve: "both", "start", "end" or "none".
        area: "trapezoid", over the fractions of changed units and divided by their range; "uniform", the same as if all
            steps had equal width; "sum", steps of width one; "per_stop", steps of width one over the number of stops;
            "mean", the mean height at the stops.
        channels: Whether the channels of a pixel are changed "together" or are separate units ("apart").
        patch: Sides of a unit in pixels, one for all axes or one for each; a patch has the mean of its scores.
        ties: Order of units with equal scores: "random", by a seeded order that all maps and images share; "first" in
            memory, as of a stable sort; "last", as of a stable sort whose result is reversed.
        seed: Seed of the random order of ties, and of the substrates "noise" and "uniform".
    """

    substrate: Filling = "zero"
    score: BinaryScore = "probability"
    steps: PositiveInt | None = None
    per_step: PositiveInt | None = None
    until: PositiveInt | None = None
    fractions: OneOrMore[Fraction] | None = None
    last_step: LastStep = "shorter"
    ends: Ends = "both"
    area: Area = "trapezoid"
    channels: Channels = "together"
    patch: PerAxis = 1
    ties: Ties = "random"
    seed: Seed = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                object.__setattr__(self, name, GivenImages(value))
        self._walks()  # raises InvalidInput for options that cannot be combined

    def details(self, model: HookedModel, attributions: Sequence[Attribution]) -> Mapping[str, Tensor]:
        """Return the heights of each curve, the fractions of changed units at its stops, and of tied units."""
        walks = {name: walk.curves(model, attributions) for name, walk in self._walks().items()}
        heights = {name: torch.stack([curve.heights for curve in curves]) for name, curves in walks.items()}
        curves = next(iter(walks.values()))  # all walks have the same order and stops
        fractions = torch.stack([curve.fractions() for curve in curves])
        return {
            **heights,
            "fractions": fractions,
            "tie_fraction": torch.stack([curve.tie_fraction for curve in curves]),
        }

    def _areas(self, curves: Sequence[Curve]) -> Float[Tensor, "m b"]:
        return torch.stack([curve.area(self.area) for curve in curves])

    def _walks(self) -> dict[str, Walk]:
        """Return the walks of the metric, by the names of their curves in the details."""
        return {"curve": self._walk("delete")}

    def _walk(self, direction: CurveDirection, substrate: Any = None) -> Walk:
        order = PixelOrder(self.reduce, self.channels, self.patch, self.ties, self.seed)
        stops = Stops(self.steps, self.per_step, self.until, self.fractions, self.last_step, self.ends)
        substrate = self.substrate if substrate is None else substrate
        return Walk(direction, order, stops, substrate, self.seed, self.score)


Presets = Mapping[str, Mapping[str, Any]]

_RISE = {"score": "probability", "per_step": 224, "ties": "last", "area": "uniform"}
_TORCHCAM = {"score": "logit", "steps": 20, "ties": "first", "substrate": "zero"}
_XPLIQUE = {
    "score": "logit",
    "steps": 10,
    "last_step": "equal",
    "ties": "last",
    "area": "uniform",
    "substrate": "zero",
}
_LATEC = {"score": "probability", "per_step": 50, "ties": "first", "ends": "none", "area": "per_stop"}
_QUANTUS = {
    "score": "probability",
    "channels": "apart",
    "per_step": 1,
    "ties": "first",
    "ends": "end",
    "area": "sum",
    "substrate": "minimum",
}

DELETION_PRESETS: Presets = {
    "rise": {**_RISE, "substrate": "zero"},
    "torchcam": _TORCHCAM,
    "xplique": _XPLIQUE,
    "quantus": _QUANTUS,
    "latec": {**_LATEC, "substrate": "zero"},
}
INSERTION_PRESETS: Presets = {
    "rise": {**_RISE, "substrate": "folded_blur"},
    "torchcam": _TORCHCAM,
    "xplique": _XPLIQUE,
    "latec": {**_LATEC, "substrate": GaussianBlur(15, 5.0)},
}
DIFFERENCE_PRESETS: Presets = {
    name: {**DELETION_PRESETS[name], "insertion_substrate": preset["substrate"]}
    for name, preset in INSERTION_PRESETS.items()
}


@dataclass(frozen=True, kw_only=True)
class Deletion(CurveMetric):
    """Area under the score while pixels are removed in the order of decreasing scores of the map.

    The options are those of `CurveMetric`.
    """

    name: ClassVar[str] = "deletion"
    source: ClassVar[str] = "Petsiuk et al., BMVC 2018, sec. 4.1"
    higher_is_better: ClassVar[bool] = False
    rank_based: ClassVar[bool] = True
    presets: ClassVar[Presets] = DELETION_PRESETS

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self._areas(self._walk("delete").curves(model, attributions))


@dataclass(frozen=True, kw_only=True)
class Insertion(CurveMetric):
    """Area under the score while pixels are inserted into the blurred image in the order of decreasing scores.

    The options are those of `CurveMetric`; the substrate is a blur by default.
    """

    name: ClassVar[str] = "insertion"
    source: ClassVar[str] = "Petsiuk et al., BMVC 2018, sec. 4.1"
    higher_is_better: ClassVar[bool] = True
    rank_based: ClassVar[bool] = True
    presets: ClassVar[Presets] = INSERTION_PRESETS

    substrate: Filling = "folded_blur"

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self._areas(self._walk("insert").curves(model, attributions))

    def _walks(self) -> dict[str, Walk]:
        return {"curve": self._walk("insert")}


@dataclass(frozen=True, kw_only=True)
class InsertionMinusDeletion(CurveMetric):
    """Insertion minus deletion; on one substrate, the symmetric relevance gain.

    The gain is the area with the least relevant units removed first minus the area with the most relevant ones removed
    first: the insertion curve is the deletion curve of the reversed order, read backwards.

    Args:
        insertion_substrate: Substrate of insertion; None means the `substrate` of deletion. The other options are those
            of `CurveMetric`.
    """

    name: ClassVar[str] = "insertion_minus_deletion"
    source: ClassVar[str] = "Bluecher et al., TMLR 2024, symmetric relevance gain"
    higher_is_better: ClassVar[bool] = True
    rank_based: ClassVar[bool] = True
    presets: ClassVar[Presets] = DIFFERENCE_PRESETS

    insertion_substrate: Filling | None = None

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        deletion, insertion = (self._areas(walk.curves(model, attributions)) for walk in self._walks().values())
        return insertion - deletion

    def _walks(self) -> dict[str, Walk]:
        return {
            "deletion_curve": self._walk("delete"),
            "insertion_curve": self._walk("insert", self.insertion_substrate),
        }


@dataclass(frozen=True, kw_only=True)
class AOPC(CurveMetric):
    """Mean drop in the score while patches are removed in decreasing order of their scores in the map.

    It is the mean of f(x) - f(x_k) over k = 0, 1, ... removed patches. The options are those of `CurveMetric`, by
    default 100 patches of 9 pixels, one per step, replaced by uniform noise.
    """

    name: ClassVar[str] = "aopc"
    source: ClassVar[str] = "Samek et al., TNNLS 2017, area over the perturbation curve, most relevant first"
    higher_is_better: ClassVar[bool] = True

    substrate: Filling = "uniform"
    per_step: PositiveInt | None = 1
    until: PositiveInt | None = 100
    area: Area = "mean"
    patch: PerAxis = 9

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        walk = self._walk("delete")
        return walk.image_score(model, attributions) - self._areas(walk.curves(model, attributions))
