"""[core/bounds] What `Annotated` says of a value beside its type: bounds of numbers, lengths, and rules of one's own.
[core/kinds] What a value may be, read from a type annotation: converted, or refused in words.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import UnionType
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin

import numpy as np
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen
from torch import Tensor, nn

from attribkit.core.errors import one_line

_LONG = 2**31  # from which on a power of two is written as one


@dataclass(frozen=True)
class Constraint:
    """A marker in an annotation: what a value must fulfil, and how a message says so, behind the type."""

    holds: Callable[[Any], bool]
    words: str  # as in "a whole number from 1, odd"


def constraints_of(markers: Iterable[Any]) -> tuple[Constraint, ...]:
    """The rules of the metadata of an annotation; markers that mean something else are passed over."""
    flat = [one for marker in markers for one in (marker if isinstance(marker, Interval | Len) else (marker,))]
    return tuple(rule for before, marker in zip([None, *flat], flat, strict=False) for rule in _rules(before, marker))


def _rules(before: Any, marker: Any) -> Iterator[Constraint]:
    if isinstance(marker, Constraint):
        yield Constraint(marker.holds, f", {marker.words}")
    elif isinstance(marker, Ge):
        yield Constraint(lambda value: value >= marker.ge, f" from {_number(marker.ge)}")
    elif isinstance(marker, Gt):
        yield Constraint(lambda value: value > marker.gt, f" above {_number(marker.gt)}")
    elif isinstance(marker, Le):
        word = "to" if isinstance(before, Ge) else "and up to" if isinstance(before, Gt) else "up to"
        yield Constraint(lambda value: value <= marker.le, f" {word} {_number(marker.le)}")
    elif isinstance(marker, Lt):
        word = "to below" if isinstance(before, Ge) else "and below" if isinstance(before, Gt) else "below"
        yield Constraint(lambda value: value < marker.lt, f" {word} {_number(marker.lt)}")
    elif isinstance(marker, MinLen) and marker.min_length:
        length = "that is not empty" if marker.min_length == 1 else f"of at least {marker.min_length}"
        yield Constraint(lambda value: len(value) >= marker.min_length, f" {length}")
    elif isinstance(marker, MaxLen):
        yield Constraint(lambda value: len(value) <= marker.max_length, f", of at most {marker.max_length}")


def _number(bound: Any) -> str:
    is_power = isinstance(bound, int) and bound >= _LONG and bound.bit_count() == 1
    return f"2**{bound.bit_length() - 1}" if is_power else str(bound)


Read = tuple[Any] | None  # the value as it is used, alone in a tuple; None where it is refused

_INT64 = range(-(2**63), 2**63)
_SHOWN = 80  # characters of a value in a message


class ValueType(ABC):
    """What a value may be."""

    words: str  # of what it may be, behind "must be"

    @abstractmethod
    def read(self, value: Any) -> Read:
        """The value, converted where that loses nothing; None where it may not be."""


@dataclass(frozen=True)
class _Plain(ValueType):
    """An int, float, bool or str, out of those of Python and of NumPy."""

    words: str
    convert: Callable[[Any], Read]

    def read(self, value: Any) -> Read:
        return self.convert(value)


@dataclass(frozen=True)
class _Instance(ValueType):
    """Anything of a class."""

    cls: Any
    words: str

    def read(self, value: Any) -> Read:
        return (value,) if isinstance(value, self.cls) else None


@dataclass(frozen=True)
class _Choice(ValueType):
    """One of several values, of its very type."""

    values: tuple[Any, ...]

    @property
    def words(self) -> str:  # type: ignore[override]
        return ("one of " if len(self.values) > 1 else "") + ", ".join(map(repr, self.values))

    def read(self, value: Any) -> Read:
        (value,) = _text(value) or (value,)
        return next(((each,) for each in self.values if type(each) is type(value) and each == value), None)


@dataclass(frozen=True)
class _Several(ValueType):
    """A tuple, or another sequence, of values that are each of a kind."""

    each: ValueType | None
    makes_tuple: bool
    is_filled: bool = False  # it has at least one

    @property
    def start(self) -> str:
        """What it is called, without what is in it."""
        return ("a tuple" if self.makes_tuple else "a sequence") + (" of one or more" if self.is_filled else "")

    @property
    def words(self) -> str:  # type: ignore[override]
        return f"{self.start}, each {self.each.words}" if self.each else self.start

    def read(self, value: Any) -> Read:
        if not isinstance(value, tuple | list if self.makes_tuple else Sequence) or isinstance(value, str):
            return None
        if self.is_filled and not len(value):
            return None
        read = [self.each.read(one) if self.each else (one,) for one in value]
        if any(one is None for one in read):
            return None
        return (tuple(one[0] for one in read if one),) if self.makes_tuple else (value,)


@dataclass(frozen=True)
class _Row(ValueType):
    """A tuple of a fixed length, each place of a kind of its own."""

    places: tuple[ValueType | None, ...]

    @property
    def words(self) -> str:  # type: ignore[override]
        return f"a tuple of {len(self.places)}: {', '.join(each.words if each else 'anything' for each in self.places)}"

    def read(self, value: Any) -> Read:
        if not isinstance(value, tuple | list) or len(value) != len(self.places):
            return None
        read = [place.read(one) if place else (one,) for place, one in zip(self.places, value, strict=True)]
        return None if any(one is None for one in read) else (tuple(one[0] for one in read if one),)


@dataclass(frozen=True)
class _Union(ValueType):
    """Any of several kinds; the first that needs no conversion, else the first that can be converted to."""

    kinds: tuple[ValueType, ...]

    @property
    def words(self) -> str:  # type: ignore[override]
        found: dict[str, None] = {}
        for kind in self.kinds:
            is_of_these = isinstance(kind, _Several) and kind.each and kind.each.words in (*found, _either(list(found)))
            found[f"{kind.start} of these" if is_of_these else kind.words] = None  # type: ignore[attr-defined]
        return _either(list(found))

    def read(self, value: Any) -> Read:
        found = [read for each in self.kinds if (read := each.read(value)) is not None]
        return next((read for read in found if read[0] is value), found[0] if found else None)


@dataclass(frozen=True)
class _Bounded(ValueType):
    """A kind, and what its values must fulfil."""

    kind: ValueType
    rules: tuple[Constraint, ...]

    @property
    def words(self) -> str:  # type: ignore[override]
        return self.kind.words + "".join(rule.words for rule in self.rules)

    def read(self, value: Any) -> Read:
        read = self.kind.read(value)
        fits = read is not None and (read[0] is None or all(rule.holds(read[0]) for rule in self.rules))
        return read if fits else None


def value_type(hint: Any) -> ValueType | None:
    """What an annotation allows; None where that is anything, or where the annotation is of no sort that is checked."""
    if isinstance(hint, type | None) and hint in _PLAIN:
        return _PLAIN[hint]
    if isinstance(hint, NewType):
        return value_type(hint.__supertype__)
    if hasattr(hint, "__value__"):  # what `type Name = ...` makes
        return value_type(hint.__value__)
    if isinstance(hint, TypeVar) or hint is Any or hint is object:
        return None
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _bounded(value_type(arguments[0]), hint.__metadata__)
    if origin is Literal:
        return _Choice(arguments)
    if origin in (Union, UnionType):
        return _union([value_type(each) for each in arguments])
    return _of_class(hint if origin is None else origin, arguments)


def describe(value: Any) -> str:
    """A value in a message, short and on one line."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    try:
        text = f"{type(value).__name__}(...)" if isinstance(value, nn.Module) else repr(value)
    except Exception:  # a repr of the user's, or a whole number of more digits than Python writes
        text = f"<{type(value).__name__}>"
    text = one_line(text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _of_class(cls: Any, arguments: tuple[Any, ...]) -> ValueType | None:
    if cls is tuple and len(arguments) > 0 and arguments[-1] is not Ellipsis:
        return _Row(tuple(map(value_type, arguments)))
    if cls in (tuple, Sequence):
        return _Several(value_type(arguments[0]) if arguments else None, makes_tuple=cls is tuple)
    if cls is Callable:
        return _Instance(Callable, "a function")
    try:
        isinstance(None, cls)
    except TypeError:
        return None
    name = getattr(cls, "__name__", str(cls))
    return _Instance(cls, "a tensor" if cls is Tensor else f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}")


def _union(kinds: list[ValueType | None]) -> ValueType | None:
    """Any of the kinds; names to choose from are told together, first."""
    named = [each for each in kinds if isinstance(each, _Choice) and each.values != (None,)]
    others = tuple(each for each in kinds if each is not None and each not in named)
    if None in kinds:
        return None
    return _Union((_Choice(tuple(value for each in named for value in each.values)), *others) if named else others)


def _either(words: list[str]) -> str:
    *first, last = words or [""]
    if any("," in each for each in first):
        return ", or ".join([*first, last])
    return f"{', '.join(first)} or {last}" if first else last


def _bounded(kind: ValueType | None, markers: tuple[Any, ...]) -> ValueType | None:
    if isinstance(kind, _Several) and markers == (MinLen(1),):
        return replace(kind, is_filled=True)
    rules = constraints_of(markers)
    return _Bounded(kind, rules) if kind is not None and rules else kind


def _whole(value: Any) -> Read:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or int(value) not in _INT64:
        return None
    return (value,) if type(value) is int else (int(value),)


def _real(value: Any) -> Read:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    try:
        is_finite = math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return None
    if not is_finite:
        return None
    if type(value) in (int, float):
        return (value,)
    return (int(value),) if isinstance(value, int | np.integer) else (float(value),)


def _truth(value: Any) -> Read:
    return (bool(value),) if isinstance(value, bool | np.bool_) else None


def _text(value: Any) -> Read:
    if not isinstance(value, str):
        return None
    return (value,) if type(value) is str else (str.__str__(value),)


_PLAIN: dict[Any, ValueType] = {
    int: _Plain("a whole number", _whole),
    float: _Plain("a number", _real),
    bool: _Plain("True or False", _truth),
    str: _Plain("a text", _text),
    type(None): _Choice((None,)),
    None: _Choice((None,)),
}
