"""timm models, described by what they say of themselves."""

from collections.abc import Callable, Sequence
from typing import Any

from attribkit.core.spec import ModelSpec

_CLASS_TOKEN = "the last normalisation before the class token's last look at the patches"


def spec(model: Any) -> ModelSpec | None:
    """Describe a timm model."""
    if not any(cls.__module__.startswith("timm.models.") for cls in type(model).__mro__):
        return None
    config = getattr(model, "pretrained_cfg", None) or {}
    layer = _class_token_layer(model)
    return ModelSpec(
        layer=layer,
        reason=_CLASS_TOKEN if layer else "",
        prefix_tokens=getattr(model, "num_prefix_tokens", None),
        patch=getattr(getattr(model, "patch_embed", None), "patch_size", None) if layer else None,
        channels_last=getattr(model, "output_fmt", None) == "NHWC",
        input_size=_input_size(model, config),
        labels=_labels(model, config),
    )


def _class_token_layer(model: Any) -> str | None:
    """In a class-token transformer nothing after the last block's first norm moves the patches' gradient."""
    blocks = getattr(model, "blocks", None)
    pooled = getattr(model, "global_pool", None) == "token" and getattr(model, "num_prefix_tokens", 0)
    return f"blocks.{len(blocks) - 1}.norm1" if pooled and blocks and hasattr(blocks[-1], "norm1") else None


def _input_size(model: Any, config: dict[str, Any]) -> tuple[int, ...] | None:
    """(c, h, w); a patch embedding knows the size that the model was built for, not only trained for."""
    trained = config.get("input_size")
    built = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return (trained[0], *built) if trained and built else trained


def _labels(model: Any, config: dict[str, Any]) -> Sequence[str] | Callable[[], Sequence[str]] | None:
    names = config.get("label_names")
    if names and len(names) == getattr(model, "num_classes", None):
        return tuple(names)
    return _imagenet_labels if getattr(model, "num_classes", None) == config.get("num_classes") == 1000 else None


def _imagenet_labels() -> Sequence[str]:
    from timm.data import ImageNetInfo  # here, since it reads files that few calls need

    return list(ImageNetInfo().label_descriptions())
