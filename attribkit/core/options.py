"""Options of methods, metrics, visualizers and imputers, checked by their annotations when an instance is made."""

import sys
from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache, wraps
from types import SimpleNamespace
from typing import Annotated, Any, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen

from attribkit.core.annotations import ValueType, describe, value_type
from attribkit.core.errors import InvalidInput

T = TypeVar("T")

PositiveInt = Annotated[int, Ge(1)]  # how many
NonNegativeInt = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Lt(2**63)]  # as torch and numpy both take it
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
FractionBelowOne = Annotated[float, Ge(0), Lt(1)]
FractionAboveZero = Annotated[float, Gt(0), Le(1)]
OpenFraction = Annotated[float, Gt(0), Lt(1)]  # neither none nor all
Name = Annotated[str, MinLen(1)]
OneOrMore = Annotated[tuple[T, ...], MinLen(1)]


class Options:
    """Base of frozen dataclasses whose fields are options; a value that its annotation does not allow is refused.

    An annotation is a type, a Literal, a tuple or sequence, or a union of such; ``Annotated[int, Ge(1)]`` bounds it, by
    the markers of annotated-types. Whole numbers stand for floats, lists for tuples and NumPy's scalars for Python's,
    and are converted; a bool is no number, and a number is finite. The check comes before a ``__post_init__`` of the
    subclass, which need not call that of its base. An annotation that cannot be read is not checked.
    """

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        own = vars(cls).get("__post_init__")
        if own is not None and not hasattr(own, "checks_options"):
            cls.__post_init__ = _checking(own)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        if type(self).__post_init__ is Options.__post_init__:
            _check(self)


def _checking(own: Callable[..., None]) -> Callable[..., None]:
    """A `__post_init__` behind the check; where a subclass calls that of its base, the check is not repeated."""

    @wraps(own)
    def check_first(self: Any, *arguments: Any) -> None:
        if type(self).__post_init__ is check_first:
            _check(self)
        own(self, *arguments)

    check_first.checks_options = True  # type: ignore[attr-defined]
    return check_first


def _check(options: Any) -> None:
    """Refuse the first option that its annotation does not allow; write what was converted."""
    for name, kind in _kinds(type(options)).items():  # type: ignore[arg-type]
        value = getattr(options, name)
        read = kind.read(value)
        if read is None:
            owner = getattr(options, "name", type(options).__name__)
            raise InvalidInput(f"{name}={describe(value)} must be {kind.words} (an option of {owner!r}).")
        if read[0] is not value:
            object.__setattr__(options, name, read[0])


@lru_cache(maxsize=512)
def _kinds(cls: type) -> dict[str, ValueType]:
    """What each option may be, but for those that may be anything."""
    hints = _hints(cls)
    kinds = {each.name: value_type(hints[each.name]) for each in fields(cls) if each.name in hints}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls, include_extras=True)
    except Exception:  # of a plugin, with types that it imports for type checkers alone: each by itself
        return {name: hint for base in reversed(cls.__mro__) for name, hint in _readable(base)}


def _readable(cls: type) -> list[tuple[str, Any]]:
    found = []
    for name, hint in vars(cls).get("__annotations__", {}).items():
        around = vars(sys.modules.get(cls.__module__, SimpleNamespace()))
        try:
            one = get_type_hints(SimpleNamespace(__annotations__={name: hint}), around, dict(vars(cls)), True)
        except Exception:
            continue
        found += list(one.items())
    return found
