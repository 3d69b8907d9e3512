"""Specs of timm models, from their attributes and `pretrained_cfg`."""

from collections.abc import Callable, Sequence
from typing import Any

from attribkit._core.spec import ModelSpec

_FOLDED = 16  # pixels that the space-to-depth stem of TResNet moves into channels before its first convolution


def timm_spec(model: Any) -> ModelSpec | None:
    """Return the spec of a timm model, or None."""
    if not any(cls.__module__.startswith("timm.models.") for cls in type(model).__mro__):
        return None
    config = getattr(model, "pretrained_cfg", None) or {}
    return ModelSpec(
        prefix_tokens=getattr(model, "num_prefix_tokens", None),
        channels_last=getattr(model, "output_fmt", None) == "NHWC",
        is_embedding_model=getattr(model, "num_classes", None) == 0,
        input_size=_input_size(model, config),
        mean=_per_channel(config.get("mean")),
        std=_per_channel(config.get("std")),
        labels=_labels(model, config),
    )


def _input_size(model: Any, config: dict[str, Any]) -> tuple[int, ...] | None:
    """Return (c, h, w); the size of the patch embedding, for which the model was built, precedes the training size."""
    trained = config.get("input_size")
    built = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return (_channels(model, config) or trained[0], *(built or trained[1:])) if trained else None


def _channels(model: Any, config: dict[str, Any]) -> int | None:
    """Return the number of input channels from the first convolution or the model, or None."""
    first = config.get("first_conv")
    name = first if isinstance(first, str) else next(iter(first or ()), None)
    modules = dict(model.named_modules())
    channels = getattr(modules.get(name), "in_channels", None)  # type: ignore[arg-type]
    return channels // _FOLDED if channels and "body.s2d" in modules else channels or getattr(model, "in_chans", None)


def _per_channel(numbers: Sequence[float] | None) -> tuple[float, ...] | None:
    return tuple(numbers) if numbers else None


def _labels(model: Any, config: dict[str, Any]) -> Sequence[str] | Callable[[], Sequence[str]] | None:
    names = config.get("label_names")
    if names and len(names) == getattr(model, "num_classes", None):
        return tuple(names)
    return _imagenet_labels if getattr(model, "num_classes", None) == config.get("num_classes") == 1000 else None


def _imagenet_labels() -> Sequence[str]:
    from timm.data import ImageNetInfo  # imported here, since it reads files that few calls need

    return list(ImageNetInfo().label_descriptions())
