"""The tensors nested in what a module returns: in tuples, lists, mappings and dataclasses."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

Path = tuple[int | str, ...]  # the keys that lead to an entry; () is the output itself

_DEPTH = 4  # of the containers that are searched


def entries(output: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every floating-point tensor of an output, with the keys that lead to it, in order."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield path, output
    elif len(path) < _DEPTH:
        for key, value in _items(output):
            yield from entries(value, (*path, key))


def entry(output: Any, path: Path) -> Tensor | None:
    """The floating-point tensor at these keys; None where there is none."""
    for key in path:
        output = dict(_items(output)).get(key)
    return output if isinstance(output, Tensor) and output.is_floating_point() else None


def with_entry(output: Any, path: Path, tensor: Tensor) -> Any:
    """The output with the tensor at these keys exchanged; the containers are copied."""
    if not path:
        return tensor
    key, rest = path[0], path[1:]
    changed = with_entry(dict(_items(output))[key], rest, tensor)
    if isinstance(output, Mapping):
        copied: Any = copy.copy(output)
        copied[key] = changed
        return copied
    if isinstance(output, tuple | list):
        values = [changed if i == key else value for i, value in enumerate(output)]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)
    copied = copy.copy(output)
    object.__setattr__(copied, str(key), changed)
    return copied


def _items(output: Any) -> list[tuple[int | str, Any]]:
    """The entries of a container by their keys; of what is no container, none."""
    if isinstance(output, Mapping):
        return [(key, value) for key, value in output.items() if isinstance(key, str | int)]
    if isinstance(output, tuple | list):
        return list(enumerate(output))
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [(field.name, getattr(output, field.name)) for field in dataclasses.fields(output)]
    return []


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Every tensor among nested values, of any type."""
    if isinstance(values, Tensor):
        yield values
    else:
        for _, value in _items(values):
            yield from tensors_in(value)
