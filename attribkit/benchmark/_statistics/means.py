"""Means of the scores of a metric with their intervals, and scores normalised by random maps and an oracle."""

import functools
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int64

from attribkit.benchmark._statistics.bootstrap import (
    Bootstrap,
    Categories,
    DefinedValues,
    PerSample,
    ResampledStatistics,
    RowIndices,
    bootstrap_intervals,
    combine_statistics,
    rounded_difference,
)
from attribkit.benchmark._statistics.reading import MapVariant, MetricScores
from attribkit.benchmark._statistics.summary import RANDOM, Estimate, oracle_for, role

_MIN_GROUPS = 2  # least number of groups for an interval
_NAN = float("nan")


@dataclass(frozen=True, eq=False)
class Means:
    """Means over samples, with the same resamples for all variants.

    Args:
        values: The values of each variant.
        bootstrap: The bootstrap of their samples.
    """

    values: PerSample
    bootstrap: Bootstrap

    @functools.cached_property
    def defined(self) -> DefinedValues:
        """Mask of the samples that have a value."""
        return ~np.isnan(self.values)

    @functools.cached_property
    def statistics(self) -> ResampledStatistics:
        """The mean of each variant over the samples where it is defined."""
        return self.bootstrap.means(self.values)

    def jointly_defined(self, *variants: RowIndices) -> Bool[np.ndarray, "p n"]:
        """Return the samples on which all variants of a tuple are defined."""
        return np.logical_and.reduce([self.defined[each] for each in variants])

    def difference(self, first: RowIndices, second: RowIndices, over: Bool[np.ndarray, "p n"]) -> ResampledStatistics:
        """Return the mean of first minus second for each pair, over these samples, on which both are defined."""
        result = combine_statistics(rounded_difference, self.statistics[first], self.statistics[second])
        other = np.flatnonzero((over != self.defined[first]).any(1) | (over != self.defined[second]).any(1))
        if len(other):
            paired = np.where(over[other], self.values[first[other]] - self.values[second[other]], np.nan)
            means = self.bootstrap.means(paired)
            result.value[other], result.resampled[other] = means.value, means.resampled
            result.jackknife[other] = means.jackknife
        return result

    def class_means(self, categories: Categories) -> ResampledStatistics:
        """Return unweighted means over categories of the means within them.

        A category that a resample does not contain is excluded from that resample's mean.
        """
        per_category = [self._means_within(categories == each) for each in np.unique(categories[categories >= 0])]
        return combine_statistics(lambda *each: _mean(np.stack(each)), *per_category)

    def _means_within(self, members: Bool[np.ndarray, " n"]) -> ResampledStatistics:
        present, groups = np.unique(self.bootstrap.groups[members], return_inverse=True)
        inner = Bootstrap(groups.astype(np.int64), self.bootstrap.weights[:, present]).means(self.values[:, members])
        jackknife = np.repeat(inner.value[:, None], self.bootstrap.weights.shape[1], axis=1)
        jackknife[:, present] = inner.jackknife
        return ResampledStatistics(inner.value, inner.resampled, jackknife)


def _mean(stacked: np.ndarray) -> np.ndarray:
    return np.nansum(stacked, 0) / (~np.isnan(stacked)).sum(0)


def make_estimates(
    statistics: ResampledStatistics,
    defined: Bool[np.ndarray, "k n"],
    groups: Int64[np.ndarray, " n"],
    confidence: float,
    present: DefinedValues | None = None,
) -> list[Estimate]:
    """Return the statistics with their intervals, and the numbers of samples that are defined, undefined and missing.

    The interval of a single image is NaN, because one image does not show the variation between images.

    Args:
        statistics: The statistics.
        defined: The samples on which each of them is defined.
        groups: The group of each sample.
        confidence: Level of the intervals.
        present: The samples for which there is a row; None means those that are defined.
    """
    ends, is_bca = bootstrap_intervals(statistics, confidence)
    samples = defined.sum(1)
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    number = np.logical_or.reduceat(defined, starts, axis=1).sum(1)
    expected = defined if present is None else present
    results = []
    for k, (low, high) in enumerate(ends.tolist()):
        enough = number[k] >= _MIN_GROUPS and np.isfinite([statistics.value[k], low, high]).all()
        results.append(
            Estimate(
                value=float(statistics.value[k]),
                low=low if enough else _NAN,
                high=high if enough else _NAN,
                interval="none" if not enough else "BCa" if is_bca[k] else "percentile",
                samples=int(samples[k]),
                groups=int(number[k]),
                undefined=int((expected[k] & ~defined[k]).sum()),
                missing=int((~expected[k]).sum()) if present is not None else 0,
            )
        )
    return results


def normalised_scores(
    scores: MetricScores, means: Means, confidence: float, oracle: str | None
) -> tuple[list[Estimate], str | None]:
    """Compute (mean - random) / (oracle - random) of each variant, and a note if this scale is not defined.

    Each mean is over the images on which all three are defined. The scale is not defined where the interval of
    oracle - random is not entirely on the better side of 0, nor where a control scores above the oracle, which is
    then not an upper reference for this metric. Without an oracle the list is empty.
    """
    top_name = oracle_for(scores.kind, oracle)
    if top_name is None or scores.higher_is_better is None:
        return [], None
    indices = {variant: k for k, variant in enumerate(scores.variants)}
    lacking = [name for name in (RANDOM, top_name) if MapVariant(name, False) not in indices]
    if lacking:
        return [], f"not normalised: rows of {' and '.join(map(repr, lacking))} are missing"
    k = np.arange(len(indices))
    random, top = (np.full_like(k, indices[MapVariant(name, False)]) for name in (RANDOM, top_name))
    over = means.jointly_defined(k, random, top)
    ranges = means.difference(top, random, over)
    range_estimates = make_estimates(ranges, over, scores.groups, confidence)
    ratios = combine_statistics(np.divide, means.difference(k, random, over), ranges)
    estimates = make_estimates(ratios, over, scores.groups, confidence)
    is_scale = [min(each.low * scores.direction, each.high * scores.direction) > 0 for each in range_estimates]
    above = [
        variant.method
        for variant, each in zip(scores.variants, estimates, strict=True)
        if _is_control_above(variant, each.low)
    ]
    kept = [
        estimate if defined and not above else replace(estimate, value=_NAN, low=_NAN, high=_NAN, interval="none")
        for estimate, defined in zip(estimates, is_scale, strict=True)
    ]
    if not is_scale[indices[MapVariant(top_name, False)]]:
        return kept, f"not normalised: {top_name!r} is not significantly better than {RANDOM!r}"
    note = f"not normalised: the control {above[0]!r} is better than the oracle {top_name!r}" if above else None
    return kept, note


def _is_control_above(variant: MapVariant, low: float) -> bool:
    """Return whether the variant is a control that scores above the oracle, whose normalised score is 1."""
    return role(variant.method) == "control" and not variant.inverted and low > 1
