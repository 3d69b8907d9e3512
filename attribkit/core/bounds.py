"""What `Annotated` says of a value beside its type: bounds of numbers, lengths, and rules of one's own."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen

_LONG = 2**31  # from which on a power of two is written as one


@dataclass(frozen=True)
class Rule:
    """A marker in an annotation: what a value must fulfil, and how a message says so, behind the type."""

    holds: Callable[[Any], bool]
    words: str  # as in "a whole number from 1, odd"


def rules_of(markers: Iterable[Any]) -> tuple[Rule, ...]:
    """The rules of the metadata of an annotation; markers that mean something else are passed over."""
    flat = [one for marker in markers for one in (marker if isinstance(marker, Interval | Len) else (marker,))]
    return tuple(rule for before, marker in zip([None, *flat], flat, strict=False) for rule in _rules(before, marker))


def _rules(before: Any, marker: Any) -> Iterator[Rule]:
    if isinstance(marker, Rule):
        yield Rule(marker.holds, f", {marker.words}")
    elif isinstance(marker, Ge):
        yield Rule(lambda value: value >= marker.ge, f" from {_number(marker.ge)}")
    elif isinstance(marker, Gt):
        yield Rule(lambda value: value > marker.gt, f" above {_number(marker.gt)}")
    elif isinstance(marker, Le):
        word = "to" if isinstance(before, Ge) else "and up to" if isinstance(before, Gt) else "up to"
        yield Rule(lambda value: value <= marker.le, f" {word} {_number(marker.le)}")
    elif isinstance(marker, Lt):
        word = "to below" if isinstance(before, Ge) else "and below" if isinstance(before, Gt) else "below"
        yield Rule(lambda value: value < marker.lt, f" {word} {_number(marker.lt)}")
    elif isinstance(marker, MinLen) and marker.min_length:
        length = "that is not empty" if marker.min_length == 1 else f"of at least {marker.min_length}"
        yield Rule(lambda value: len(value) >= marker.min_length, f" {length}")
    elif isinstance(marker, MaxLen):
        yield Rule(lambda value: len(value) <= marker.max_length, f", of at most {marker.max_length}")


def _number(bound: Any) -> str:
    is_power = isinstance(bound, int) and bound >= _LONG and bound.bit_count() == 1
    return f"2**{bound.bit_length() - 1}" if is_power else str(bound)
