"""Paired comparisons of methods, the best method of a metric, and sanity checks of methods."""

import itertools
from collections.abc import Collection, Iterable, Mapping

import numpy as np
from jaxtyping import Float64
from scipy.stats import wilcoxon

from attribkit.benchmark._statistics.means import Means, make_estimates
from attribkit.benchmark._statistics.reading import MapVariant, MetricScores, group_means
from attribkit.benchmark._statistics.summary import Estimate, MethodComparison, SanityCheck, role

MIN_PAIRS = 6  # the smallest p of five pairs is 1/16, which is never significant
_MAX_EXACT = 50  # pairs; for more the normal approximation is as good
_MAX_CORRELATION = 0.5**0.5  # correlation of two maps that share half of their variance


def compare_methods(scores: MetricScores, means: Means, confidence: float) -> tuple[MethodComparison, ...]:
    """Compare all pairs with at least one method, without inverted maps and the ground truth."""
    roles = [role(variant.method) for variant in scores.variants]
    chosen = [k for k in scores.not_inverted() if roles[k] != "truth"]
    pairs = [(i, j) for i, j in itertools.combinations(chosen, 2) if "method" in (roles[i], roles[j])]
    if not pairs:
        return ()
    first, second = np.array(pairs).T
    over = means.jointly_defined(first, second)
    differences = make_estimates(means.difference(first, second, over), over, scores.groups, confidence)
    gaps = group_means(np.where(over, scores.values[first] - scores.values[second], np.nan), scores.groups)
    p_values = np.array([signed_rank(gap[~np.isnan(gap)]) for gap in gaps])
    better = np.sign(gaps) * (-1 if scores.higher_is_better is False else 1)
    counts = [(better == sign).sum(1).tolist() for sign in (1, 0, -1)]
    return tuple(
        MethodComparison(
            model=scores.model,
            subset=scores.subset,
            metric=scores.metric,
            first=scores.variants[i].method,
            second=scores.variants[j].method,
            difference=estimate,
            wins=wins,
            ties=ties,
            losses=losses,
            p=float(p),
            p_holm=float(corrected),
        )
        for (i, j), estimate, wins, ties, losses, p, corrected in zip(
            pairs, differences, *counts, p_values, holm(p_values), strict=True
        )
    )


def signed_rank(differences: Float64[np.ndarray, " pairs"]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test (Biometrics Bulletin 1945); NaN for fewer than 6 pairs.

    Zeros are ranked and then dropped (Pratt, JASA 1959). The test is exact for up to 50 pairs without zeros and ties,
    otherwise it uses the normal approximation with the variance corrected for ties.
    """
    if len(differences) < MIN_PAIRS:
        return float("nan")
    if not differences.any():
        return 1.0
    sizes = np.abs(differences)
    exact = len(sizes) <= _MAX_EXACT and sizes.all() and len(np.unique(sizes)) == len(sizes)
    return float(wilcoxon(differences, zero_method="pratt", method="exact" if exact else "asymptotic").pvalue)


def holm(p: Float64[np.ndarray, " tests"]) -> Float64[np.ndarray, " tests"]:
    """Correct p-values for multiple tests (Holm, Scandinavian Journal of Statistics 1979); NaN is ignored."""
    corrected = np.full_like(p, np.nan)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def best_method(
    estimates: Mapping[str, Estimate],
    higher_is_better: bool | None,
    flagged: Collection[str],
    comparisons: Iterable[MethodComparison] = (),
) -> str | None:
    """Return the method whose interval is better than that of every other method and control, or None.

    Maps without a defined value are ignored. The result is None for fewer than two methods.

    Args:
        estimates: The estimate of each method and control.
        higher_is_better: Direction of the metric; the result is None if there is none.
        flagged: Methods that fail a sanity check; they are never the best.
        comparisons: Paired comparisons, over the images that both methods have, in which the method must win too.
            It must also have enough images for a significant test.
    """
    rivals = {name: each for name, each in estimates.items() if role(name) != "truth" and each.samples}
    methods = [name for name in rivals if role(name) == "method"]
    if higher_is_better is None or len(methods) < 2:
        return None
    choose = max if higher_is_better else min
    winner = choose(methods, key=lambda name: rivals[name].value)
    others = [each for name, each in rivals.items() if name != winner]
    separate = all(_is_ahead(rivals[winner], other, higher_is_better) for other in others)
    wins = all(_is_win(winner, each, higher_is_better) for each in comparisons if each.difference.samples)
    trusted = winner not in flagged and rivals[winner].groups >= MIN_PAIRS
    return winner if separate and wins and trusted else None


def _is_ahead(one: Estimate, other: Estimate, higher_is_better: bool) -> bool:
    """Return whether the intervals do not overlap; an interval that is not defined overlaps with all."""
    return one.low > other.high if higher_is_better else one.high < other.low


def _is_win(winner: str, comparison: MethodComparison, higher_is_better: bool) -> bool:
    if winner not in (comparison.first, comparison.second):
        return True
    above = comparison.difference.low > 0
    below = comparison.difference.high < 0
    return above if higher_is_better == (comparison.first == winner) else below


def sanity_checks(scores: MetricScores, means: Means, confidence: float) -> Iterable[SanityCheck]:
    """Yield a check for each variant that is not inverted, by a metric that reports the value of unrelated maps.

    A method fails where the absolute mean is above the midpoint of 1 (unchanged maps) and the mean floor: its maps are
    closer to unchanged maps, or to their negatives, than to unrelated maps. It also fails where the maps share more
    than half of their variance: the floor of a method that does not depend on what changes is as high as its mean.
    """
    estimates = make_estimates(means.statistics, means.defined, scores.groups, confidence, scores.present)
    for k in scores.not_inverted():
        floors = scores.floors[k][means.defined[k]]
        floors = floors[~np.isnan(floors)]
        if len(floors):
            floor = float(floors.mean())
            limit = min((1 + floor) / 2, _MAX_CORRELATION)
            yield SanityCheck(
                model=scores.model,
                method=scores.variants[k].method,
                metric=scores.metric,
                estimate=estimates[k],
                floor=floor,
                limit=limit,
                failed=abs(estimates[k].value) > limit,
            )


def method_flags(checks: Iterable[SanityCheck]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the failed checks of each model and method, which every table of the model shows."""
    flags: dict[tuple[str, str], tuple[str, ...]] = {}
    for check in checks:
        if check.failed:
            key = (check.model, check.method)
            flags[key] = (*flags.get(key, ()), f"fails {check.metric}")
    return flags


def inverse_notes(scores: MetricScores, means: Means, confidence: float) -> dict[str, str]:
    """Return a note for each method whose inverted maps do not score worse."""
    indices = {variant: k for k, variant in enumerate(scores.variants)}
    inverted = [each.method for each in scores.variants if each.inverted and role(each.method) == "method"]
    both = [method for method in inverted if MapVariant(method, False) in indices]
    if not both or scores.higher_is_better is None:
        return {}
    plain, inverse = (np.array([indices[MapVariant(method, side)] for method in both]) for side in (False, True))
    over = means.jointly_defined(plain, inverse)
    estimates = make_estimates(means.difference(plain, inverse, over), over, scores.groups, confidence)
    notes = {}
    for method, estimate in zip(both, estimates, strict=True):
        low, high = sorted((estimate.low * scores.direction, estimate.high * scores.direction))
        if high < 0:
            notes[method] = "worse than its inverse"
        elif low <= 0:
            notes[method] = "no better than its inverse"
    return notes
