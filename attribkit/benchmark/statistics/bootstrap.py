"""[benchmark/statistics/arrays] The arrays that cross a boundary: n samples of g groups, k statistics, r resamples.
[benchmark/statistics/resampling] The bootstrap: means over images that could as well have been drawn.

Whole groups are drawn, all samples of an image together, since they are no independent evidence. One matrix of weights
serves all methods, so that differences are paired, and a product with it is all means at once.
[benchmark/statistics/intervals] Intervals from resamples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64, UInt8
from numpy import ndarray
from scipy.special import ndtr, ndtri

PerSample = Float64[ndarray, "k n"]  # NaN where not defined
DefinedValues = Bool[ndarray, "k n"]
Groups = Int64[ndarray, " n"]  # the group of each sample, ascending from 0, none left out
Categories = Int64[ndarray, " n"]  # -1 where it has none
ResampleWeights = UInt8[ndarray, "r g"]  # how often each resample drew each group
SampleIndices = Int[ndarray, " p"]  # indices of rows


_AT_ONCE = 4_000_000  # weights that are drawn or multiplied at once
_NOISE = 1e-12  # relative; what rounding leaves of the difference of equal numbers


@dataclass(frozen=True, eq=False)
class ResampledStatistics:
    """k statistics: of the data, of each of r resamples, and with each of g groups left out."""

    value: Float64[np.ndarray, " k"]
    draws: Float64[np.ndarray, "k r"]
    left_out: Float64[np.ndarray, "k g"]

    def __getitem__(self, rows: "SampleIndices | slice") -> "ResampledStatistics":
        return ResampledStatistics(self.value[rows], self.draws[rows], self.left_out[rows])


def combine(function: Callable[..., np.ndarray], *drawn: ResampledStatistics) -> ResampledStatistics:
    """A function of statistics, such as a ratio of two."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return ResampledStatistics(
            function(*(each.value for each in drawn)),
            function(*(each.draws for each in drawn)),
            function(*(each.left_out for each in drawn)),
        )


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """First minus second, exactly 0 where they differ by rounding alone: an interval must not exclude 0 for that."""
    found = first - second
    found[np.abs(found) <= _NOISE * np.maximum(np.abs(first), np.abs(second))] = 0
    return found


class Resamples:
    """Weights of groups, the same for questions of equally many groups; drawn once for those that follow each other."""

    def __init__(self, resamples: int, seed: int) -> None:
        self._resamples, self._seed = resamples, seed
        self._last: ResampleWeights | None = None

    def weights(self, groups: int) -> ResampleWeights:
        """How often each resample drew each of so many groups."""
        if self._last is None or self._last.shape[1] != groups:
            self._last = None  # two of them need not be in memory
            self._last = _weights(groups, self._resamples, np.random.default_rng(self._seed))
        return self._last


def _weights(groups: int, resamples: int, rng: np.random.Generator) -> ResampleWeights:
    weights = np.empty((resamples, groups), np.uint8)  # a count above 255 is less probable than a broken memory
    step = max(1, _AT_ONCE // groups)
    for start in range(0, resamples, step):
        drawn = rng.integers(0, groups, (min(step, resamples - start), groups))
        cells = (drawn + groups * np.arange(len(drawn))[:, None]).ravel()
        weights[start : start + step] = np.bincount(cells, minlength=drawn.size).reshape(drawn.shape)
    return weights


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Draws the groups of samples."""

    groups: Groups
    weights: ResampleWeights

    def means(self, values: PerSample) -> ResampledStatistics:
        """Means over the samples that are defined; NaN where a resample has none of them."""
        defined = ~np.isnan(values)
        sums = self._per_group(np.where(defined, values, 0.0))
        patterns, which = _patterns(defined)
        counts = self._per_group(patterns.astype(np.float64))
        with np.errstate(divide="ignore", invalid="ignore"):
            total, number = sums.sum(1), counts.sum(1)[which]
            return ResampledStatistics(
                total / number,
                self._drawn(sums) / self._drawn(counts)[which],
                (total[:, None] - sums) / (number[:, None] - counts[which]),
            )

    def _per_group(self, numbers: PerSample) -> Float64[np.ndarray, "k g"]:
        starts = np.flatnonzero(np.diff(self.groups, prepend=-1))
        return np.add.reduceat(numbers, starts, axis=1)

    def _drawn(self, sums: Float64[np.ndarray, "k g"]) -> Float64[np.ndarray, "k r"]:
        found = np.empty((len(sums), len(self.weights)))
        step = max(1, _AT_ONCE // self.weights.shape[1])
        for start in range(0, len(self.weights), step):
            found[:, start : start + step] = sums @ self.weights[start : start + step].T.astype(np.float64)
        return found


def _patterns(defined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows, and which of them each row is; mostly all are alike."""
    if (defined == defined[:1]).all():
        return defined[:1], np.zeros(len(defined), np.intp)
    packed = [row.tobytes() for row in np.packbits(defined, axis=1)]
    first = {row: k for k, row in reversed(list(enumerate(packed)))}
    order = {row: k for k, row in enumerate(first)}
    return defined[list(first.values())], np.array([order[row] for row in packed])


_TIE = 1e-9  # of the spread of the draws: equal, but for rounding
_NO_SPREAD = 1e-12  # of the value


def intervals(drawn: ResampledStatistics, confidence: float) -> tuple[Float64[np.ndarray, "k 2"], np.ndarray]:
    """Low and high of each statistic, and whether they are BCa.

    BCa: bias-corrected and accelerated (Efron, JASA 1987), the acceleration from the jackknife over groups. Where the
    correction is not defined the percentiles themselves. Resamples in which the statistic is not defined are left out.
    """
    number = (~np.isnan(drawn.draws)).sum(1)
    plain = np.broadcast_to([(1 - confidence) / 2, (1 + confidence) / 2], (len(number), 2))
    corrected = _bca_levels(drawn, number, ndtri(plain))
    is_bca = np.isfinite(corrected).all(1)
    levels = np.where(is_bca[:, None], corrected, plain)
    return _quantiles(drawn.draws, number, levels), is_bca


def _bca_levels(drawn: ResampledStatistics, number: np.ndarray, z: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        bias = ndtri(_share_below(drawn.value, drawn.draws, number))[:, None]
        acceleration = _acceleration(drawn.left_out)[:, None]
        denominator = 1 - acceleration * (bias + z)
        return np.where(denominator > 0, ndtr(bias + (bias + z) / denominator), np.nan)


def _share_below(value: np.ndarray, draws: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Share of the draws below the value, ties half; NaN where the draws do not spread."""
    spread = np.fmax.reduce(draws, axis=1) - np.fmin.reduce(draws, axis=1)
    tie = (_TIE * spread)[:, None]
    below, at_most = (draws < value[:, None] - tie).sum(1), (draws <= value[:, None] + tie).sum(1)
    return np.where(spread > _NO_SPREAD * np.abs(value), (below + at_most) / (2 * number), np.nan)


def _acceleration(left_out: np.ndarray) -> np.ndarray:
    count = (~np.isnan(left_out)).sum(1)
    mean = np.nansum(left_out, 1) / count
    deviation = mean[:, None] - left_out
    square = deviation * deviation
    return np.nansum(square * deviation, 1) / (6 * np.nansum(square, 1) ** 1.5)


def _quantiles(draws: np.ndarray, number: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Linear between neighbours, among the numbers of each row."""
    place = levels * np.maximum(number - 1, 0)[:, None]
    lower, upper = np.floor(place).astype(np.intp), np.ceil(place).astype(np.intp)
    found = np.empty(levels.shape)
    for k, row in enumerate(draws):  # four of thousands are needed: sorting all takes ten times as long
        ordered = np.partition(row, [*lower[k], *upper[k]])  # NaN last
        low, high = ordered[lower[k]], ordered[upper[k]]
        with np.errstate(invalid="ignore"):  # a ratio may be infinite
            found[k] = low + (high - low) * (place[k] - lower[k])
    return found
