"""Records of methods and targets in saved attributions."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from attribkit._core.errors import InvalidInput, printable
from attribkit._targets.binary import Binary
from attribkit._targets.logits import ClassLogit, Contrast, Counterfactual, Probability
from attribkit._targets.target import NoTarget, Target

_CLASS_TARGETS: dict[str, type[Target]] = {
    cls.__name__: cls for cls in (ClassLogit, Probability, Contrast, Counterfactual, Binary, NoTarget)
}
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Recorded:
    """The record of a method or target in a file, which can be captioned and compared but not run.

    Args:
        name: The name of the method, or the class of the target.
        text: The repr of the original.
    """

    name: str
    text: str

    def __repr__(self) -> str:
        return self.text


def to_record(what: Any) -> dict[str, Any]:
    """Return a method or target as a dict that JSON can store."""
    record = {"name": getattr(what, "name", type(what).__name__), "repr": repr(what)}
    return record | {"fields": vars(what)} if type(what) in _CLASS_TARGETS.values() else record


def read_method(record: Any) -> Recorded:
    """Return the method of a record; raise InvalidInput if the record is malformed."""
    return _read_name_and_repr(record, "method")


def read_target(record: Any) -> Target | Recorded:
    """Restore a class target from its record, or return the record; raise InvalidInput if it is malformed."""
    cls = (
        _CLASS_TARGETS.get(record["name"])
        if has_keys(record, "name", "repr", "fields") and _is_text(record["name"])
        else None
    )
    if cls is None:
        return _read_name_and_repr(record, "target")
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    if not has_keys(record["fields"], *names):
        raise InvalidInput(f"its target {record['name']} must have the fields {names}, got {sorted(record['fields'])}")
    for value in record["fields"].values():
        _check_classes(value)
    return cls(**record["fields"])


def has_keys(value: Any, *keys: str) -> bool:
    """Return whether a JSON value is an object with exactly these keys."""
    return isinstance(value, Mapping) and value.keys() == set(keys)


def _read_name_and_repr(record: Any, kind: str) -> Recorded:
    if not has_keys(record, "name", "repr") or not all(map(_is_text, record.values())):
        raise InvalidInput(f"its {kind} must be an object with a name and a repr")
    return Recorded(printable(record["name"]), printable(record["repr"]))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _check_classes(value: Any) -> None:
    """Raise InvalidInput for a class index that does not fit into 64 bits."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, int) and each not in _INT64:
            raise InvalidInput("the class index of its target must fit into 64 bits")
