"""Hugging Face's models, described by their class and their configuration."""

import inspect
from collections.abc import Sequence
from typing import Any

from attribkit.core.spec import ModelSpec

_IMAGES = ("pixel_values", "pixel_values_videos")  # how its models name what an image processor makes
_FRAMES = ("num_frames", "frames_per_clip")  # how the configurations of models of clips (b, t, c, h, w) count


def spec(model: Any) -> ModelSpec | None:
    """Describe a model of the transformers library."""
    if not any(cls.__module__.startswith("transformers.") for cls in type(model).__mro__):
        return None
    config = getattr(model, "config", None)
    image, clips = _image(model), _frames(config) is not None
    axes = "btchw" if clips and image in _IMAGES else None
    return ModelSpec(image=image, axes=axes, input_size=_input_size(config), labels=_labels(config))


def _image(model: Any) -> str | None:
    """The parameter that takes the images; a model of images and text may call its text the main input."""
    parameters = inspect.signature(model.forward).parameters
    names = (*_IMAGES, getattr(model, "main_input_name", None))
    return next((name for name in names if name in parameters), None)


def _input_size(config: Any) -> tuple[int, ...] | None:
    """(c, *space); None where the configuration does not tell it."""
    frames, config = _frames(config), getattr(config, "vision_config", config)
    channels, size = (getattr(config, name, None) for name in ("num_channels", "image_size"))
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(channels, int) or not isinstance(sides, list | tuple) or len(sides) != 2:
        return None
    return (channels, *sides) if frames is None else (channels, frames, *sides)


def _frames(config: Any) -> int | None:
    """How many frames a model of clips takes; None of a model of images."""
    config = getattr(config, "vision_config", config)
    return next((n for name in _FRAMES if isinstance(n := getattr(config, name, None), int)), None)


def _labels(config: Any) -> Sequence[str] | None:
    """The classes' names, where they are more than numbers."""
    names = getattr(config, "id2label", None) or {}
    known = [str(names.get(i, f"LABEL_{i}")) for i in range(len(names))]
    return tuple(known) if known and not any(name.startswith("LABEL_") for name in known) else None
