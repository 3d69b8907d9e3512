"""The built-in plugin of model families: timm, torchvision and Hugging Face transformers."""

from typing import Any

from torch import nn

from attribkit._core.spec import ModelSpec
from attribkit._hookspecs import hookimpl
from attribkit._models.hugging_face import hugging_face_spec
from attribkit._models.timm import timm_spec
from attribkit._models.torchvision import torchvision_spec


@hookimpl(trylast=True)
def attribkit_model_spec(model: nn.Module) -> ModelSpec | None:
    """Return the spec in the model's attribute ``spec``, or that of its family."""
    specs = (_attribute_spec, timm_spec, torchvision_spec, hugging_face_spec)
    return next((spec for spec_of in specs if (spec := spec_of(model))), ModelSpec())


def _attribute_spec(model: Any) -> ModelSpec | None:
    spec = getattr(model, "spec", None)
    return spec if isinstance(spec, ModelSpec) else None
