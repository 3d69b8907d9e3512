"""Scores between those of random maps, 0, and those of an oracle, 1."""

from dataclasses import replace

import numpy as np

from attribkit.benchmark.statistics.means import Means, estimates
from attribkit.benchmark.statistics.question import Contestant, Question
from attribkit.benchmark.statistics.resampling import combined
from attribkit.benchmark.statistics.roles import RANDOM, oracle_of, role
from attribkit.benchmark.statistics.summary import Estimate

_NAN = float("nan")


def normalised(
    question: Question, means: Means, confidence: float, oracle: str | None
) -> tuple[list[Estimate], str | None]:
    """(mean - random) / (oracle - random) of each contestant, and why the scale is not defined, if it is not.

    Each over the images on which all three are defined. Not defined where the interval of oracle - random does not
    lie on the better side of 0: there is nothing to be a share of; nor where a control lies above the oracle, which
    then is none of this metric. No numbers at all where there is no oracle.
    """
    best = oracle_of(question.kind, oracle)
    if best is None or question.higher_is_better is None:
        return [], None
    places = {contestant: k for k, contestant in enumerate(question.contestants)}
    lacking = [name for name in (RANDOM, best) if Contestant(name, False) not in places]
    if lacking:
        return [], f"not normalised: no rows of {' and '.join(map(repr, lacking))}"
    k = np.arange(len(places))
    random, top = (np.full_like(k, places[Contestant(name, False)]) for name in (RANDOM, best))
    over = means.shared(k, random, top)
    range_drawn = means.difference(top, random, over)
    ranges = estimates(range_drawn, over, question.groups, confidence)
    gains = combined(np.divide, means.difference(k, random, over), range_drawn)
    found = estimates(gains, over, question.groups, confidence)
    apart = [min(each.low * question.direction, each.high * question.direction) > 0 for each in ranges]
    above = [who.method for who, each in zip(question.contestants, found, strict=True) if _is_better(who, each.low)]
    kept = [
        estimate if there and not above else replace(estimate, value=_NAN, low=_NAN, high=_NAN, interval="none")
        for estimate, there in zip(found, apart, strict=True)
    ]
    if not apart[places[Contestant(best, False)]]:
        return kept, f"not normalised: {best!r} is not told to be better than {RANDOM!r}"
    return kept, f"not normalised: the control {above[0]!r} is better than the oracle {best!r}" if above else None


def _is_better(who: Contestant, low: float) -> bool:
    """Whether this is a control that lies above the oracle, whose own score is 1."""
    return role(who.method) == "control" and not who.inverted and low > 1
