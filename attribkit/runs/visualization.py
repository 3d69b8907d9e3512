"""What a visualizer makes, checked, with all that is needed to read it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attribkit.contracts.visualization import Visualization, names
from attribkit.contracts.visualizer import Visualizer
from attribkit.core.errors import OWN_FORWARD, AttribkitError, InvalidInput, error_context
from attribkit.engine.model import HookedModel
from attribkit.runs.guards import refuse_exits
from attribkit.targets.target import Target


def run_visualizer(draw: Visualizer, model: HookedModel, blank: Tensor, unit: Target) -> Visualization:
    """Make the images, and keep the visualizer, its way there and what a careful reader should know."""
    with error_context("model", model.module), error_context("visualizer", draw):
        try:
            with refuse_exits(draw):
                made = draw(model, unit, blank)
            images, responses = _checked(made, blank, draw)
        except (RuntimeError, AssertionError, ValueError) as error:
            _blame_size(model, blank, error)
            raise
    mean, std = model.spec.normalisation(blank.shape[1]) or (None, None)
    told = names(unit, model.spec.labels, len(images))
    found = Visualization(images, unit, draw, told, responses, mean, std, tuple(model.notes))
    return replace(found, notes=(*found.notes, *_remarks(found)))


def blank_images(model: HookedModel, count: int, size: int | tuple[int, ...] | None) -> Tensor:
    """Images of zeros, as the model takes them."""
    shape = _image_shape(model, size)
    if not all(isinstance(side, int) and side > 0 for side in shape) or len(shape) < 2:
        raise InvalidInput(f"size={size!r} is no size of images: give (c, *space), such as (3, 224, 224), or a side.")
    like = next(p for p in model.module.parameters() if p.is_floating_point())
    return torch.zeros(count, *shape, device=like.device, dtype=like.dtype)


def _blame_size(model: HookedModel, blank: Tensor, error: Exception) -> None:
    """Say that the model's own forward does not take images of another size than it was made for."""
    made_for, shape = model.spec.input_size, tuple(blank.shape[1:])
    if made_for is not None and shape != tuple(made_for) and any(OWN_FORWARD in n for n in _told_of(error)):
        raise InvalidInput(
            f"The model does not take images of {shape} ({error}): leave size out, it was made for {made_for}."
        ) from error


def _image_shape(model: HookedModel, size: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """(c, *space), from what the user and the model's spec say."""
    made_for, mean = model.spec.input_size, model.spec.mean
    if size is not None and not isinstance(size, int):
        return tuple(size)
    if size is not None and (made_for or mean):
        return (made_for[0], *(size,) * (len(made_for) - 1)) if made_for else (len(mean or ()), size, size)
    if made_for is None or size is not None:
        raise InvalidInput(
            "The shape of this model's images is not known: pass size=(c, *space), such as size=(3, 224, 224)."
        )
    return tuple(made_for)


def _checked(made: Any, blank: Tensor, visualizer: Visualizer) -> tuple[Tensor, Tensor]:
    """The images and responses, if they are what a visualizer may return."""
    pair = made if isinstance(made, tuple) else (made,)
    shapes = [tuple(each.shape) if isinstance(each, Tensor) else () for each in pair]
    if not _fits(shapes, tuple(blank.shape)):
        raise AttribkitError(
            f"{visualizer!r} returned tensors of shapes {shapes}; a visualizer returns a pair: images like the "
            f"{tuple(blank.shape)} that it was given, or several times as many, and responses (steps, images)."
        )
    images, responses = pair
    if not bool(images.isfinite().all() & responses.isfinite().all()):
        raise AttribkitError(
            f"{visualizer!r} came to images or responses that are not finite: use a smaller learning rate, or a model "
            "of float32 where it has half precision."
        )
    return images.detach(), responses.detach()


def _fits(shapes: Sequence[tuple[int, ...]], blank: tuple[int, ...]) -> bool:
    """Whether there are one or more images for each blank one, and rows of responses to all of them."""
    if len(shapes) != 2 or shapes[0][1:] != blank[1:] or len(shapes[1]) != 2:
        return False
    return shapes[0][0] == shapes[1][1] > 0 == shapes[0][0] % blank[0] and shapes[1][0] > 0


def _remarks(made: Visualization) -> list[str]:
    """What the range of the values tells a careful reader."""
    if made.mean is None:
        return ["the model's mean and std are not known: the pictures are stretched to their full range"]
    share = float(((made.pixels() < 0) | (made.pixels() > 1)).float().mean())
    return [f"{share:.0%} of the values lie outside 0 to 1 and are clipped in the pictures"] if share >= 0.005 else []


def _told_of(error: Exception) -> list[str]:
    """The notes that an exception has gathered on its way."""
    return getattr(error, "__notes__", [])
