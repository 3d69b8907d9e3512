"""All that makes up a model, kept so that it can be put back."""

from typing import Any

import torch
from torch import nn

_HOOKS = [name for name, value in vars(nn.Module()).items() if "_hooks" in name and isinstance(value, dict)]
_REGISTRIES = ("_parameters", "_buffers", "_modules", *_HOOKS)  # the dicts in which a module keeps all that it has


class Snapshot:
    """Training flags, submodules, parameters with their gradients, buffers with their values, and hooks of a model.

    Written for speed, since it is taken at every call: what is empty costs only a reference, and buffers are copied
    back where something wrote to them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = [(vars(module), module.training) for module in model.modules()]
        registries = [own[name] for own, _ in self.modules for name in _REGISTRIES if isinstance(own.get(name), dict)]
        self.empty = [registry for registry in registries if not registry]
        self.filled = [(registry, registry.copy()) for registry in registries if registry]
        self.parameters = [(p, p.requires_grad, p.grad) for p in self._tensors("_parameters")]
        self.buffers = [(b, b._version, b.clone()) for b in self._tensors("_buffers")]

    def freeze(self) -> None:
        """Evaluation mode, no gradients for parameters."""
        for own, _ in self.modules:
            own["training"] = False  # not by eval(), which a model may override
        for parameter, requires_grad, _ in self.parameters:
            if requires_grad:
                parameter.requires_grad_(False)

    def put_back(self) -> None:
        """Make everything as it was."""
        for own, training in self.modules:
            own["training"] = training
        for registry in self.empty:
            registry.clear()
        for registry, entries in self.filled:
            registry.clear()
            registry.update(entries)
        for parameter, requires_grad, gradient in self.parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, version, values in self.buffers:
                if buffer._version != version:
                    buffer.copy_(values)

    def _tensors(self, registry: str) -> list[Any]:
        return [tensor for own, _ in self.modules for tensor in own[registry].values() if tensor is not None]
