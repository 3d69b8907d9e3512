"""The bootstrap over images: resampled means and their confidence intervals.

Whole groups are resampled, all samples of an image together, because they are not independent. One matrix of weights
serves all methods, which pairs their differences, and a single matrix product gives all resampled means.
Shapes: n samples in g groups, k statistics, r resamples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64, UInt8
from numpy import ndarray
from scipy.special import ndtr, ndtri

PerSample = Float64[ndarray, "k n"]  # NaN where not defined
DefinedValues = Bool[ndarray, "k n"]
Groups = Int64[ndarray, " n"]  # the group of each sample: ascending from 0, without gaps
Categories = Int64[ndarray, " n"]  # -1: without a category
ResampleWeights = UInt8[ndarray, "r g"]  # how often each resample contains each group
RowIndices = Int[ndarray, " p"]

_MAX_WEIGHTS = 4_000_000  # weights that are drawn or multiplied at a time
_ROUNDING = 1e-12  # relative error of the difference of two equal means
_TIE = 1e-9  # relative to the spread of the resamples: equal up to rounding
_MIN_SPREAD = 1e-12  # relative to the value


@dataclass(frozen=True, eq=False)
class ResampledStatistics:
    """Statistics of the data, of each resample, and of the data without each group.

    Args:
        value: Statistics of the data.
        resampled: Statistics of each resample.
        jackknife: Statistics with each group left out.
    """

    value: Float64[np.ndarray, " k"]
    resampled: Float64[np.ndarray, "k r"]
    jackknife: Float64[np.ndarray, "k g"]

    def __getitem__(self, rows: "RowIndices | slice") -> "ResampledStatistics":
        return ResampledStatistics(self.value[rows], self.resampled[rows], self.jackknife[rows])


def combine_statistics(function: Callable[..., np.ndarray], *statistics: ResampledStatistics) -> ResampledStatistics:
    """Apply a function, such as a ratio, to statistics, their resamples and their jackknife values."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return ResampledStatistics(
            function(*(each.value for each in statistics)),
            function(*(each.resampled for each in statistics)),
            function(*(each.jackknife for each in statistics)),
        )


def rounded_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return first minus second, and 0 where they differ only by rounding, which must not move an interval off 0."""
    gap = first - second
    gap[np.abs(gap) <= _ROUNDING * np.maximum(np.abs(first), np.abs(second))] = 0
    return gap


class Resamples:
    """Bootstrap weights of groups; they depend only on the number of groups, and the last ones are cached."""

    def __init__(self, resamples: int, seed: int) -> None:
        self._resamples, self._seed = resamples, seed
        self._last: ResampleWeights | None = None

    def weights(self, groups: int) -> ResampleWeights:
        """Return how often each resample contains each of this number of groups."""
        if self._last is None or self._last.shape[1] != groups:
            self._last = None  # free the memory before the next weights are drawn
            self._last = _draw_weights(groups, self._resamples, np.random.default_rng(self._seed))
        return self._last


def _draw_weights(groups: int, resamples: int, rng: np.random.Generator) -> ResampleWeights:
    weights = np.empty((resamples, groups), np.uint8)  # a count above 255 does not occur in practice
    step = max(1, _MAX_WEIGHTS // groups)
    for start in range(0, resamples, step):
        drawn = rng.integers(0, groups, (min(step, resamples - start), groups))
        flat = (drawn + groups * np.arange(len(drawn))[:, None]).ravel()
        weights[start : start + step] = np.bincount(flat, minlength=drawn.size).reshape(drawn.shape)
    return weights


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """The bootstrap of samples by their groups.

    Args:
        groups: The group of each sample.
        weights: How often each resample contains each group.
    """

    groups: Groups
    weights: ResampleWeights

    def means(self, values: PerSample) -> ResampledStatistics:
        """Return the means over the samples that are defined; NaN for a resample without such samples."""
        defined = ~np.isnan(values)
        sums = self._sum_per_group(np.where(defined, values, 0.0))
        patterns, pattern_of_row = _distinct_rows(defined)
        counts = self._sum_per_group(patterns.astype(np.float64))
        with np.errstate(divide="ignore", invalid="ignore"):
            total, number = sums.sum(1), counts.sum(1)[pattern_of_row]
            return ResampledStatistics(
                total / number,
                self._resample(sums) / self._resample(counts)[pattern_of_row],
                (total[:, None] - sums) / (number[:, None] - counts[pattern_of_row]),
            )

    def _sum_per_group(self, values: PerSample) -> Float64[np.ndarray, "k g"]:
        starts = np.flatnonzero(np.diff(self.groups, prepend=-1))
        return np.add.reduceat(values, starts, axis=1)

    def _resample(self, sums: Float64[np.ndarray, "k g"]) -> Float64[np.ndarray, "k r"]:
        resampled = np.empty((len(sums), len(self.weights)))
        step = max(1, _MAX_WEIGHTS // self.weights.shape[1])
        for start in range(0, len(self.weights), step):
            resampled[:, start : start + step] = sums @ self.weights[start : start + step].T.astype(np.float64)
        return resampled


def _distinct_rows(defined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows, and the index among them of each row; in most cases all rows are equal."""
    if (defined == defined[:1]).all():
        return defined[:1], np.zeros(len(defined), np.intp)
    packed = [row.tobytes() for row in np.packbits(defined, axis=1)]
    first = {row: k for k, row in reversed(list(enumerate(packed)))}
    order = {row: k for k, row in enumerate(first)}
    return defined[list(first.values())], np.array([order[row] for row in packed])


def bootstrap_intervals(
    statistics: ResampledStatistics, confidence: float
) -> tuple[Float64[np.ndarray, "k 2"], np.ndarray]:
    """Compute the interval of each statistic, and whether it is BCa.

    BCa: bias-corrected and accelerated (Efron, JASA 1987), the acceleration from the jackknife over groups. Where the
    correction is not defined, the interval is that of the percentiles. Resamples in which the statistic is not
    defined are excluded.
    """
    number = (~np.isnan(statistics.resampled)).sum(1)
    plain = np.broadcast_to([(1 - confidence) / 2, (1 + confidence) / 2], (len(number), 2))
    corrected = _bca_levels(statistics, number, ndtri(plain))
    is_bca = np.isfinite(corrected).all(1)
    levels = np.where(is_bca[:, None], corrected, plain)
    return _quantiles(statistics.resampled, number, levels), is_bca


def _bca_levels(statistics: ResampledStatistics, number: np.ndarray, z: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        bias = ndtri(_fraction_below(statistics.value, statistics.resampled, number))[:, None]
        acceleration = _acceleration(statistics.jackknife)[:, None]
        denominator = 1 - acceleration * (bias + z)
        return np.where(denominator > 0, ndtr(bias + (bias + z) / denominator), np.nan)


def _fraction_below(value: np.ndarray, resampled: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Return the fraction of the resamples below the value, ties half; NaN where the resamples do not vary."""
    spread = np.fmax.reduce(resampled, axis=1) - np.fmin.reduce(resampled, axis=1)
    tie = (_TIE * spread)[:, None]
    below = (resampled < value[:, None] - tie).sum(1)
    at_most = (resampled <= value[:, None] + tie).sum(1)
    return np.where(spread > _MIN_SPREAD * np.abs(value), (below + at_most) / (2 * number), np.nan)


def _acceleration(jackknife: np.ndarray) -> np.ndarray:
    count = (~np.isnan(jackknife)).sum(1)
    mean = np.nansum(jackknife, 1) / count
    deviation = mean[:, None] - jackknife
    square = deviation * deviation
    return np.nansum(square * deviation, 1) / (6 * np.nansum(square, 1) ** 1.5)


def _quantiles(resampled: np.ndarray, number: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the quantiles of each row's defined values, with linear interpolation."""
    position = levels * np.maximum(number - 1, 0)[:, None]
    lower, upper = np.floor(position).astype(np.intp), np.ceil(position).astype(np.intp)
    quantiles = np.empty(levels.shape)
    for k, row in enumerate(resampled):  # four of thousands are needed: sorting all takes ten times as long
        ordered = np.partition(row, [*lower[k], *upper[k]])  # NaN last
        low, high = ordered[lower[k]], ordered[upper[k]]
        with np.errstate(invalid="ignore"):  # a ratio may be infinite
            quantiles[k] = low + (high - low) * (position[k] - lower[k])
    return quantiles
