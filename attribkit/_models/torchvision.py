"""Specs of torchvision models, from the module that defines them."""

from collections.abc import Callable, Sequence
from typing import Any

from attribkit._core.spec import ModelSpec

_PACKAGE = "torchvision.models."
_CLIPS = {  # families of video models, with the weights that define the names of the classes, mean and std
    "video.resnet": "R3D_18_Weights",
    "video.mvit": "MViT_V1_B_Weights",
    "video.s3d": "S3D_Weights",
    "video.swin_transformer": "Swin3D_T_Weights",
}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet statistics, used by all classifiers

_WHY_BACKBONE = (
    "the last layer of the backbone, below the feature pyramid; the model resizes the images and pads them on the "
    "right and at the bottom, and the layer's grid includes the padding"
)


def torchvision_spec(model: Any) -> ModelSpec | None:
    """Return the spec of a torchvision model, or None."""
    modules = [cls.__module__ for cls in type(model).__mro__ if cls.__module__.startswith(_PACKAGE)]
    if not modules:
        return None
    family = modules[0].removeprefix(_PACKAGE)
    if family in _CLIPS:
        return _spec_of_clips(model, _CLIPS[family])
    labels = _labels(model)
    layer = _last_of_backbone(model) if family.startswith("detection.") else None
    return ModelSpec(
        layer=layer,
        reason=_WHY_BACKBONE if layer else ModelSpec.reason,
        channels_last=family == "swin_transformer",
        input_size=_input_size(model),
        mean=_MEAN if labels else None,
        std=_STD if labels else None,
        labels=labels,
    )


def _spec_of_clips(model: Any, weights: str) -> ModelSpec:
    """Return the spec of a video model, with labels, mean and std of Kinetics-400 if it has as many classes."""
    from torchvision.models import video  # imported here, since few models need it

    kinetics = getattr(video, weights).KINETICS400_V1
    preset, names = kinetics.transforms(), kinetics.meta["categories"]
    trained = _classes(model) == len(names)
    return ModelSpec(
        channels_last=weights.startswith("Swin"),
        input_size=_clip_size(model),
        mean=tuple(preset.mean) if trained else None,
        std=tuple(preset.std) if trained else None,
        labels=names if trained else None,
    )


def _clip_size(model: Any) -> tuple[int, ...] | None:
    """Return (c, t, h, w) of a model with a fixed size, from the number of patches of its embedding, or None."""
    encoding = getattr(model, "pos_encoding", None)
    if encoding is None:
        return None
    cells, patch = (encoding.temporal_size, *encoding.spatial_size), model.conv_proj.stride
    return (model.conv_proj.in_channels, *(count * side for count, side in zip(cells, patch, strict=True)))


def _input_size(model: Any) -> tuple[int, ...] | None:
    """Return (c, h, w) of a model with a fixed size, or None."""
    side = getattr(model, "image_size", None)
    return (model.conv_proj.in_channels, side, side) if isinstance(side, int) else None


def _last_of_backbone(model: Any) -> str | None:
    """Return the dotted name of the layer below the feature pyramid, or None."""
    body = getattr(getattr(model, "backbone", None), "body", None)
    names = [name for name, _ in body.named_children()] if body is not None else []
    return f"backbone.body.{names[-1]}" if names else None


def _labels(model: Any) -> Callable[[], Sequence[str]] | None:
    """Return ImageNet's labels if the model has 1000 classes, as torchvision's classifiers do, or None."""
    return _imagenet_labels if _classes(model) == 1000 else None


def _classes(model: Any) -> int | None:
    """Return the number of classes of the last linear layer, or of the last convolution if there is none."""
    linear = [m for m in model.modules() if hasattr(m, "out_features")]
    convolutional = [m for m in model.modules() if hasattr(m, "out_channels")]
    return linear[-1].out_features if linear else convolutional[-1].out_channels if convolutional else None


def _imagenet_labels() -> Sequence[str]:
    from torchvision.models import ResNet50_Weights  # imported here, since few calls need the names

    return list(ResNet50_Weights.IMAGENET1K_V2.meta["categories"])
