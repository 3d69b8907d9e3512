"""Which methods a benchmark can tell apart, all at once (Demsar, JMLR 2006, sec. 3.2.2)."""

import math

import numpy as np
from jaxtyping import Float64
from scipy.stats import f, rankdata, studentized_range

from attribkit.benchmark.statistics.per_group import group_means
from attribkit.benchmark.statistics.question import Question
from attribkit.benchmark.statistics.summary import Ranking


def ranking(question: Question, confidence: float) -> Ranking | None:
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
    return Ranking(
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
