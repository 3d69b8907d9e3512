"""What the author of a metric writes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from attribkit.contracts.attribution import Attribution, Reduction
from attribkit.core.ground_truth import GroundTruth
from attribkit.core.options import Options
from attribkit.core.shapes import Heatmaps, PerImage
from attribkit.engine.model import HookedModel


@dataclass(frozen=True, kw_only=True)
class Metric(Options, ABC):
    """Scores attributions, a number per image; subclass one of the four kinds below as a frozen dataclass.

    The number of an image does not depend on the images beside it; it is NaN where it is not defined.
    """

    name: ClassVar[str]  # what users write: metric="pointing_game"
    source: ClassVar[str]  # authors, venue, year, equation
    higher_is_better: ClassVar[bool | None]  # None: neither is better
    kind: ClassVar[str]  # which of the four; nothing to write
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # options that make it the metric of a paper or of a tool

    reduce: Reduction = "sum"  # of the channels of scores that have several

    def heatmap(self, attribution: Attribution, size: Sequence[int] | None = None) -> Heatmaps:
        """The map that is scored, one number per pixel of the images, or of what has another size."""
        return attribution.heatmap(self.reduce, size)


class Faithfulness(Metric):
    """Asks the model: are these the pixels that it used?"""

    kind = "faithfulness"

    @abstractmethod
    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        """A row for each of m attributions of the same images and targets.

        What does not depend on the maps is asked of the model once for all of them, and with `model.remembered` once
        for all metrics that ask the same.
        """

    def details(self, model: HookedModel, attributions: Sequence[Attribution]) -> Mapping[str, Tensor]:
        """What else is worth a column beside the numbers, such as a curve, each (m, b, ...); asked for after them."""
        return {}


class Localization(Metric):
    """Asks an annotator: are these the pixels of the object?"""

    kind = "localization"

    @abstractmethod
    def __call__(self, attribution: Attribution, truth: GroundTruth) -> PerImage:
        """One number per image."""

    def heatmap_on(self, attribution: Attribution, truth: GroundTruth) -> Heatmaps:
        """The map that is scored, resized linearly, once, to the pixels of the mask."""
        return self.heatmap(attribution, truth.mask.shape[1:])


class Complexity(Metric):
    """Asks the map alone: how much is there to read?"""

    kind = "complexity"

    @abstractmethod
    def __call__(self, attribution: Attribution) -> PerImage:
        """One number per image."""


class Robustness(Metric):
    """Asks the method again: does its map follow what it should, and nothing else?"""

    kind = "robustness"

    @abstractmethod
    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        """One number per image."""

    def details(self, model: HookedModel, attribution: Attribution) -> Mapping[str, Tensor]:
        """What else is worth a column beside the numbers, each (b, ...); asked for after them."""
        return {}
