"""Tensors inside tuples, lists, dicts and dataclasses."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any


def mapped(value: Any, leaf: type | tuple[type, ...], change: Callable[[Any], Any]) -> Any:
    """The same structure with every leaf of these types changed; all else stays as it is, copied where it holds one.

    leaf: classes, such as Tensor. Entries of tuples (named ones too), lists, mappings and dataclasses are visited.
    """
    if isinstance(value, leaf):
        return change(value)
    if isinstance(value, Mapping):
        return _filled(value, {key: mapped(each, leaf, change) for key, each in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(each, leaf, change) for each in value))
    if isinstance(value, list | tuple):
        return type(value)(mapped(each, leaf, change) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _replaced(value, {name: mapped(each, leaf, change) for name, each in vars(value).items()})
    return value


def leaves(value: Any, leaf: type | tuple[type, ...], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of these types, with its path as an index or attribute is written: ``['a'][0].b``."""
    if isinstance(value, leaf):
        yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from leaves(each, leaf, f"{path}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, each in enumerate(value):
            yield from leaves(each, leaf, f"{path}[{i}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for name, each in vars(value).items():
            yield from leaves(each, leaf, f"{path}.{name}")


def _filled(value: Mapping[Any, Any], entries: dict[Any, Any]) -> Any:
    """A mapping of the same type with these entries; a dict where the type takes none."""
    if type(value) is dict or not isinstance(value, MutableMapping):
        return entries
    other = copy.copy(value)
    for key, each in entries.items():
        other[key] = each
    return other


def _replaced(value: Any, fields: dict[str, Any]) -> Any:
    """A copy of a dataclass with these attributes, without running its constructor."""
    other = copy.copy(value)
    for name, each in fields.items():
        object.__setattr__(other, name, each)
    return other
