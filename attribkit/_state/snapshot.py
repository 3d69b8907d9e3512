"""Snapshots of a model: one that restores its state, and one that detects changes."""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

_MAPPINGS = (dict, OrderedDict)  # a module keeps its parameters, buffers, submodules and hooks in these
_CONTAINERS = (*_MAPPINGS, list, set)


class Snapshot:
    """The attributes of every module of a model, one level deep, gradients of parameters and values of buffers.

    `restore` may be repeated: an exception during a call leaves every module with all of its attributes, old or new,
    and a second call completes it. A snapshot is taken at every call, so it must be fast: an empty container costs only
    a reference, and only changes are restored.

    Limitations: values of parameters that are written through ``.data`` are not restored.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = [(vars(module), vars(module).copy()) for module in model.modules()]
        containers = [
            value for attributes, _ in self.modules for value in attributes.values() if type(value) in _CONTAINERS
        ]
        self.empty = [container for container in containers if not container]
        self.filled = [(container, container.copy()) for container in containers if container]
        self.parameters = [(p, p.requires_grad, p.grad) for p in self._tensors("_parameters")]
        self.buffers = [SavedBuffers(buffers) for buffers in _group_by_type(self._tensors("_buffers"))]

    def freeze(self) -> None:
        """Set evaluation mode and disable gradients of parameters."""
        for attributes, _ in self.modules:
            attributes["training"] = False  # not by eval(), which a model may override
        for parameter, requires_grad, _ in self.parameters:
            if requires_grad:
                parameter.requires_grad_(False)

    def restore(self) -> None:
        """Restore the saved state."""
        for attributes, saved in self.modules:
            _restore(attributes, saved)
        for container in self.empty:
            container.clear()
        for container, entries in self.filled:
            _restore(container, entries)
        for parameter, requires_grad, gradient in self.parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        for buffers in self.buffers:
            buffers.restore()

    def _tensors(self, registry: str) -> list[Any]:
        return [
            tensor for attributes, _ in self.modules for tensor in attributes[registry].values() if tensor is not None
        ]


class SavedBuffers:
    """The values of buffers of one dtype and device.

    Values are compared, since the batch norm of torch updates its running statistics without increasing the version of
    the tensor. Unchanged buffers are not written, since a graph of the user may need their current version.
    """

    def __init__(self, buffers: list[Tensor]) -> None:
        self.buffers, self.values = buffers, _concatenated(buffers)

    def restore(self) -> None:
        """Write the saved values to the buffers that have changed."""
        with torch.no_grad():
            if torch.equal(_concatenated(self.buffers), self.values):
                return
            parts = self.values.split([buffer.numel() for buffer in self.buffers])
            for buffer, values in zip(self.buffers, parts, strict=True):
                if not torch.equal(buffer.flatten(), values):
                    buffer.copy_(values.view_as(buffer))


def _concatenated(buffers: list[Tensor]) -> Tensor:
    """Return a flat copy of all values."""
    with torch.no_grad():
        return torch.cat([buffer.flatten() for buffer in buffers])


def _group_by_type(buffers: list[Tensor]) -> Iterable[list[Tensor]]:
    """Group buffers by device and dtype."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for buffer in buffers:
        groups.setdefault((buffer.device, buffer.dtype), []).append(buffer)
    return groups.values()


def _restore(container: Any, entries: Any) -> None:
    """Restore the entries of a container if they differ; the entries are never missing in between."""
    if isinstance(container, dict):
        _restore_dict(container, entries)
    elif isinstance(container, list):
        container[:] = entries
    else:
        container ^= container ^ entries


def _restore_dict(container: dict[Any, Any], entries: dict[Any, Any]) -> None:
    same = len(container) == len(entries) and all(map(is_, container.values(), entries.values()))
    if same and all(map(is_, container, entries)):
        return
    container.update(entries)
    for key in container.keys() - entries.keys():
        del container[key]
    if not all(map(is_, container, entries)):
        # Restore the order: move each entry to the end, in one call without Python code in between.
        any(map(container.__setitem__, entries, map(container.pop, entries)))


class ModelState:
    """The attributes of every module, one level deep, and the versions of the parameters, to detect changes.

    Attributes are compared by identity for speed: replacing an object by an equal one counts as a change.

    Limitations: values that are written through ``.data`` are not detected.
    """

    def __init__(self, model: nn.Module) -> None:
        attributes = [vars(module) for module in model.modules()]
        values = [value for entries in attributes for value in entries.values()]
        mappings = [value for value in values if type(value) in _MAPPINGS]
        self._empty = [mapping for mapping in mappings if not mapping]
        self._mappings: list[dict[Any, Any]] = [*attributes, *filter(None, mappings)]
        self._values = list(_values(self._mappings))
        self._others = [(value, value.copy()) for value in values if type(value) in (list, set)]
        self._parameters = list(model.parameters())
        self._versions = _versions(self._parameters)

    def is_unchanged(self) -> bool:
        """Return whether the model has not changed since this object was created."""
        return (
            not any(self._empty)
            and sum(map(len, self._mappings)) == len(self._values)
            and all(map(is_, _values(self._mappings), self._values))
            and _versions(self._parameters) == self._versions
            and all(len(now) == len(saved) and all(map(is_, now, saved)) for now, saved in self._others)
        )


def _values(mappings: Iterable[dict[Any, Any]]) -> Iterable[Any]:
    return chain.from_iterable(map(dict.values, mappings))


def _versions(parameters: Iterable[Tensor]) -> list[tuple[int, int]]:
    return [(parameter.data_ptr(), parameter._version) for parameter in parameters]
