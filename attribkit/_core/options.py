"""Options of methods, metrics, visualizers and imputers, validated against their annotations at construction."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import lru_cache, wraps
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen

from attribkit._core.annotations import ValueType, describe, value_type
from attribkit._core.errors import InvalidInput

T = TypeVar("T")

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Lt(2**63)]  # the seeds that torch and NumPy both accept
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
FractionBelowOne = Annotated[float, Ge(0), Lt(1)]
FractionAboveZero = Annotated[float, Gt(0), Le(1)]
OpenFraction = Annotated[float, Gt(0), Lt(1)]
Name = Annotated[str, MinLen(1)]
OneOrMore = Annotated[tuple[T, ...], MinLen(1)]


class Options:
    """Base class for frozen dataclasses whose fields are options, validated against their annotations.

    An annotation is a type, a ``Literal``, a tuple or sequence, or a union of these. ``Annotated[int, Ge(1)]`` adds
    bounds, with the markers of annotated-types. Integers are accepted as floats, lists as tuples, and NumPy scalars as
    Python scalars; lists and NumPy scalars are converted. A bool is not accepted as a number, and numbers must be
    finite. Validation runs before the ``__post_init__`` of a subclass, which does not need to call that of its base. An
    annotation that cannot be evaluated is not checked.

    Attributes:
        expected_failures: Names of checks of `attribkit.testing` that the class fails by design, with the reasons. A
            check that is listed must fail.
        check_options: Options with which `attribkit check` makes the instance that it checks, such as fewer samples.

    Raises:
        InvalidInput: An option has a value that its annotation does not allow.
    """

    expected_failures: ClassVar[Mapping[str, str]] = {}
    check_options: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        post_init = vars(cls).get("__post_init__")
        if post_init is not None and not hasattr(post_init, "validates_options"):
            cls.__post_init__ = _validating(post_init)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        if type(self).__post_init__ is Options.__post_init__:
            _validate(self)


def _validating(post_init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a `__post_init__` to validate the options first, only once if a subclass calls its base class."""

    @wraps(post_init)
    def validate_first(self: Any, *arguments: Any) -> None:
        if type(self).__post_init__ is validate_first:
            _validate(self)
        post_init(self, *arguments)

    validate_first.validates_options = True  # type: ignore[attr-defined]
    return validate_first


def _validate(options: Any) -> None:
    """Raise on the first option that its annotation does not allow; store converted values."""
    for name, allowed in _value_types(type(options)).items():  # type: ignore[arg-type]
        value = getattr(options, name)
        converted = allowed.convert(value)
        if converted is None:
            owner = getattr(options, "name", type(options).__name__)
            raise InvalidInput(f"{name} must be {allowed.description}, got {describe(value)} (an option of {owner!r}).")
        if converted[0] is not value:
            object.__setattr__(options, name, converted[0])


@lru_cache(maxsize=512)
def _value_types(cls: type) -> dict[str, ValueType]:
    """Return the allowed values of each option whose annotation can be checked."""
    hints = _type_hints(cls)
    types = {option.name: value_type(hints[option.name]) for option in fields(cls) if option.name in hints}
    return {name: allowed for name, allowed in types.items() if allowed is not None}


def _type_hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls, include_extras=True)
    except Exception:  # a plugin may import types under TYPE_CHECKING only: evaluate each annotation separately
        return {name: hint for base in reversed(cls.__mro__) for name, hint in _evaluable_hints(base)}


def _evaluable_hints(cls: type) -> list[tuple[str, Any]]:
    hints = []
    for name, annotation in vars(cls).get("__annotations__", {}).items():
        module = vars(sys.modules.get(cls.__module__, SimpleNamespace()))
        try:
            hint = get_type_hints(SimpleNamespace(__annotations__={name: annotation}), module, dict(vars(cls)), True)
        except Exception:
            continue
        hints += list(hint.items())
    return hints
