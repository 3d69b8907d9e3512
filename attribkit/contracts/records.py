"""Methods and targets as a file holds them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from attribkit.core.errors import InvalidInput, printable
from attribkit.targets.binary import Binary
from attribkit.targets.logits import ClassLogit, Contrast, Counterfactual, Probability
from attribkit.targets.target import NoTarget, Target

_CLASS_TARGETS: dict[str, type[Target]] = {
    cls.__name__: cls for cls in (ClassLogit, Probability, Contrast, Counterfactual, Binary, NoTarget)
}
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Recorded:
    """A method or a target as a file remembers it: enough to caption and to compare, not to run."""

    name: str
    text: str  # the repr of the original

    def __repr__(self) -> str:
        return self.text


def to_record(what: Any) -> dict[str, Any]:
    """A method or target as JSON can hold it."""
    told = {"name": getattr(what, "name", type(what).__name__), "repr": repr(what)}
    return told | {"fields": vars(what)} if type(what) in _CLASS_TARGETS.values() else told


def read_method(told: Any) -> Recorded:
    """A method out of its record; raises InvalidInput for what is none."""
    return _recorded(told, "method")


def read_target(told: Any) -> Target | Recorded:
    """A target out of its record: of classes the target itself, else the record; raises InvalidInput for neither."""
    cls = (
        _CLASS_TARGETS.get(told["name"])
        if has_keys(told, "name", "repr", "fields") and _is_text(told["name"])
        else None
    )
    if cls is None:
        return _recorded(told, "target")
    if not has_keys(told["fields"], *(field.name for field in fields(cls))):  # type: ignore[arg-type]
        raise InvalidInput(f"a {told['name']} has other fields than {sorted(told['fields'])}")
    for value in told["fields"].values():
        _check_classes(value)
    return cls(**told["fields"])


def has_keys(told: Any, *keys: str) -> bool:
    """Whether a value of JSON is an object of these keys and no others."""
    return isinstance(told, Mapping) and told.keys() == set(keys)


def _recorded(told: Any, what: str) -> Recorded:
    if not has_keys(told, "name", "repr") or not all(map(_is_text, told.values())):
        raise InvalidInput(f"its {what} is no object of a name and a repr")
    return Recorded(printable(told["name"]), printable(told["repr"]))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _check_classes(value: Any) -> None:
    """Refuse an index that no tensor can hold."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, int) and each not in _INT64:
            raise InvalidInput("the class index of its target has more than 64 bits")
