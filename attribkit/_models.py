"""Specs of the models of timm, torchvision and Hugging Face transformers: the built-in plugin of model families."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from attribkit._core.spec import ModelSpec
from attribkit._hookspecs import hookimpl

_FOLDED = 16  # pixels that the space-to-depth stem of TResNet moves into channels before its first convolution
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
_IMAGES = ("pixel_values", "pixel_values_videos")  # parameters that take the output of an image processor
_FRAMES = ("num_frames", "frames_per_clip")  # settings of video models, which take clips (b, t, c, h, w)


@hookimpl(trylast=True)
def attribkit_model_spec(model: nn.Module) -> ModelSpec | None:
    """Return the spec in the model's attribute ``spec``, or that of its family."""
    specs = (_attribute_spec, timm_spec, torchvision_spec, hugging_face_spec)
    return next((spec for spec_of in specs if (spec := spec_of(model))), ModelSpec())


def _attribute_spec(model: Any) -> ModelSpec | None:
    spec = getattr(model, "spec", None)
    return spec if isinstance(spec, ModelSpec) else None


def timm_spec(model: Any) -> ModelSpec | None:
    """Return the spec of a timm model, or None."""
    if not any(cls.__module__.startswith("timm.models.") for cls in type(model).__mro__):
        return None
    config = getattr(model, "pretrained_cfg", None) or {}
    return ModelSpec(
        prefix_tokens=getattr(model, "num_prefix_tokens", None),
        channels_last=getattr(model, "output_fmt", None) == "NHWC",
        is_embedding_model=getattr(model, "num_classes", None) == 0,
        input_size=_timm_input_size(model, config),
        mean=_per_channel(config.get("mean")),
        std=_per_channel(config.get("std")),
        labels=_timm_labels(model, config),
    )


def _timm_input_size(model: Any, config: dict[str, Any]) -> tuple[int, ...] | None:
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


def _timm_labels(model: Any, config: dict[str, Any]) -> Sequence[str] | Callable[[], Sequence[str]] | None:
    names = config.get("label_names")
    if names and len(names) == getattr(model, "num_classes", None):
        return tuple(names)
    return _timm_imagenet_labels if getattr(model, "num_classes", None) == config.get("num_classes") == 1000 else None


def _timm_imagenet_labels() -> Sequence[str]:
    from timm.data import ImageNetInfo  # imported here, since it reads files that few calls need

    return list(ImageNetInfo().label_descriptions())


def torchvision_spec(model: Any) -> ModelSpec | None:
    """Return the spec of a torchvision model, or None."""
    modules = [cls.__module__ for cls in type(model).__mro__ if cls.__module__.startswith(_PACKAGE)]
    if not modules:
        return None
    family = modules[0].removeprefix(_PACKAGE)
    if family in _CLIPS:
        return _spec_of_clips(model, _CLIPS[family])
    labels = _torchvision_labels(model)
    layer = _last_of_backbone(model) if family.startswith("detection.") else None
    return ModelSpec(
        layer=layer,
        reason=_WHY_BACKBONE if layer else ModelSpec.reason,
        channels_last=family == "swin_transformer",
        input_size=_torchvision_input_size(model),
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


def _torchvision_input_size(model: Any) -> tuple[int, ...] | None:
    """Return (c, h, w) of a model with a fixed size, or None."""
    side = getattr(model, "image_size", None)
    return (model.conv_proj.in_channels, side, side) if isinstance(side, int) else None


def _last_of_backbone(model: Any) -> str | None:
    """Return the dotted name of the layer below the feature pyramid, or None."""
    body = getattr(getattr(model, "backbone", None), "body", None)
    names = [name for name, _ in body.named_children()] if body is not None else []
    return f"backbone.body.{names[-1]}" if names else None


def _torchvision_labels(model: Any) -> Callable[[], Sequence[str]] | None:
    """Return ImageNet's labels if the model has 1000 classes, as torchvision's classifiers do, or None."""
    return _torchvision_imagenet_labels if _classes(model) == 1000 else None


def _classes(model: Any) -> int | None:
    """Return the number of classes of the last linear layer, or of the last convolution if there is none."""
    linear = [m for m in model.modules() if hasattr(m, "out_features")]
    convolutional = [m for m in model.modules() if hasattr(m, "out_channels")]
    return linear[-1].out_features if linear else convolutional[-1].out_channels if convolutional else None


def _torchvision_imagenet_labels() -> Sequence[str]:
    from torchvision.models import ResNet50_Weights  # imported here, since few calls need the names

    return list(ResNet50_Weights.IMAGENET1K_V2.meta["categories"])


def hugging_face_spec(model: Any) -> ModelSpec | None:
    """Return the spec of a model of the transformers library, or None."""
    if not any(cls.__module__.startswith("transformers.") for cls in type(model).__mro__):
        return None
    config = getattr(model, "config", None)
    image, clips = _image(model), _frames(config) is not None
    axes = "btchw" if clips and image in _IMAGES else None
    return ModelSpec(
        image=image, axes=axes, input_size=_hugging_face_input_size(config), labels=_hugging_face_labels(config)
    )


def _image(model: Any) -> str | None:
    """Return the parameter that takes the images; the main input of a model of images and text may be the text."""
    parameters = inspect.signature(model.forward).parameters
    names = (*_IMAGES, getattr(model, "main_input_name", None))
    return next((name for name in names if name in parameters), None)


def _hugging_face_input_size(config: Any) -> tuple[int, ...] | None:
    """Return (c, *space), or None if the configuration does not contain it."""
    frames, config = _frames(config), getattr(config, "vision_config", config)
    channels, size = (getattr(config, name, None) for name in ("num_channels", "image_size"))
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(channels, int) or not isinstance(sides, list | tuple) or len(sides) != 2:
        return None
    return (channels, *sides) if frames is None else (channels, frames, *sides)


def _frames(config: Any) -> int | None:
    """Return the number of frames of a video model, or None for an image model."""
    config = getattr(config, "vision_config", config)
    return next((n for name in _FRAMES if isinstance(n := getattr(config, name, None), int)), None)


def _hugging_face_labels(config: Any) -> Sequence[str] | None:
    """Return the names of the classes, or None if they are only numbers."""
    names = getattr(config, "id2label", None) or {}
    labels = [str(names.get(i, f"LABEL_{i}")) for i in range(len(names))]
    return tuple(labels) if labels and not any(label.startswith("LABEL_") for label in labels) else None
