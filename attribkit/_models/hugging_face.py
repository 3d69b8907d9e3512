"""Specs of the models of Hugging Face transformers, from their class and configuration."""

import inspect
from collections.abc import Sequence
from typing import Any

from attribkit._core.spec import ModelSpec

_IMAGES = ("pixel_values", "pixel_values_videos")  # parameters that take the output of an image processor
_FRAMES = ("num_frames", "frames_per_clip")  # settings of video models, which take clips (b, t, c, h, w)


def hugging_face_spec(model: Any) -> ModelSpec | None:
    """Return the spec of a model of the transformers library, or None."""
    if not any(cls.__module__.startswith("transformers.") for cls in type(model).__mro__):
        return None
    config = getattr(model, "config", None)
    image, clips = _image(model), _frames(config) is not None
    axes = "btchw" if clips and image in _IMAGES else None
    return ModelSpec(image=image, axes=axes, input_size=_input_size(config), labels=_labels(config))


def _image(model: Any) -> str | None:
    """Return the parameter that takes the images; the main input of a model of images and text may be the text."""
    parameters = inspect.signature(model.forward).parameters
    names = (*_IMAGES, getattr(model, "main_input_name", None))
    return next((name for name in names if name in parameters), None)


def _input_size(config: Any) -> tuple[int, ...] | None:
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


def _labels(config: Any) -> Sequence[str] | None:
    """Return the names of the classes, or None if they are only numbers."""
    names = getattr(config, "id2label", None) or {}
    labels = [str(names.get(i, f"LABEL_{i}")) for i in range(len(names))]
    return tuple(labels) if labels and not any(label.startswith("LABEL_") for label in labels) else None
