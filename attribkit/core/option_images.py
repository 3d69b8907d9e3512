"""Images among the options of methods and metrics, in the order of axes in which attribkit computes."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from attribkit.core.image_axes import ImageAxes
from attribkit.core.substrates import Given

Made = TypeVar("Made")


def options_channels_first(made: Made, axes: str | None) -> Made:
    """A method or metric whose options that are images, in these axes, are (b, c, *space); itself if there is none."""
    if axes is None or not is_dataclass(made):
        return made
    order = ImageAxes(axes)
    options = {each.name: getattr(made, each.name) for each in fields(made) if each.init}
    changed = {name: _channels_first(value, order) for name, value in options.items()}
    changed = {name: value for name, value in changed.items() if value is not options[name]}
    return replace(made, **changed) if changed else made  # type: ignore[type-var]


def _channels_first(value: Any, axes: ImageAxes) -> Any:
    if isinstance(value, Given):
        return Given(_image_channels_first(value.tensor, axes))
    if isinstance(value, tuple) and any(isinstance(each, Given) for each in value):
        return tuple(_channels_first(each, axes) for each in value)
    return value


def _image_channels_first(images: Tensor, axes: ImageAxes) -> Tensor:
    """Images with or without an axis of images."""
    if images.ndim == len(axes.letters):
        return axes.channels_first(images)
    return axes.channels_first(images[None])[0] if images.ndim == len(axes.letters) - 1 else images
