"""The built-in model families, most specific first."""

from typing import Any

from torch import nn

from attribkit.core.spec import ModelSpec
from attribkit.hookspecs import hookimpl
from attribkit.models import hugging_face, timm, torchvision


@hookimpl(trylast=True)
def attribkit_model_spec(model: nn.Module) -> ModelSpec | None:
    """Return the spec that the model has as its attribute ``spec``, or the spec of its family."""
    specs = (_own_spec, timm.spec, torchvision.spec, hugging_face.spec)
    return next((found for spec in specs if (found := spec(model))), ModelSpec())


def _own_spec(model: Any) -> ModelSpec | None:
    own = getattr(model, "spec", None)
    return own if isinstance(own, ModelSpec) else None
