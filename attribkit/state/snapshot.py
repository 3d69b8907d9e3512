"""[core/snapshot] All that makes up a model, kept so that it can be put back.
[core/model_state] Whether a model is still as it was: what the way through its forward and the choice of a layer depend on.
"""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = (dict, OrderedDict, list, set)  # a module's own children, tensors and hooks are kept in the first two


class Snapshot:
    """The attributes of every module of a model, one level deep, its parameters' gradients, and its buffers' values.

    `put_back` may be repeated: an exception in its middle leaves every module with all of its attributes, old or new,
    and a second call completes it. Written for speed, since it is taken at every call: what is empty costs only a
    reference, and only what has changed is put back. Values that are written past autograd, by ``.data``, are not seen.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = [(vars(module), vars(module).copy()) for module in model.modules()]
        containers = [value for own, _ in self.modules for value in own.values() if type(value) in _CONTAINERS]
        self.empty = [container for container in containers if not container]
        self.filled = [(container, container.copy()) for container in containers if container]
        self.parameters = [(p, p.requires_grad, p.grad) for p in self._tensors("_parameters")]
        self.buffers = [SavedBuffers(buffers) for buffers in _alike(self._tensors("_buffers"))]

    def freeze(self) -> None:
        """Evaluation mode, no gradients for parameters."""
        for own, _ in self.modules:
            own["training"] = False  # not by eval(), which a model may override
        for parameter, requires_grad, _ in self.parameters:
            if requires_grad:
                parameter.requires_grad_(False)

    def restore(self) -> None:
        """Make everything as it was."""
        for own, attributes in self.modules:
            _restore(own, attributes)
        for container in self.empty:
            container.clear()
        for container, entries in self.filled:
            _restore(container, entries)
        for parameter, requires_grad, gradient in self.parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        for kept in self.buffers:
            kept.restore()

    def _tensors(self, registry: str) -> list[Any]:
        return [tensor for own, _ in self.modules for tensor in own[registry].values() if tensor is not None]


class SavedBuffers:
    """The values of buffers of one type and device.

    They are compared, since torch's batch norm writes running statistics without raising the tensor's version; what is
    unchanged is not written, since a graph of the user's may need it as it is.
    """

    def __init__(self, buffers: list[Tensor]) -> None:
        self.buffers, self.values = buffers, _joined(buffers)

    def restore(self) -> None:
        """Write what has changed."""
        with torch.no_grad():
            if torch.equal(_joined(self.buffers), self.values):
                return
            parts = self.values.split([buffer.numel() for buffer in self.buffers])
            for buffer, values in zip(self.buffers, parts, strict=True):
                if not torch.equal(buffer.flatten(), values):
                    buffer.copy_(values.view_as(buffer))


def _joined(buffers: list[Tensor]) -> Tensor:
    """All values in a row, a copy."""
    with torch.no_grad():
        return torch.cat([buffer.flatten() for buffer in buffers])


def _alike(buffers: list[Tensor]) -> Iterable[list[Tensor]]:
    """Buffers of the same type on the same device together."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for buffer in buffers:
        groups.setdefault((buffer.device, buffer.dtype), []).append(buffer)
    return groups.values()


def _restore(container: Any, entries: Any) -> None:
    """Give a container its entries back, if it has others; it never lacks one that it should have."""
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
        # Each entry is taken out and put in at the end, in one call without Python code in between.
        any(map(container.__setitem__, entries, map(container.pop, entries)))


_MAPPINGS = (dict, OrderedDict)  # of a module's parameters, submodules and hooks


class ModelState:
    """The attributes of every module, one level deep, and the versions of the model's parameters.

    Attributes are compared by identity, since that is quick: an equal object in the place of another counts as a
    change. Values that are written past autograd, by ``.data``, are not seen.
    """

    def __init__(self, model: nn.Module) -> None:
        attributes = [vars(module) for module in model.modules()]
        containers = [value for own in attributes for value in own.values()]
        mappings = [value for value in containers if type(value) in _MAPPINGS]
        self._empty = [mapping for mapping in mappings if not mapping]
        self._mappings: list[dict[Any, Any]] = [*attributes, *filter(None, mappings)]
        self._values = list(_values(self._mappings))
        self._others = [(value, value.copy()) for value in containers if type(value) in (list, set)]
        self._parameters = list(model.parameters())
        self._versions = _versions(self._parameters)

    def is_unchanged(self) -> bool:
        """Whether the model is as it was when this was made."""
        return (
            not any(self._empty)
            and sum(map(len, self._mappings)) == len(self._values)
            and all(map(is_, _values(self._mappings), self._values))
            and _versions(self._parameters) == self._versions
            and all(len(now) == len(then) and all(map(is_, now, then)) for now, then in self._others)
        )


def _values(mappings: Iterable[dict[Any, Any]]) -> Iterable[Any]:
    return chain.from_iterable(map(dict.values, mappings))


def _versions(parameters: Iterable[Tensor]) -> list[tuple[int, int]]:
    return [(parameter.data_ptr(), parameter._version) for parameter in parameters]
