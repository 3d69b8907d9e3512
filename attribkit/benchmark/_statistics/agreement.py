"""Rankings of methods over images (Demsar, JMLR 2006, sec. 3.2.2), and the agreement of metrics on them."""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.stats import f, rankdata, studentized_range

from attribkit.benchmark._statistics.bootstrap import Bootstrap, Resamples
from attribkit.benchmark._statistics.means import make_estimates
from attribkit.benchmark._statistics.reading import MetricScores, group_means
from attribkit.benchmark._statistics.summary import Agreement, MethodRanking

_MIN_METHODS = 3  # two methods always agree fully or not at all

_Goodness = Float64[np.ndarray, "methods images"]  # higher is better


def rank_methods(scores: MetricScores, confidence: float) -> MethodRanking | None:
    """Rank the methods by their mean ranks over the images on which all are defined.

    The blocks of Friedman's test are images. Its p is that of Iman and Davenport's F. Two methods differ significantly
    where the test rejects that all are alike and their mean ranks differ by more than Nemenyi's critical difference.
    Returns None for fewer than two methods or images.
    """
    methods = scores.scored_methods()
    if len(methods) < 2:
        return None
    values = scores.values[methods]
    values = np.where(np.isnan(values).any(0), np.nan, values)
    blocks = group_means(values, scores.groups) * -scores.direction
    blocks = blocks[:, ~np.isnan(blocks).any(0)]
    if blocks.shape[1] < 2:
        return None
    ranks = rankdata(blocks, axis=0)
    mean = ranks.mean(1)
    order = np.argsort(mean, kind="stable")
    names = tuple(scores.variants[methods[k]].method for k in order)
    chi_squared, p = friedman(ranks)
    critical = critical_difference(len(ranks), ranks.shape[1], 1 - confidence)
    width = critical if p < 1 - confidence else math.inf
    return MethodRanking(
        model=scores.model,
        subset=scores.subset,
        metric=scores.metric,
        methods=names,
        ranks=tuple(mean[order].tolist()),
        images=ranks.shape[1],
        chi_squared=chi_squared,
        p=p,
        concordance=chi_squared / (ranks.shape[1] * (ranks.shape[0] - 1)),
        critical_difference=critical,
        cliques=tuple(names[first : last + 1] for first, last in rank_cliques(mean[order], width)),
    )


def friedman(ranks: Float64[np.ndarray, "methods images"]) -> tuple[float, float]:
    """Return Friedman's chi-squared, corrected for ties, and the p of Iman and Davenport's F; NaN if all are tied."""
    k, n = ranks.shape
    spread = float((ranks**2).sum() - n * k * (k + 1) ** 2 / 4)
    if spread <= 0:
        return float("nan"), float("nan")
    chi_squared = (k - 1) * float(((ranks.sum(1) - n * (k + 1) / 2) ** 2).sum()) / spread
    rest = n * (k - 1) - chi_squared
    statistic = (n - 1) * chi_squared / rest if rest > 1e-9 * n else math.inf
    return chi_squared, float(f.sf(statistic, k - 1, (k - 1) * (n - 1)))


def critical_difference(methods: int, images: int, level: float) -> float:
    """Return Nemenyi's critical difference of two mean ranks at this significance level (Demsar, sec. 3.2.2)."""
    q = float(studentized_range.ppf(1 - level, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * images))


def rank_cliques(ranks: Float64[np.ndarray, " methods"], width: float) -> list[tuple[int, int]]:
    """Return the first and last index of each maximal run of two or more ascending ranks within this width."""
    last = [int(np.flatnonzero(ranks - rank <= width)[-1]) for rank in ranks]
    return [(k, end) for k, end in enumerate(last) if end > k and (k == 0 or last[k - 1] < end)]


@dataclass(frozen=True, eq=False)
class _MetricGoodness:
    """The methods' values by one metric on each image, signed such that higher is better."""

    metric: str
    methods: list[str]
    goodness: _Goodness

    def select(self, methods: Iterable[str]) -> _Goodness:
        return self.goodness[[self.methods.index(method) for method in methods]]


def _metric_goodness(scores: MetricScores, images: dict[str, int]) -> _MetricGoodness:
    chosen = scores.scored_methods()
    goodness = np.full((len(chosen), len(images)), np.nan)
    columns = [images[name] for name in scores.group_names]
    goodness[:, columns] = group_means(scores.values[chosen], scores.groups) * scores.direction
    return _MetricGoodness(scores.metric, [scores.variants[k].method for k in chosen], goodness)


def metric_agreements(all_scores: list[MetricScores], resamples: Resamples, confidence: float) -> tuple[Agreement, ...]:
    """Compute the agreement of all pairs of metrics on one model and subset, from the scores of each."""
    directed = [scores for scores in all_scores if scores.higher_is_better is not None]
    names = sorted({name for scores in directed for name in scores.group_names})
    images = {name: k for k, name in enumerate(names)}
    sides = [_metric_goodness(scores, images) for scores in directed]
    pairs = [
        (a, b, common)
        for a, b in itertools.combinations(sides, 2)
        if len(common := _common_methods(a, b)) >= _MIN_METHODS
    ]
    if not pairs:
        return ()
    ranks = [_complete_ranks(a.select(common), b.select(common)) for a, b, common in pairs]
    per_image = np.stack(
        [correlation(a, b) for a, b in ranks for correlation in (kendall_over_methods, spearman_over_methods)]
    )
    groups = np.arange(len(images))
    means = Bootstrap(groups, resamples.weights(len(images))).means(per_image)
    estimates = make_estimates(means, ~np.isnan(per_image), groups, confidence)
    return tuple(
        Agreement(
            model=directed[0].model,
            subset=directed[0].subset,
            first=a.metric,
            second=b.metric,
            methods=len(common),
            kendall=_correlation_of_means(kendall_over_methods, *ranks[k]),
            spearman=_correlation_of_means(spearman_over_methods, *ranks[k]),
            kendall_per_image=estimates[2 * k],
            spearman_per_image=estimates[2 * k + 1],
        )
        for k, (a, b, common) in enumerate(pairs)
    )


def kendall_over_methods(first: _Goodness, second: _Goodness) -> Float64[np.ndarray, " images"]:
    """Compute Kendall's tau-b over methods (Biometrika 1945) for each image; NaN with NaN or if all are tied."""
    upper = np.triu_indices(len(first), 1)
    a, b = (np.sign(side[upper[0]] - side[upper[1]]) for side in (first, second))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))


def spearman_over_methods(first: _Goodness, second: _Goodness) -> Float64[np.ndarray, " images"]:
    """Compute Spearman's rank correlation (1904) over methods for each image; NaN if a metric ties all methods."""
    a, b = (_centred_ranks(side) for side in (first, second))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))


def _centred_ranks(side: _Goodness) -> _Goodness:
    return rankdata(side, axis=0) - (len(side) + 1) / 2


def _common_methods(a: _MetricGoodness, b: _MetricGoodness) -> list[str]:
    return sorted(set(a.methods) & set(b.methods))


def _complete_ranks(a: _Goodness, b: _Goodness) -> tuple[_Goodness, _Goodness]:
    """Return the ranks on each image; NaN on images where a method is not defined by both metrics."""
    complete = ~(np.isnan(a) | np.isnan(b)).any(0)
    ranks = np.full((2, *a.shape), np.nan)
    ranks[0][:, complete], ranks[1][:, complete] = rankdata(a[:, complete], axis=0), rankdata(b[:, complete], axis=0)
    return ranks[0], ranks[1]


def _correlation_of_means(
    correlation: Callable[[_Goodness, _Goodness], np.ndarray], a: _Goodness, b: _Goodness
) -> float:
    complete = ~np.isnan(a[0])
    if not complete.any():
        return float("nan")
    return float(correlation(a[:, complete].mean(1)[:, None], b[:, complete].mean(1)[:, None])[0])
