"""Values nested in tuples, lists, mappings and dataclasses."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor

Path = tuple[int | str, ...]  # keys that lead to an entry of nested containers; () is the value itself

_MAX_DEPTH = 4  # maximum depth of the containers that are searched for tensors


def tensor_entries(output: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Yield every floating-point tensor of an output with its path, in order."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield path, output
    elif len(path) < _MAX_DEPTH:
        for key, value in _items(output):
            if isinstance(key, int | str):
                yield from tensor_entries(value, (*path, key))


def tensor_at(output: Any, path: Path) -> Tensor | None:
    """Return the floating-point tensor at a path; None if there is none."""
    for key in path:
        output = dict(_items(output)).get(key)
    return output if isinstance(output, Tensor) and output.is_floating_point() else None


def with_tensor_at(output: Any, path: Path, tensor: Tensor) -> Any:
    """Return a copy of the output with another tensor at a path."""
    if not path:
        return tensor
    items = dict(_items(output))
    return _rebuild(output, items | {path[0]: with_tensor_at(items[path[0]], path[1:], tensor)})


def map_leaves(value: Any, leaf: type | tuple[type, ...], change: Callable[[Any], Any]) -> Any:
    """Return the structure with a function applied to every leaf of the types in `leaf`; containers are copied."""
    if isinstance(value, leaf):
        return change(value)
    if not _is_container(value):
        return value
    return _rebuild(value, {key: map_leaves(item, leaf, change) for key, item in _items(value)})


def iterate_leaves(value: Any, leaf: type | tuple[type, ...], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of the types in `leaf` with its path in Python syntax, such as ``['a'][0].b``."""
    if isinstance(value, leaf):
        yield path, value
        return
    for key, item in _items(value):
        yield from iterate_leaves(item, leaf, f"{path}.{key}" if _is_dataclass(value) else f"{path}[{key!r}]")


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Yield every tensor among nested values, of any dtype."""
    return (tensor for _, tensor in iterate_leaves(values, Tensor))


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type | Mapping | tuple | list)


def _is_container(value: Any) -> bool:
    return isinstance(value, Mapping | tuple | list) or _is_dataclass(value)


def _items(value: Any) -> list[tuple[Any, Any]]:
    """Return the (key, value) pairs of a container, and an empty list for any other value."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if not _is_dataclass(value):
        return []
    fields = {
        field.name: getattr(value, field.name) for field in dataclasses.fields(value) if hasattr(value, field.name)
    }
    return list((fields | getattr(value, "__dict__", {})).items())


def _rebuild(value: Any, items: dict[Any, Any]) -> Any:
    """Return a container of the same type with other items; a dict instead of an immutable mapping."""
    if isinstance(value, tuple | list):
        return type(value)(*items.values()) if hasattr(value, "_fields") else type(value)(items.values())
    if isinstance(value, Mapping) and (type(value) is dict or not isinstance(value, MutableMapping)):
        return items
    result = copy.copy(value)
    for key, item in items.items():
        if isinstance(value, Mapping):
            result[key] = item
        else:
            object.__setattr__(result, key, item)  # not by replace(), which runs the constructor; works if frozen
    return result
