"""[metrics/curves/curve_metric] What deletion, insertion and their kin share: the options of a walk.
[metrics/curves/presets] Options that make a curve that of a paper or of a tool; what they leave undefined, docs/metrics says.
[metrics/curves/deletion] Deletion.
[metrics/curves/insertion] Insertion.
[metrics/curves/insertion_minus_deletion] Insertion minus deletion.
[metrics/curves/aopc] Area over the perturbation curve.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.contracts.attribution import Attribution
from attribkit.contracts.metric import Faithfulness
from attribkit.core.axes import PerAxis
from attribkit.core.options import Fraction, OneOrMore, PositiveInt, Seed
from attribkit.core.substrates import Filling, GaussianBlur, GivenImages
from attribkit.engine.model import HookedModel
from attribkit.metrics.curve_engine import Area, Channels, CurveDirection, Ends, LastStep, PixelOrder, Stops, Ties, Walk
from attribkit.targets.binary import BinaryScore


@dataclass(frozen=True, kw_only=True)
class CurveMetric(Faithfulness):
    """A number from curves of the model's score along the order of a map; the options say which curve."""

    substrate: Filling = "zero"  # what is where the image is not
    score: BinaryScore = (
        "probability"  # of the attributed class; "logit" for that; other targets are scored as they are
    )
    steps: PositiveInt | None = None  # all units in so many steps at most; None is 28, where nothing else says
    per_step: PositiveInt | None = None  # units a step, instead: pixels, or patches, or channels of pixels
    until: PositiveInt | None = None  # units changed in the end; None is all of them
    fractions: OneOrMore[Fraction] | None = None  # shares of units at which the model is asked, instead of steps
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
                object.__setattr__(self, name, GivenImages(value))
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

    def _walk(self, direction: CurveDirection, substrate: Any = None) -> Walk:
        order = PixelOrder(self.reduce, self.channels, self.patch, self.ties, self.seed)
        stops = Stops(self.steps, self.per_step, self.until, self.fractions, self.last_step, self.ends)
        filled = self.substrate if substrate is None else substrate
        return Walk(direction, order, stops, filled, self.seed, self.score)


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

DELETION: Presets = {
    "rise": {**_RISE, "substrate": "zero"},
    "torchcam": _TORCHCAM,
    "xplique": _XPLIQUE,
    "quantus": _QUANTUS,
    "latec": {**_LATEC, "substrate": "zero"},
}
INSERTION: Presets = {
    "rise": {**_RISE, "substrate": "folded_blur"},
    "torchcam": _TORCHCAM,
    "xplique": _XPLIQUE,
    "latec": {**_LATEC, "substrate": GaussianBlur(15, 5.0)},
}
# The difference of their two numbers, each with its own substrate.
DIFFERENCE: Presets = {
    name: {**DELETION[name], "insertion_substrate": INSERTION[name]["substrate"]} for name in INSERTION
}


@dataclass(frozen=True, kw_only=True)
class Deletion(CurveMetric):
    """The area under the score while the pixels of the highest scores are taken away first."""

    name: ClassVar[str] = "deletion"
    source: ClassVar[str] = "Petsiuk et al., BMVC 2018, sec. 4.1"
    higher_is_better: ClassVar[bool] = False
    presets: ClassVar[Presets] = DELETION

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self._area(self._walk("delete"), model, attributions)


@dataclass(frozen=True, kw_only=True)
class Insertion(CurveMetric):
    """The area under the score while the pixels of the highest scores are put first into the blurred image."""

    name: ClassVar[str] = "insertion"
    source: ClassVar[str] = "Petsiuk et al., BMVC 2018, sec. 4.1"
    higher_is_better: ClassVar[bool] = True
    presets: ClassVar[Presets] = INSERTION

    substrate: Filling = "folded_blur"

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        return self._area(self._walk("insert"), model, attributions)

    def _walks(self) -> dict[str, Walk]:
        return {"curve": self._walk("insert")}


@dataclass(frozen=True, kw_only=True)
class InsertionMinusDeletion(CurveMetric):
    """Insertion minus deletion; on one substrate, the symmetric relevance gain.

    It is least removed first minus most removed first, since what is inserted last is what is removed first of the
    reversed order.
    """

    name: ClassVar[str] = "insertion_minus_deletion"
    source: ClassVar[str] = "Bluecher et al., TMLR 2024, symmetric relevance gain"
    higher_is_better: ClassVar[bool] = True
    presets: ClassVar[Presets] = DIFFERENCE

    insertion_substrate: Filling | None = None  # None is that of deletion

    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        deletion, insertion = (self._area(walk, model, attributions) for walk in self._walks().values())
        return insertion - deletion

    def _walks(self) -> dict[str, Walk]:
        return {
            "deletion_curve": self._walk("delete"),
            "insertion_curve": self._walk("insert", self.insertion_substrate),
        }


@dataclass(frozen=True, kw_only=True)
class AOPC(CurveMetric):
    """How far the score falls on average while the patches of the highest scores are taken away first."""

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
        return walk.image_score(model, attributions) - self._area(walk, model, attributions)
