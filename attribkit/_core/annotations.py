"""Type annotations as checks of values: types, literals, sequences, unions and the bounds of annotated-types."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import UnionType
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin

import numpy as np
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen
from torch import Tensor, nn

from attribkit._core.errors import one_line

Converted = tuple[Any] | None  # the accepted value in a tuple of one; None rejects the value

_INT64 = range(-(2**63), 2**63)
_MAX_LENGTH = 80  # characters of a value in a message
_POWERS_FROM = 2**31  # powers of two from here on are written as powers


@dataclass(frozen=True)
class Constraint:
    """A constraint on values, for use as metadata of ``Annotated``.

    Args:
        is_satisfied: Returns whether a converted value satisfies the constraint.
        description: What the constraint requires, appended to the type in messages: "odd" gives "an integer, odd".
    """

    is_satisfied: Callable[[Any], bool]
    description: str


class ValueType(ABC):
    """The values that an annotation allows."""

    description: str  # follows "must be" in messages

    @abstractmethod
    def convert(self, value: Any) -> Converted:
        """Return the value, converted if that is lossless, in a tuple of one; None if it is not allowed."""


def value_type(hint: Any) -> ValueType | None:
    """Return the values that an annotation allows; None if it allows any, or is of a kind that is not checked."""
    if isinstance(hint, type | None) and hint in _SCALARS:
        return _SCALARS[hint]
    if isinstance(hint, NewType):
        return value_type(hint.__supertype__)
    if hasattr(hint, "__value__"):  # an alias made by `type Name = ...`
        return value_type(hint.__value__)
    if isinstance(hint, TypeVar) or hint is Any or hint is object:
        return None
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _constrained(value_type(arguments[0]), hint.__metadata__)
    if origin is Literal:
        return _Choice(arguments)
    if origin in (Union, UnionType):
        return _union([value_type(member) for member in arguments])
    return _of_class(hint if origin is None else origin, arguments)


def constraints_of(metadata: Iterable[Any]) -> tuple[Constraint, ...]:
    """Return the constraints among the metadata of an annotation; other metadata is ignored."""
    flat = [item for entry in metadata for item in (entry if isinstance(entry, Interval | Len) else (entry,))]
    pairs = zip([None, *flat], flat, strict=False)
    return tuple(constraint for previous, marker in pairs for constraint in _constraints(previous, marker))


def describe(value: Any) -> str:
    """Format a value for a message: short, on one line."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    try:
        text = f"{type(value).__name__}(...)" if isinstance(value, nn.Module) else repr(value)
    except Exception:  # a user's __repr__, or an integer with more digits than Python converts
        text = f"<{type(value).__name__}>"
    text = one_line(text)
    return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 3]}..."


def describe_plugin(plugin: Any) -> str:
    """Format a method, metric or visualizer for a message: its registered name and its options."""
    return f"{plugin.name!r}, {describe(plugin)}," if getattr(plugin, "name", None) else describe(plugin)


@dataclass(frozen=True)
class _Scalar(ValueType):
    """An int, float, bool or str of Python or NumPy."""

    description: str
    converter: Callable[[Any], Converted]

    def convert(self, value: Any) -> Converted:
        return self.converter(value)


@dataclass(frozen=True)
class _Instance(ValueType):
    """An instance of a class."""

    cls: Any
    description: str

    def convert(self, value: Any) -> Converted:
        return (value,) if isinstance(value, self.cls) else None


@dataclass(frozen=True)
class _Choice(ValueType):
    """One of a set of literals; the type must match exactly."""

    values: tuple[Any, ...]

    @property
    def description(self) -> str:  # type: ignore[override]
        return ("one of " if len(self.values) > 1 else "") + ", ".join(map(repr, self.values))

    def convert(self, value: Any) -> Converted:
        (value,) = _to_str(value) or (value,)
        matches = ((option,) for option in self.values if type(option) is type(value) and option == value)
        return next(matches, None)


@dataclass(frozen=True)
class _Sequence(ValueType):
    """A tuple, or another sequence, whose items have one type."""

    item: ValueType | None
    makes_tuple: bool
    is_nonempty: bool = False

    @property
    def container(self) -> str:
        """The description without that of the items."""
        return f"a {'non-empty ' * self.is_nonempty}{'tuple' if self.makes_tuple else 'sequence'}"

    @property
    def description(self) -> str:  # type: ignore[override]
        return f"{self.container} (each item: {self.item.description})" if self.item else self.container

    def convert(self, value: Any) -> Converted:
        if not isinstance(value, tuple | list if self.makes_tuple else Sequence) or isinstance(value, str):
            return None
        if self.is_nonempty and not len(value):
            return None
        items = [self.item.convert(item) if self.item else (item,) for item in value]
        if any(item is None for item in items):
            return None
        return (tuple(item[0] for item in items if item),) if self.makes_tuple else (value,)


@dataclass(frozen=True)
class _FixedTuple(ValueType):
    """A tuple of a fixed length with one type for each item."""

    items: tuple[ValueType | None, ...]

    @property
    def description(self) -> str:  # type: ignore[override]
        items = ", ".join(item.description if item else "any value" for item in self.items)
        return f"a tuple of {len(self.items)} items ({items})"

    def convert(self, value: Any) -> Converted:
        if not isinstance(value, tuple | list) or len(value) != len(self.items):
            return None
        items = [kind.convert(item) if kind else (item,) for kind, item in zip(self.items, value, strict=True)]
        return None if any(item is None for item in items) else (tuple(item[0] for item in items if item),)


@dataclass(frozen=True)
class _Union(ValueType):
    """A union of types; prefers the first member that needs no conversion."""

    members: tuple[ValueType, ...]

    @property
    def description(self) -> str:  # type: ignore[override]
        parts: dict[str, None] = {}
        for member in self.members:
            is_of_previous = (
                isinstance(member, _Sequence)
                and member.item
                and member.item.description in (*parts, _join_alternatives(list(parts)))
            )
            part = f"{member.container} of these" if is_of_previous else member.description  # type: ignore[attr-defined]
            parts[part] = None
        return _join_alternatives(list(parts))

    def convert(self, value: Any) -> Converted:
        results = [result for member in self.members if (result := member.convert(value)) is not None]
        return next((result for result in results if result[0] is value), results[0] if results else None)


@dataclass(frozen=True)
class _Constrained(ValueType):
    """A type with constraints; None, where the type allows it, satisfies all of them."""

    base: ValueType
    constraints: tuple[Constraint, ...]

    @property
    def description(self) -> str:  # type: ignore[override]
        limits = "".join(constraint.description for constraint in self.constraints)
        separator = "," if isinstance(self.base, _Union) and not limits.startswith(",") else ""
        return f"{self.base.description}{separator}{limits}"

    def convert(self, value: Any) -> Converted:
        result = self.base.convert(value)
        if result is None or result[0] is None:
            return result
        return result if all(constraint.is_satisfied(result[0]) for constraint in self.constraints) else None


def _of_class(cls: Any, arguments: tuple[Any, ...]) -> ValueType | None:
    if cls is tuple and len(arguments) > 0 and arguments[-1] is not Ellipsis:
        return _FixedTuple(tuple(map(value_type, arguments)))
    if cls in (tuple, Sequence):
        return _Sequence(value_type(arguments[0]) if arguments else None, makes_tuple=cls is tuple)
    if cls is Callable:
        return _Instance(Callable, "a function")
    try:
        isinstance(None, cls)
    except TypeError:
        return None
    name = getattr(cls, "__name__", str(cls))
    return _Instance(cls, "a tensor" if cls is Tensor else f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}")


def _union(members: list[ValueType | None]) -> ValueType | None:
    """Return the union of types; its literals are merged and come first."""
    if None in members:
        return None
    choices = [member for member in members if isinstance(member, _Choice) and member.values != (None,)]
    others = tuple(member for member in members if member is not None and member not in choices)
    if not choices:
        return _Union(others)
    return _Union((_Choice(tuple(value for choice in choices for value in choice.values)), *others))


def _constrained(base: ValueType | None, metadata: tuple[Any, ...]) -> ValueType | None:
    if isinstance(base, _Sequence) and metadata == (MinLen(1),):
        return replace(base, is_nonempty=True)
    constraints = constraints_of(metadata)
    return _Constrained(base, constraints) if base is not None and constraints else base


def _constraints(previous: Any, marker: Any) -> Iterator[Constraint]:
    """Yield the constraint of a marker, described as a suffix of the type; `previous` is the marker before it."""
    joint = " and" if isinstance(previous, Ge | Gt) else ""
    if isinstance(marker, Constraint):
        yield Constraint(marker.is_satisfied, f", {marker.description}")
    elif isinstance(marker, Ge):
        yield Constraint(lambda value: value >= marker.ge, f" >= {_format_bound(marker.ge)}")
    elif isinstance(marker, Gt):
        yield Constraint(lambda value: value > marker.gt, f" > {_format_bound(marker.gt)}")
    elif isinstance(marker, Le):
        yield Constraint(lambda value: value <= marker.le, f"{joint} <= {_format_bound(marker.le)}")
    elif isinstance(marker, Lt):
        yield Constraint(lambda value: value < marker.lt, f"{joint} < {_format_bound(marker.lt)}")
    elif isinstance(marker, MinLen) and marker.min_length:
        length = "that is not empty" if marker.min_length == 1 else f"of length >= {marker.min_length}"
        yield Constraint(lambda value: len(value) >= marker.min_length, f" {length}")
    elif isinstance(marker, MaxLen):
        yield Constraint(lambda value: len(value) <= marker.max_length, f", of length <= {marker.max_length}")


def _format_bound(bound: Any) -> str:
    is_power = isinstance(bound, int) and bound >= _POWERS_FROM and bound.bit_count() == 1
    return f"2**{bound.bit_length() - 1}" if is_power else str(bound)


def _join_alternatives(parts: list[str]) -> str:
    *first, last = parts or [""]
    if any("," in part for part in first):
        return ", or ".join([*first, last])
    return f"{', '.join(first)} or {last}" if first else last


def _to_int(value: Any) -> Converted:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or int(value) not in _INT64:
        return None
    return (value,) if type(value) is int else (int(value),)


def _to_float(value: Any) -> Converted:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    try:
        is_finite = math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return None
    if not is_finite:
        return None
    if type(value) in (int, float):
        return (value,)
    return (int(value),) if isinstance(value, int | np.integer) else (float(value),)


def _to_bool(value: Any) -> Converted:
    return (bool(value),) if isinstance(value, bool | np.bool_) else None


def _to_str(value: Any) -> Converted:
    if not isinstance(value, str):
        return None
    return (value,) if type(value) is str else (str.__str__(value),)


_SCALARS: dict[Any, ValueType] = {
    int: _Scalar("an integer", _to_int),
    float: _Scalar("a finite number", _to_float),
    bool: _Scalar("True or False", _to_bool),
    str: _Scalar("a string", _to_str),
    type(None): _Choice((None,)),
    None: _Choice((None,)),
}
