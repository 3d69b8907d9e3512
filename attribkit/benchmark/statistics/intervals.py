"""Intervals from resamples."""

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtr, ndtri

from attribkit.benchmark.statistics.resampling import Drawn

_TIE = 1e-9  # of the spread of the draws: equal, but for rounding
_NO_SPREAD = 1e-12  # of the value


def intervals(drawn: Drawn, confidence: float) -> tuple[Float64[np.ndarray, "k 2"], np.ndarray]:
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


def _bca_levels(drawn: Drawn, number: np.ndarray, z: np.ndarray) -> np.ndarray:
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
