"""Any other model: all that is needed comes from its first forward."""

from torch import nn

from attribkit.core.spec import ModelSpec


def spec(model: nn.Module) -> ModelSpec:
    """Say nothing beforehand; the layers that the first forward shows decide."""
    return ModelSpec()
