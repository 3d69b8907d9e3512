"""Values nested in tuples, lists, mappings and dataclasses."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor

Path = tuple[int | str, ...]  # the keys that lead to an entry; () is the value itself

_DEPTH = 4  # of the containers that are searched for what a module returned


def entries(output: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every floating-point tensor of an output, with the keys that lead to it, in order."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield path, output
    elif len(path) < _DEPTH:
        for key, value in _items(output):
            if isinstance(key, int | str):
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
    items = dict(_items(output))
    return _rebuilt(output, items | {path[0]: with_entry(items[path[0]], path[1:], tensor)})


def mapped(value: Any, leaf: type | tuple[type, ...], change: Callable[[Any], Any]) -> Any:
    """The same structure with every leaf of these types changed; all else stays as it is, copied where it holds one.

    leaf: classes, such as Tensor.
    """
    if isinstance(value, leaf):
        return change(value)
    if not _is_container(value):
        return value
    return _rebuilt(value, {key: mapped(each, leaf, change) for key, each in _items(value)})


def leaves(value: Any, leaf: type | tuple[type, ...], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of these types, with its path as an index or attribute is written: ``['a'][0].b``."""
    if isinstance(value, leaf):
        yield path, value
        return
    for key, each in _items(value):
        yield from leaves(each, leaf, f"{path}.{key}" if _is_dataclass(value) else f"{path}[{key!r}]")


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Every tensor among nested values, of any type."""
    return (tensor for _, tensor in leaves(values, Tensor))


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


def _rebuilt(value: Any, items: dict[Any, Any]) -> Any:
    """A container of the same type with these entries; a dict where a mapping cannot be filled."""
    if isinstance(value, tuple | list):
        return type(value)(*items.values()) if hasattr(value, "_fields") else type(value)(items.values())
    if isinstance(value, Mapping) and (type(value) is dict or not isinstance(value, MutableMapping)):
        return items
    other = copy.copy(value)
    for key, each in items.items():
        if isinstance(value, Mapping):
            other[key] = each
        else:
            object.__setattr__(other, key, each)  # without running the constructor, of a frozen one too
    return other
