"""Records of methods and targets in saved attributions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from attribkit._contracts.method import Method
from attribkit._core.errors import InvalidInput, printable
from attribkit._targets.binary import Binary
from attribkit._targets.logits import ClassLogit, Contrast, Counterfactual, Probability
from attribkit._targets.target import NoTarget, Target

_CLASS_TARGETS: dict[str, type[Target]] = {
    cls.__name__: cls for cls in (ClassLogit, Probability, Contrast, Counterfactual, Binary, NoTarget)
}
_ABOUT_METHODS = ("display_name", "source", "options")
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Recorded:
    """The record of a method or target in a file, which can be captioned and compared but not run.

    Args:
        name: The name of the method, or the class of the target.
        text: The repr of the original.
        display_name: Name of the method in figures.
        source: Source of the method: authors, venue and year.
        options: Options of the method that differ from their defaults, such as ("steps=100",).
    """

    name: str
    text: str
    display_name: str = ""
    source: str = ""
    options: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return self.text


def target_record(target: Target | Recorded) -> dict[str, Any]:
    """Return a target as a dict that JSON can store."""
    record = {"name": getattr(target, "name", type(target).__name__), "repr": repr(target)}
    return record | {"fields": vars(target)} if type(target) in _CLASS_TARGETS.values() else record


def method_record(method: Method | Recorded) -> dict[str, Any]:
    """Return a method, with all that figures state about it, as a dict that JSON can store."""
    record = recorded(method)
    about = {name: getattr(record, name) for name in _ABOUT_METHODS}
    return {"name": record.name, "repr": record.text} | (about if any(about.values()) else {})


def recorded(method: Method | Recorded) -> Recorded:
    """Return the record of a method."""
    if isinstance(method, Recorded):
        return method
    name, text, title, source = map(printable, (method.name, repr(method), method.display_name, method.source))
    return Recorded(name, text, title, source, tuple(map(printable, _changed_options(method))))


def _changed_options(method: Method) -> Iterator[str]:
    """Yield the options that differ from their defaults."""
    for field in fields(method):  # type: ignore[arg-type]
        value, default = (repr(each) for each in (getattr(method, field.name), field.default))
        if value != default:
            yield f"{field.name}={value}"


def read_method(record: Any) -> Recorded:
    """Return the method of a record; raise InvalidInput if the record is malformed."""
    names = ("name", "repr", "display_name", "source")
    if not has_keys(record, *names, "options"):
        return _read_texts(record, "method")
    options = record["options"]
    if not isinstance(options, list | tuple) or not all(map(_is_text, (*options, *(record[name] for name in names)))):
        raise InvalidInput(f"the fields {', '.join(names)} of its method must be texts, and options a list of texts")
    name, text, title, source = (printable(record[name]) for name in names)
    return Recorded(name, text, title, source, tuple(map(printable, options)))


def read_target(record: Any) -> Target | Recorded:
    """Restore a class target from its record, or return the record; raise InvalidInput if it is malformed."""
    cls = (
        _CLASS_TARGETS.get(record["name"])
        if has_keys(record, "name", "repr", "fields") and _is_text(record["name"])
        else None
    )
    if cls is None:
        return _read_texts(record, "target")
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    if not has_keys(record["fields"], *names):
        raise InvalidInput(f"its target {record['name']} must have the fields {names}, got {sorted(record['fields'])}")
    for value in record["fields"].values():
        _check_classes(value)
    return cls(**record["fields"])


def has_keys(value: Any, *keys: str) -> bool:
    """Return whether a JSON value is an object with exactly these keys."""
    return isinstance(value, Mapping) and value.keys() == set(keys)


def _read_texts(record: Any, kind: str) -> Recorded:
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
