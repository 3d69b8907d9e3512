"""The built-in model families, most specific first."""

from torch import nn

from attribkit.core.spec import ModelSpec
from attribkit.hookspecs import hookimpl
from attribkit.models import described, generic, hugging_face, timm, torchvision

_FAMILIES = (described, timm, torchvision, hugging_face, generic)


@hookimpl(trylast=True)
def attribkit_model_spec(model: nn.Module) -> ModelSpec | None:
    """The description by the first family that knows the model."""
    return next((spec for family in _FAMILIES if (spec := family.spec(model))), None)
