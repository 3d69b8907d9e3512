"""Where on the way from no unit changed to all of them the model is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from attribkit.core.errors import InvalidInput

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
