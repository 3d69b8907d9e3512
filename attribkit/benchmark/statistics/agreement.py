"""[benchmark/statistics/ranking] Which methods a benchmark can tell apart, all at once (Demsar, JMLR 2006, sec. 3.2.2).
[benchmark/statistics/agreement] Whether metrics agree on which methods are good.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.stats import f, rankdata, studentized_range

from attribkit.benchmark.statistics.bootstrap import Bootstrap, Resamples
from attribkit.benchmark.statistics.means import estimates
from attribkit.benchmark.statistics.reading import MetricScores, group_means
from attribkit.benchmark.statistics.summary import Agreement, MethodRanking


def rank_methods(question: MetricScores, confidence: float) -> MethodRanking | None:
    """Mean ranks of the methods over the images on which all are defined; None of fewer than two methods or images.

    The blocks of Friedman's test are images. Its p is that of Iman and Davenport's F. Methods are told apart where it
    rejects that all are alike and their mean ranks differ by more than Nemenyi's critical difference.
    """
    methods = question.competing()
    if len(methods) < 2:
        return None
    values = question.values[methods]
    values = np.where(np.isnan(values).any(0), np.nan, values)
    blocks = group_means(values, question.groups) * -question.direction
    blocks = blocks[:, ~np.isnan(blocks).any(0)]
    if blocks.shape[1] < 2:
        return None
    ranks = rankdata(blocks, axis=0)
    mean = ranks.mean(1)
    order = np.argsort(mean, kind="stable")
    names = tuple(question.contestants[methods[k]].method for k in order)
    chi_squared, p = friedman(ranks)
    critical = critical_difference(len(ranks), ranks.shape[1], 1 - confidence)
    reach = critical if p < 1 - confidence else math.inf
    return MethodRanking(
        model=question.model,
        subset=question.subset,
        metric=question.metric,
        methods=names,
        ranks=tuple(mean[order].tolist()),
        images=ranks.shape[1],
        chi_squared=chi_squared,
        p=p,
        concordance=chi_squared / (ranks.shape[1] * (ranks.shape[0] - 1)),
        critical_difference=critical,
        cliques=tuple(names[first : last + 1] for first, last in cliques(mean[order], reach)),
    )


def friedman(ranks: Float64[np.ndarray, "methods images"]) -> tuple[float, float]:
    """Friedman's chi squared, corrected for ties, and the p of Iman and Davenport's F; NaN where all are tied."""
    k, n = ranks.shape
    spread = float((ranks**2).sum() - n * k * (k + 1) ** 2 / 4)
    if spread <= 0:
        return float("nan"), float("nan")
    chi_squared = (k - 1) * float(((ranks.sum(1) - n * (k + 1) / 2) ** 2).sum()) / spread
    rest = n * (k - 1) - chi_squared
    statistic = (n - 1) * chi_squared / rest if rest > 1e-9 * n else math.inf
    return chi_squared, float(f.sf(statistic, k - 1, (k - 1) * (n - 1)))


def critical_difference(methods: int, images: int, level: float) -> float:
    """Of two mean ranks (Nemenyi, 1963; Demsar, sec. 3.2.2): those nearer are not told apart at this level."""
    q = float(studentized_range.ppf(1 - level, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * images))


def cliques(ranks: Float64[np.ndarray, " methods"], reach: float) -> list[tuple[int, int]]:
    """First and last of each longest row of ascending mean ranks that lie within reach; of two or more methods."""
    last = [int(np.flatnonzero(ranks - rank <= reach)[-1]) for rank in ranks]
    return [(k, end) for k, end in enumerate(last) if end > k and (k == 0 or last[k - 1] < end)]


_LEAST = 3  # methods; two are always in full agreement or in none

_Goodness = Float64[np.ndarray, "methods images"]


@dataclass(frozen=True, eq=False)
class _Side:
    """How good the methods are on each image by one metric, more being better."""

    metric: str
    methods: list[str]
    goodness: _Goodness

    def of(self, methods: Iterable[str]) -> _Goodness:
        return self.goodness[[self.methods.index(method) for method in methods]]


def _side(question: MetricScores, images: dict[str, int]) -> _Side:
    chosen = question.competing()
    goodness = np.full((len(chosen), len(images)), np.nan)
    places = [images[identity] for identity in question.identities]
    goodness[:, places] = group_means(question.values[chosen], question.groups) * question.direction
    return _Side(question.metric, [question.contestants[k].method for k in chosen], goodness)


def agreements(asked: list[MetricScores], resamples: Resamples, confidence: float) -> tuple[Agreement, ...]:
    """All pairs of metrics of one model and subset; asked: a question for each metric."""
    directed = [question for question in asked if question.higher_is_better is not None]
    identities = sorted({identity for question in directed for identity in question.identities})
    images = {identity: k for k, identity in enumerate(identities)}
    sides = [_side(question, images) for question in directed]
    pairs = [(a, b, shared) for a, b in itertools.combinations(sides, 2) if len(shared := _shared(a, b)) >= _LEAST]
    if not pairs:
        return ()
    ranks = [_complete_ranks(a.of(shared), b.of(shared)) for a, b, shared in pairs]
    per_image = np.stack(
        [correlation(a, b) for a, b in ranks for correlation in (kendall_over_methods, spearman_over_methods)]
    )
    own = np.arange(len(images))
    drawn = Bootstrap(own, resamples.weights(len(images))).means(per_image)
    found = estimates(drawn, ~np.isnan(per_image), own, confidence)
    return tuple(
        Agreement(
            model=directed[0].model,
            subset=directed[0].subset,
            first=a.metric,
            second=b.metric,
            methods=len(shared),
            kendall=_of_means(kendall_over_methods, *ranks[k]),
            spearman=_of_means(spearman_over_methods, *ranks[k]),
            kendall_per_image=found[2 * k],
            spearman_per_image=found[2 * k + 1],
        )
        for k, (a, b, shared) in enumerate(pairs)
    )


def kendall_over_methods(first: _Goodness, second: _Goodness) -> Float64[np.ndarray, " images"]:
    """Tau-b over methods (Kendall, Biometrika 1945), image by image; NaN where a metric ties them all, or has NaN."""
    upper = np.triu_indices(len(first), 1)
    a, b = (np.sign(side[upper[0]] - side[upper[1]]) for side in (first, second))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))


def spearman_over_methods(first: _Goodness, second: _Goodness) -> Float64[np.ndarray, " images"]:
    """Correlation of ranks over methods (Spearman, 1904), image by image; NaN where a metric ties them all."""
    a, b = (_centred_ranks(side) for side in (first, second))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))


def _centred_ranks(side: _Goodness) -> _Goodness:
    return rankdata(side, axis=0) - (len(side) + 1) / 2


def _shared(a: _Side, b: _Side) -> list[str]:
    return sorted(set(a.methods) & set(b.methods))


def _complete_ranks(a: _Goodness, b: _Goodness) -> tuple[_Goodness, _Goodness]:
    """Ranks on each image; NaN on those where a method is not defined by both metrics."""
    complete = ~(np.isnan(a) | np.isnan(b)).any(0)
    found = np.full((2, *a.shape), np.nan)
    found[0][:, complete], found[1][:, complete] = rankdata(a[:, complete], axis=0), rankdata(b[:, complete], axis=0)
    return found[0], found[1]


def _of_means(correlation: Callable[[_Goodness, _Goodness], np.ndarray], a: _Goodness, b: _Goodness) -> float:
    complete = ~np.isnan(a[0])
    if not complete.any():
        return float("nan")
    return float(correlation(a[:, complete].mean(1)[:, None], b[:, complete].mean(1)[:, None])[0])
