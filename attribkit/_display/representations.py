"""Short representations of objects, for consoles and notebooks."""

import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor, nn

_LIMIT = 999  # characters of a representation
_VALUE_LIMIT = 300  # characters of one value
_FIRST = 3  # values of a long sequence that are listed


def shape_of(tensor: Tensor | np.ndarray) -> str:
    """Return the type and the shape of a tensor, as in "<Tensor (4, 3, 224, 224)>"."""
    return f"<{type(tensor).__name__} {tuple(tensor.shape)}>"


def short_repr(record: Any, describe: Callable[[Any], str] = shape_of) -> str:
    """Return the repr of a dataclass: long sequences by their first values, their length and a checksum.

    Use it as ``__repr__ = short_repr``.

    Args:
        record: The object.
        describe: Describes tensors and arrays.
    """
    if not is_dataclass(record):
        return object.__repr__(record)
    shown = [field for field in fields(record) if field.repr]
    return _with_fields(record, {field.name: short_value(getattr(record, field.name), describe) for field in shown})


def repr_of_changes(record: Any) -> str:
    """Return the same as `short_repr`, without the fields of a dataclass that have their default."""
    values = {field: getattr(record, field.name) for field in fields(record)}
    changed = {field.name: value for field, value in values.items() if value != field.default}
    return _with_fields(record, {name: short_value(value) for name, value in changed.items()})


def repr_with_notes(text: str, notes: Iterable[str]) -> str:
    """Return text, followed by a line for each note as far as they fit."""
    lines = [clip(text, _LIMIT // 2)]
    for number, note in enumerate(notes := list(notes)):
        line, more = f"  {clip(note, _VALUE_LIMIT)}", f"  ... and {len(notes) - number} more in .notes"
        if len("\n".join((*lines, line, more))) > _LIMIT:
            return "\n".join((*lines, more))
        lines.append(line)
    return "\n".join(lines)


def short_value(value: Any, describe: Callable[[Any], str] = shape_of) -> str:
    """Return the repr of a value, abbreviated if it is long; `describe` is as for `short_repr`."""
    if isinstance(value, Tensor | np.ndarray):
        return describe(value)
    if isinstance(value, nn.Module):
        return f"{type(value).__name__}(...)"
    if isinstance(value, Mapping) and len(value) <= _FIRST:
        items = ", ".join(f"{key!r}: {short_value(each, describe)}" for key, each in value.items())
        return clip(f"{{{items}}}", _VALUE_LIMIT)
    text = repr(value)
    if len(text) > _VALUE_LIMIT and isinstance(value, Collection) and not isinstance(value, str | bytes):
        first = ", ".join(clip(repr(each), _VALUE_LIMIT // _FIRST) for each in islice(value, _FIRST))
        return f"<{first}, ... {len(value)} values, crc32={zlib.crc32(text.encode()):08x}>"
    return clip(text, _VALUE_LIMIT)


def clip(text: str, limit: int) -> str:
    """Return text of at most this number of characters; "..." replaces the rest."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _with_fields(record: Any, values: Mapping[str, str]) -> str:
    shown = ", ".join(f"{name}={value}" for name, value in values.items())
    return clip(f"{type(record).__name__}({shown})", _LIMIT)
