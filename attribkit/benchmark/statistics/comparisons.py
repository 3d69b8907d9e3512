"""Every method against every other, on the same images."""

import itertools

import numpy as np
from jaxtyping import Float64
from scipy.stats import wilcoxon

from attribkit.benchmark.statistics.means import Means, estimates
from attribkit.benchmark.statistics.per_group import group_means
from attribkit.benchmark.statistics.question import Question
from attribkit.benchmark.statistics.roles import role
from attribkit.benchmark.statistics.summary import Comparison

LEAST_PAIRS = 6  # pairs; the smallest p of five is 1/16, so that nothing can be told from them
_EXACT = 50  # pairs; of more the normal approximation is as good


def comparisons(question: Question, means: Means, confidence: float) -> tuple[Comparison, ...]:
    """All pairs with a method in them, of methods and controls; not of negated maps, and not of the truth."""
    roles = [role(contestant.method) for contestant in question.contestants]
    chosen = [k for k in question.upright() if roles[k] != "truth"]
    pairs = [(i, j) for i, j in itertools.combinations(chosen, 2) if "method" in (roles[i], roles[j])]
    if not pairs:
        return ()
    first, second = np.array(pairs).T
    over = means.shared(first, second)
    differences = estimates(means.difference(first, second, over), over, question.groups, confidence)
    gaps = group_means(np.where(over, question.values[first] - question.values[second], np.nan), question.groups)
    p = np.array([signed_rank(gap[~np.isnan(gap)]) for gap in gaps])
    better = np.sign(gaps) * (-1 if question.higher_is_better is False else 1)
    counts = [(better == sign).sum(1).tolist() for sign in (1, 0, -1)]
    return tuple(
        Comparison(
            model=question.model,
            subset=question.subset,
            metric=question.metric,
            first=question.contestants[i].method,
            second=question.contestants[j].method,
            difference=estimate,
            wins=wins,
            ties=ties,
            losses=losses,
            p=float(own),
            p_holm=float(corrected),
        )
        for (i, j), estimate, wins, ties, losses, own, corrected in zip(
            pairs, differences, *counts, p, holm(p), strict=True
        )
    )


def signed_rank(differences: Float64[np.ndarray, " pairs"]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test (Biometrics Bulletin 1945); NaN of fewer than 6 pairs.

    Zeros take part in the ranking and are then dropped (Pratt, JASA 1959). Exact for up to 50 pairs without zeros and
    ties, the normal approximation with the variance corrected for ties else.
    """
    if len(differences) < LEAST_PAIRS:
        return float("nan")
    if not differences.any():
        return 1.0
    sizes = np.abs(differences)
    exact = len(sizes) <= _EXACT and sizes.all() and len(np.unique(sizes)) == len(sizes)
    found = wilcoxon(differences, zero_method="pratt", method="exact" if exact else "asymptotic")
    return float(found.pvalue)


def holm(p: Float64[np.ndarray, " tests"]) -> Float64[np.ndarray, " tests"]:
    """P-values corrected for their number (Holm, Scandinavian Journal of Statistics 1979); NaN is no test."""
    corrected = np.full_like(p, np.nan)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected
