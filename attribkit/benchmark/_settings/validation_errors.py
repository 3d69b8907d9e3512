"""Errors in the settings of a benchmark, each with the path of its key, such as `models[0].name`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ValidationError

from attribkit._core.errors import AttribkitError, InvalidInput, UnknownName

KeyPath = tuple[str | int, ...]  # keys of tables, and indices into lists

_INPUT_SHOULD_BE = "Input should be "  # how most messages of pydantic begin


@contextmanager
def at_setting(*path: str | int) -> Iterator[None]:
    """Prepend the path of a key to each error that is raised inside, and raise it as an InvalidInput."""
    try:
        yield
    except AttribkitError as error:
        raise InvalidInput(f"{format_path(path)}: {error}") from error


def format_path(path: KeyPath) -> str:
    """Format the path of a key, such as `models[0].name`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".") or "configuration"


def validation_message(error: ValidationError, table: type[BaseModel], settings: Any) -> str:
    """Convert pydantic's errors in the settings of a table to a message, with a sentence on each line."""
    sentences: list[str] = []
    unfit: dict[KeyPath, list[Any]] = {}  # a value of a union has an error for each type
    for each in error.errors():
        path = each["loc"]
        if each["type"] == "extra_forbidden":
            unknown = UnknownName("setting", str(path[-1]), _setting_names(table, path[:-1]))
            sentences.append(f"{format_path(path)}: {unknown}")
        elif each["type"] == "missing":
            sentences.append(f"{format_path(path)}: This setting is required.")
        elif each["type"] == "value_error":
            sentences.append(f"{format_path(path)}: {each['ctx']['error']}")
        else:
            unfit.setdefault(_existing_path(path, settings), []).append(each)
    type_errors = (type_message(format_path(path), each[0]["input"], each) for path, each in unfit.items())
    return "\n".join([*sentences, *type_errors])


def type_message(name: str, value: Any, errors: Sequence[Any]) -> str:
    """Describe a value that does not have an accepted type, from pydantic's error for each of the types."""
    accepted = dict.fromkeys(_accepted(each) for each in errors)
    if None in accepted:
        return f"{name}: {errors[0]['msg']}, got {value!r}."
    return f"{name} must be {' or '.join(map(str, accepted))}, got {value!r}."


def _accepted(error: Any) -> str | None:
    """Return the accepted values; None if pydantic's message does not have the usual form."""
    names = {"model_type": "a table", "too_short": "a non-empty list"}
    message: str = error["msg"]
    usual = message.removeprefix(_INPUT_SHOULD_BE) if message.startswith(_INPUT_SHOULD_BE) else None
    return names.get(error["type"], usual)


def _existing_path(path: KeyPath, settings: Any) -> KeyPath:
    """Return the part of the path that exists in the settings; pydantic appends the types of a union that it tried."""
    for depth, key in enumerate(path):
        try:
            settings = settings[key]
        except (LookupError, TypeError):
            return path[:depth]
    return path


def _setting_names(table: Any, path: KeyPath) -> list[str]:
    """Return the settings of the table at a path below another table."""
    for key in path:
        annotation = table if isinstance(key, int) else table.model_fields[key].annotation
        table = annotation.__args__[0] if hasattr(annotation, "__args__") else annotation
    return list(table.model_fields)
