"""The base classes for metrics, which score attributions.

A metric derives from one of four kinds, which differ in the inputs that they use:

- `Faithfulness`: the model. Do the scores predict how the model's output changes when pixels are removed?
- `Localization`: an annotation. Are the high scores on the object?
- `Complexity`: the map alone. How concentrated are the scores?
- `Robustness`: the model and the method. Does the map change when it should, and only then?

`Faithfulness` and `Robustness` compute with a `HookedModel`, see `attribkit._contracts.method` for its interface and
the cost of each call. The model is bound to the images of the attributions, ``attributions[0].x``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from attribkit._contracts.attribution import Attribution, Reduction
from attribkit._core.ground_truth import GroundTruth
from attribkit._core.options import Options
from attribkit._core.shapes import Heatmaps, PerImage
from attribkit._engine.model import HookedModel


@dataclass(frozen=True, kw_only=True)
class Metric(Options, ABC):
    """Base class for metrics, which compute one number per image from an attribution.

    Derive from one of the four kinds below, as a frozen dataclass with a docstring, the class attributes `name`,
    `source` and `higher_is_better`, and `__call__`. The fields are the options. Their annotations state the accepted
    values, which are checked when an instance is made.

    The value of an image must not depend on the other images of the batch or on the other attributions that are scored
    in the same call. It is NaN where the metric is not defined, such as for a map that is zero everywhere.

    `attribkit.register` makes a metric available by its name in the process; the `attribkit_metrics` hook of a plugin
    does so permanently. `attribkit.testing.check_metric` tests whether a metric satisfies this contract.

    Attributes:
        name: Name by which users select the metric, as in ``metric="pointing_game"``.
        source: Authors, venue and year of the metric, with the equation where it applies.
        higher_is_better: True or False; None if neither direction is better.
        kind: Name of the kind, set by the four base classes.
        rank_based: Whether only the order of the scores matters with the default options, so that increasing functions
            of the scores keep the value.
        presets: Sets of options by name, for the settings of a paper or of another library, as in ``preset="rise"``.

    Args:
        reduce: How scores of several channels become one number for each pixel: "sum" (signed), "sum_of_magnitudes" or
            "largest_magnitude" (the signed score with the largest magnitude).

    Example:
        The fraction of the pixels with a positive score::

            @dataclass(frozen=True, kw_only=True)
            class PositiveFraction(Complexity):
                "Fraction of the pixels with a positive score."

                name = "positive_fraction"
                source = "example"
                higher_is_better = None

                def __call__(self, attribution):
                    return (self.heatmap(attribution) > 0).flatten(1).float().mean(1)


            explainer.evaluate(attribution, PositiveFraction())
    """

    name: ClassVar[str]
    source: ClassVar[str]
    higher_is_better: ClassVar[bool | None]
    kind: ClassVar[str]
    rank_based: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    reduce: Reduction = "sum"

    def heatmap(self, attribution: Attribution, size: Sequence[int] | None = None) -> Heatmaps:
        """Return the map that is scored, with one number for each pixel.

        Args:
            attribution: The scores of a method.
            size: Sides of the map in pixels; None means the size of the images.

        Returns:
            The map, (b, *size), reduced over the channels as the option `reduce` states, and resized linearly.
        """
        return attribution.heatmap(self.reduce, size)


class Faithfulness(Metric):
    """Base class for metrics that compare the map with the behaviour of the model."""

    kind = "faithfulness"

    @abstractmethod
    def __call__(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b"]:
        """Score several attributions of the same images and target.

        Run the forwards that do not depend on the maps once for all attributions. ``model.cached(key, compute)`` shares
        them with other metrics that need the same values, such as the score of the images.

        Args:
            model: The model, bound to the images of the attributions: frozen, in evaluation mode.
            attributions: m attributions of the same b images, for the same target.

        Returns:
            Values, (m, b).
        """

    def details(self, model: HookedModel, attributions: Sequence[Attribution]) -> Mapping[str, Tensor]:
        """Return further results by name, such as the curve whose area is the value.

        It is called after `__call__`, with the same arguments. Keep what both need with ``model.cached``.

        Args:
            model: As for `__call__`.
            attributions: As for `__call__`.

        Returns:
            Tensors, (m, b, ...); by default there are none.
        """
        return {}


class Localization(Metric):
    """Base class for metrics that compare the map with the annotation of an object."""

    kind = "localization"

    @abstractmethod
    def __call__(self, attribution: Attribution, truth: GroundTruth) -> PerImage:
        """Score an attribution by the annotation.

        Args:
            attribution: The scores of a method for b images.
            truth: The mask of the object in each image, (b, *space), and its boxes where there are any. The mask may
                differ in size from the images.

        Returns:
            Values, (b,).
        """

    def heatmap_on(self, attribution: Attribution, truth: GroundTruth) -> Heatmaps:
        """Return the map that is scored, resized linearly, once, to the pixels of the mask.

        Args:
            attribution: The scores of a method.
            truth: The annotation whose mask determines the size.

        Returns:
            The map, (b, *space), of the size of the mask.
        """
        return self.heatmap(attribution, truth.mask.shape[1:])


class Complexity(Metric):
    """Base class for metrics of the map alone, such as how concentrated it is."""

    kind = "complexity"

    @abstractmethod
    def __call__(self, attribution: Attribution) -> PerImage:
        """Score an attribution.

        Args:
            attribution: The scores of a method for b images.

        Returns:
            Values, (b,).
        """


class Robustness(Metric):
    """Base class for metrics that run the method again, on changed images, models or targets, and compare the maps."""

    kind = "robustness"

    @abstractmethod
    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        """Score an attribution by how its method behaves under changes.

        Args:
            model: The model, bound to the images of the attribution: frozen, in evaluation mode.
            attribution: The scores of a method for b images; ``attribution.method`` is the method to run again.

        Returns:
            Values, (b,).
        """

    def details(self, model: HookedModel, attribution: Attribution) -> Mapping[str, Tensor]:
        """Return further results by name; called after `__call__` with the same arguments.

        Args:
            model: As for `__call__`.
            attribution: As for `__call__`.

        Returns:
            Tensors, (b, ...); by default there are none.
        """
        return {}
