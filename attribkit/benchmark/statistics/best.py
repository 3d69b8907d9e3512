"""Which number may be printed bold."""

from collections.abc import Collection, Iterable, Mapping

from attribkit.benchmark.statistics.comparisons import LEAST_PAIRS
from attribkit.benchmark.statistics.roles import role
from attribkit.benchmark.statistics.summary import Comparison, Estimate


def best(
    found: Mapping[str, Estimate],
    higher_is_better: bool | None,
    flagged: Collection[str],
    compared: Iterable[Comparison] = (),
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


def _wins(winner: str, each: Comparison, higher_is_better: bool) -> bool:
    if winner not in (each.first, each.second):
        return True
    above = each.difference.low > 0
    below = each.difference.high < 0
    return above if higher_is_better == (each.first == winner) else below
