"""torchvision models, by the module that defines them."""

from collections.abc import Callable, Sequence
from typing import Any

from attribkit.core.spec import ModelSpec

_PACKAGE = "torchvision.models."
_CLIPS = {  # models of video by family, and weights that tell the classes' names and the colours
    "video.resnet": "R3D_18_Weights",
    "video.mvit": "MViT_V1_B_Weights",
    "video.s3d": "S3D_Weights",
    "video.swin_transformer": "Swin3D_T_Weights",
}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which all its classifiers are trained with

_WHY_BACKBONE = (
    "the last layer of the backbone, below the feature pyramid; the model resizes the images and pads them on the "
    "right and below, and the layer's grid covers that too"
)


def spec(model: Any) -> ModelSpec | None:
    """Describe a torchvision model."""
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
    """Describe a model of video, with Kinetics-400's names and colours where it ends in that many classes."""
    from torchvision.models import video  # here, since few models need it

    known = getattr(video, weights).KINETICS400_V1
    preset, names = known.transforms(), known.meta["categories"]
    trained = _classes(model) == len(names)
    return ModelSpec(
        channels_last=weights.startswith("Swin"),
        input_size=_clip_size(model),
        mean=tuple(preset.mean) if trained else None,
        std=tuple(preset.std) if trained else None,
        labels=names if trained else None,
    )


def _clip_size(model: Any) -> tuple[int, ...] | None:
    """(c, t, h, w) of a model that takes one size only: its embedding counts the patches."""
    encoding = getattr(model, "pos_encoding", None)
    if encoding is None:
        return None
    cells, patch = (encoding.temporal_size, *encoding.spatial_size), model.conv_proj.stride
    return (model.conv_proj.in_channels, *(count * side for count, side in zip(cells, patch, strict=True)))


def _input_size(model: Any) -> tuple[int, ...] | None:
    """(c, h, w) of a model that takes one size only."""
    side = getattr(model, "image_size", None)
    return (model.conv_proj.in_channels, side, side) if isinstance(side, int) else None


def _last_of_backbone(model: Any) -> str | None:
    """The dotted name of what a feature pyramid stands on."""
    body = getattr(getattr(model, "backbone", None), "body", None)
    names = [name for name, _ in body.named_children()] if body is not None else []
    return f"backbone.body.{names[-1]}" if names else None


def _labels(model: Any) -> Callable[[], Sequence[str]] | None:
    """ImageNet's names where the model ends in 1000 classes, as torchvision's classifiers are trained."""
    return _imagenet_labels if _classes(model) == 1000 else None


def _classes(model: Any) -> int | None:
    """How many classes the last layer has: a linear one, or a convolution where there is none."""
    linear = [m for m in model.modules() if hasattr(m, "out_features")]
    convolutional = [m for m in model.modules() if hasattr(m, "out_channels")]
    return linear[-1].out_features if linear else convolutional[-1].out_channels if convolutional else None


def _imagenet_labels() -> Sequence[str]:
    from torchvision.models import ResNet50_Weights  # here, since few calls need the names

    return list(ResNet50_Weights.IMAGENET1K_V2.meta["categories"])
