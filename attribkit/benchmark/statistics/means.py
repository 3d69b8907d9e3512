"""Means of a question's contestants, and what follows from them."""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from attribkit.benchmark.statistics.arrays import Categories, Chosen, PerSample, Present
from attribkit.benchmark.statistics.intervals import intervals
from attribkit.benchmark.statistics.resampling import Bootstrap, Drawn, combined, difference
from attribkit.benchmark.statistics.summary import Estimate

_LEAST = 2  # groups that can vary


@dataclass(frozen=True, eq=False)
class Means:
    """Means over samples, resampled together."""

    values: PerSample
    bootstrap: Bootstrap

    @functools.cached_property
    def defined(self) -> Present:
        """Which samples have a value."""
        return ~np.isnan(self.values)

    @functools.cached_property
    def drawn(self) -> Drawn:
        """The mean of each contestant over its own samples."""
        return self.bootstrap.means(self.values)

    def shared(self, *contestants: Chosen) -> Bool[np.ndarray, "p n"]:
        """The samples on which all contestants of a row are defined."""
        return np.logical_and.reduce([self.defined[each] for each in contestants])

    def difference(self, first: Chosen, second: Chosen, over: Bool[np.ndarray, "p n"]) -> Drawn:
        """Mean of first minus second, pair by pair, over these samples, on which both are defined."""
        found = combined(difference, self.drawn[first], self.drawn[second])
        other = np.flatnonzero((over != self.defined[first]).any(1) | (over != self.defined[second]).any(1))
        if len(other):
            paired = np.where(over[other], self.values[first[other]] - self.values[second[other]], np.nan)
            again = self.bootstrap.means(paired)
            found.value[other], found.draws[other], found.left_out[other] = again.value, again.draws, again.left_out
        return found

    def class_means(self, categories: Categories) -> Drawn:
        """Unweighted means over categories of the means within them; a category that a resample misses is left out."""
        found = [self._within(categories == category) for category in np.unique(categories[categories >= 0])]
        return combined(lambda *each: _mean(np.stack(each)), *found)

    def _within(self, members: Bool[np.ndarray, " n"]) -> Drawn:
        seen, groups = np.unique(self.bootstrap.groups[members], return_inverse=True)
        own = Bootstrap(groups.astype(np.int64), self.bootstrap.weights[:, seen]).means(self.values[:, members])
        left_out = np.repeat(own.value[:, None], self.bootstrap.weights.shape[1], axis=1)
        left_out[:, seen] = own.left_out
        return Drawn(own.value, own.draws, left_out)


def estimates(
    drawn: Drawn,
    defined: Bool[np.ndarray, "k n"],
    groups: Int64[np.ndarray, " n"],
    confidence: float,
    present: Present | None = None,
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
