"""[benchmark/statistics/comparisons] Every method against every other, on the same images.
[benchmark/statistics/best] Which number may be printed bold.
[benchmark/statistics/sanity] Whether methods are fit to be compared at all.
"""

import itertools
from collections.abc import Collection, Iterable, Mapping

import numpy as np
from jaxtyping import Float64
from scipy.stats import wilcoxon

from attribkit.benchmark.statistics.means import Means, estimates
from attribkit.benchmark.statistics.reading import Contestant, MetricScores, group_means
from attribkit.benchmark.statistics.summary import Estimate, MethodComparison, SanityCheck, role

LEAST_PAIRS = 6  # pairs; the smallest p of five is 1/16, so that nothing can be told from them
_EXACT = 50  # pairs; of more the normal approximation is as good


def comparisons(question: MetricScores, means: Means, confidence: float) -> tuple[MethodComparison, ...]:
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
        MethodComparison(
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


def best(
    found: Mapping[str, Estimate],
    higher_is_better: bool | None,
    flagged: Collection[str],
    compared: Iterable[MethodComparison] = (),
) -> str | None:
    """The method whose interval lies on the better side of every other method's and control's; None if none does.

    compared: it must be ahead in these too, over the images that both have. Never one that fails a sanity check,
    never an only method, and never of so few images that no test can tell. Maps without a number compete with none.
    """
    rivals = {name: each for name, each in found.items() if role(name) != "truth" and each.samples}
    methods = [name for name in rivals if role(name) == "method"]
    if higher_is_better is None or len(methods) < 2:
        return None
    choose = max if higher_is_better else min
    winner = choose(methods, key=lambda name: rivals[name].value)
    others = [each for name, each in rivals.items() if name != winner]
    apart = all(_ahead(rivals[winner], other, higher_is_better) for other in others)
    wins = all(_wins(winner, each, higher_is_better) for each in compared if each.difference.samples)
    trusted = winner not in flagged and rivals[winner].groups >= LEAST_PAIRS
    return winner if apart and wins and trusted else None


def _ahead(one: Estimate, other: Estimate, higher_is_better: bool) -> bool:
    """No overlap, as a reader of the table sees it; an interval that is not defined overlaps with all."""
    return one.low > other.high if higher_is_better else one.high < other.low


def _wins(winner: str, each: MethodComparison, higher_is_better: bool) -> bool:
    if winner not in (each.first, each.second):
        return True
    above = each.difference.low > 0
    below = each.difference.high < 0
    return above if higher_is_better == (each.first == winner) else below


_HALF = 0.5**0.5  # the correlation of two maps that have half of their variance in common


def sanity_checks(question: MetricScores, means: Means, confidence: float) -> Iterable[SanityCheck]:
    """A check for each contestant of a metric that knows what unrelated maps get.

    A method fails where its mean, or the negative of it, is above the middle of 1, unchanged, and the mean floor: its
    maps are nearer to unchanged, or to their own negatives, than to unrelated. It fails in any case where the maps have
    more than half of their variance in common: a method that reads nothing of what changes has a floor as high.
    """
    found = estimates(means.drawn, means.defined, question.groups, confidence, question.present)
    for k in question.upright():
        floors = question.floors[k][means.defined[k]]
        floors = floors[~np.isnan(floors)]
        if len(floors):
            floor = float(floors.mean())
            limit = min((1 + floor) / 2, _HALF)
            yield SanityCheck(
                model=question.model,
                method=question.contestants[k].method,
                metric=question.metric,
                estimate=found[k],
                floor=floor,
                limit=limit,
                failed=abs(found[k].value) > limit,
            )


def method_flags(checks: Iterable[SanityCheck]) -> dict[tuple[str, str], tuple[str, ...]]:
    """What is shown beside a method in every table of a model, by model and method."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for check in checks:
        if check.failed:
            key = (check.model, check.method)
            found[key] = (*found.get(key, ()), f"fails {check.metric}")
    return found


def inverse_notes(question: MetricScores, means: Means, confidence: float) -> dict[str, str]:
    """Of methods whose negated maps are not worse, or even better, what to tell, by method."""
    places = {contestant: k for k, contestant in enumerate(question.contestants)}
    inverted = [each.method for each in question.contestants if each.inverted and role(each.method) == "method"]
    both = [method for method in inverted if Contestant(method, False) in places]
    if not both or question.higher_is_better is None:
        return {}
    upright, inverse = (np.array([places[Contestant(method, side)] for method in both]) for side in (False, True))
    over = means.shared(upright, inverse)
    found = estimates(means.difference(upright, inverse, over), over, question.groups, confidence)
    notes = {}
    for method, estimate in zip(both, found, strict=True):
        low, high = sorted((estimate.low * question.direction, estimate.high * question.direction))
        if high < 0:
            notes[method] = "worse than its inverse"
        elif low <= 0:
            notes[method] = "no better than its inverse"
    return notes
