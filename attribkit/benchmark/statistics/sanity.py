"""Whether methods are fit to be compared at all."""

from collections.abc import Iterable

import numpy as np

from attribkit.benchmark.statistics.means import Means, estimates
from attribkit.benchmark.statistics.question import Contestant, Question
from attribkit.benchmark.statistics.roles import role
from attribkit.benchmark.statistics.summary import SanityCheck

_HALF = 0.5**0.5  # the correlation of two maps that have half of their variance in common


def sanity_checks(question: Question, means: Means, confidence: float) -> Iterable[SanityCheck]:
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


def flags(checks: Iterable[SanityCheck]) -> dict[tuple[str, str], tuple[str, ...]]:
    """What is shown beside a method in every table of a model, by model and method."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for check in checks:
        if check.failed:
            key = (check.model, check.method)
            found[key] = (*found.get(key, ()), f"fails {check.metric}")
    return found


def inverse_notes(question: Question, means: Means, confidence: float) -> dict[str, str]:
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
