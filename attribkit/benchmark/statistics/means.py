"""[benchmark/statistics/means] Means of a question's contestants, and what follows from them.
[benchmark/statistics/normalised] Scores between those of random maps, 0, and those of an oracle, 1.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int64

from attribkit.benchmark.statistics.bootstrap import (
    Bootstrap,
    Categories,
    DefinedValues,
    PerSample,
    ResampledStatistics,
    SampleIndices,
    combine,
    difference,
    intervals,
)
from attribkit.benchmark.statistics.reading import Contestant, MetricScores
from attribkit.benchmark.statistics.summary import RANDOM, Estimate, oracle_of, role

_LEAST = 2  # groups that can vary


@dataclass(frozen=True, eq=False)
class Means:
    """Means over samples, resampled together."""

    values: PerSample
    bootstrap: Bootstrap

    @functools.cached_property
    def defined(self) -> DefinedValues:
        """Which samples have a value."""
        return ~np.isnan(self.values)

    @functools.cached_property
    def drawn(self) -> ResampledStatistics:
        """The mean of each contestant over its own samples."""
        return self.bootstrap.means(self.values)

    def shared(self, *contestants: SampleIndices) -> Bool[np.ndarray, "p n"]:
        """The samples on which all contestants of a row are defined."""
        return np.logical_and.reduce([self.defined[each] for each in contestants])

    def difference(
        self, first: SampleIndices, second: SampleIndices, over: Bool[np.ndarray, "p n"]
    ) -> ResampledStatistics:
        """Mean of first minus second, pair by pair, over these samples, on which both are defined."""
        found = combine(difference, self.drawn[first], self.drawn[second])
        other = np.flatnonzero((over != self.defined[first]).any(1) | (over != self.defined[second]).any(1))
        if len(other):
            paired = np.where(over[other], self.values[first[other]] - self.values[second[other]], np.nan)
            again = self.bootstrap.means(paired)
            found.value[other], found.draws[other], found.left_out[other] = again.value, again.draws, again.left_out
        return found

    def class_means(self, categories: Categories) -> ResampledStatistics:
        """Unweighted means over categories of the means within them; a category that a resample misses is left out."""
        found = [self._within(categories == category) for category in np.unique(categories[categories >= 0])]
        return combine(lambda *each: _mean(np.stack(each)), *found)

    def _within(self, members: Bool[np.ndarray, " n"]) -> ResampledStatistics:
        seen, groups = np.unique(self.bootstrap.groups[members], return_inverse=True)
        own = Bootstrap(groups.astype(np.int64), self.bootstrap.weights[:, seen]).means(self.values[:, members])
        left_out = np.repeat(own.value[:, None], self.bootstrap.weights.shape[1], axis=1)
        left_out[:, seen] = own.left_out
        return ResampledStatistics(own.value, own.draws, left_out)


def estimates(
    drawn: ResampledStatistics,
    defined: Bool[np.ndarray, "k n"],
    groups: Int64[np.ndarray, " n"],
    confidence: float,
    present: DefinedValues | None = None,
) -> list[Estimate]:
    """Statistics with their intervals, over the samples where defined; present: those that were asked for.

    One image says nothing of how images vary: its interval is NaN.
    """
    ends, is_bca = intervals(drawn, confidence)
    samples = defined.sum(1)
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    number = np.logical_or.reduceat(defined, starts, axis=1).sum(1)
    asked = defined if present is None else present
    found = []
    for k, (low, high) in enumerate(ends.tolist()):
        enough = number[k] >= _LEAST and np.isfinite([drawn.value[k], low, high]).all()
        found.append(
            Estimate(
                value=float(drawn.value[k]),
                low=low if enough else float("nan"),
                high=high if enough else float("nan"),
                interval="none" if not enough else "BCa" if is_bca[k] else "percentile",
                samples=int(samples[k]),
                groups=int(number[k]),
                undefined=int((asked[k] & ~defined[k]).sum()),
                missing=int((~asked[k]).sum()) if present is not None else 0,
            )
        )
    return found


def _mean(stacked: np.ndarray) -> np.ndarray:
    return np.nansum(stacked, 0) / (~np.isnan(stacked)).sum(0)


_NAN = float("nan")


def normalised(
    question: MetricScores, means: Means, confidence: float, oracle: str | None
) -> tuple[list[Estimate], str | None]:
    """(mean - random) / (oracle - random) of each contestant, and why the scale is not defined, if it is not.

    Each over the images on which all three are defined. Not defined where the interval of oracle - random does not
    lie on the better side of 0: there is nothing to be a share of; nor where a control lies above the oracle, which
    then is none of this metric. No numbers at all where there is no oracle.
    """
    best = oracle_of(question.kind, oracle)
    if best is None or question.higher_is_better is None:
        return [], None
    places = {contestant: k for k, contestant in enumerate(question.contestants)}
    lacking = [name for name in (RANDOM, best) if Contestant(name, False) not in places]
    if lacking:
        return [], f"not normalised: no rows of {' and '.join(map(repr, lacking))}"
    k = np.arange(len(places))
    random, top = (np.full_like(k, places[Contestant(name, False)]) for name in (RANDOM, best))
    over = means.shared(k, random, top)
    range_drawn = means.difference(top, random, over)
    ranges = estimates(range_drawn, over, question.groups, confidence)
    gains = combine(np.divide, means.difference(k, random, over), range_drawn)
    found = estimates(gains, over, question.groups, confidence)
    apart = [min(each.low * question.direction, each.high * question.direction) > 0 for each in ranges]
    above = [who.method for who, each in zip(question.contestants, found, strict=True) if _is_better(who, each.low)]
    kept = [
        estimate if there and not above else replace(estimate, value=_NAN, low=_NAN, high=_NAN, interval="none")
        for estimate, there in zip(found, apart, strict=True)
    ]
    if not apart[places[Contestant(best, False)]]:
        return kept, f"not normalised: {best!r} is not told to be better than {RANDOM!r}"
    return kept, f"not normalised: the control {above[0]!r} is better than the oracle {best!r}" if above else None


def _is_better(who: Contestant, low: float) -> bool:
    """Whether this is a control that lies above the oracle, whose own score is 1."""
    return role(who.method) == "control" and not who.inverted and low > 1
