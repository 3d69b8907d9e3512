"""Run a visualizer and check what it returns."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attribkit._contracts.visualization import Visualization, image_names
from attribkit._contracts.visualizer import Visualizer
from attribkit._core.annotations import describe_plugin
from attribkit._core.errors import OWN_FORWARD, AttribkitError, InvalidInput, error_context
from attribkit._engine.model import HookedModel
from attribkit._runs.validation import refuse_exits
from attribkit._targets.target import Target


def run_visualizer(visualizer: Visualizer, model: HookedModel, blank: Tensor, unit: Target) -> Visualization:
    """Run a visualizer and return its images with the provenance and all notes."""
    with error_context("model", model.module), error_context("visualizer", visualizer):
        try:
            with refuse_exits(visualizer):
                returned = visualizer(model, unit, blank)
            images, responses = _check_returned(returned, blank, visualizer)
        except (RuntimeError, AssertionError, ValueError) as error:
            _explain_size_error(model, blank, error)
            raise
    mean, std = model.spec.normalisation(blank.shape[1]) or (None, None)
    captions = image_names(unit, model.spec.labels, len(images))
    result = Visualization(images, unit, visualizer, captions, responses, mean, std, tuple(model.notes))
    return replace(result, notes=(*result.notes, *_notes_on_range(result)))


def blank_images(model: HookedModel, count: int, size: int | tuple[int, ...] | None) -> Tensor:
    """Return images of zeros with the shape, dtype and device that the model expects."""
    shape = _image_shape(model, size)
    if not all(isinstance(side, int) and side > 0 for side in shape) or len(shape) < 2:
        raise InvalidInput(
            f"size must be (c, *space) in positive integers, such as (3, 224, 224), or one side in pixels, "
            f"got {size!r}."
        )
    like = next(p for p in model.module.parameters() if p.is_floating_point())
    return torch.zeros(count, *shape, device=like.device, dtype=like.dtype)


def _explain_size_error(model: HookedModel, blank: Tensor, error: Exception) -> None:
    """Raise InvalidInput if the model's own forward failed on images of a size other than the one it was made for."""
    made_for, shape = model.spec.input_size, tuple(blank.shape[1:])
    notes = getattr(error, "__notes__", [])
    if made_for is not None and shape != tuple(made_for) and any(OWN_FORWARD in note for note in notes):
        raise InvalidInput(
            f"The model does not accept images of shape {shape} ({error}). It was designed for {made_for}: omit "
            "size=..."
        ) from error


def _image_shape(model: HookedModel, size: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """Return (c, *space), from the size that the user gives and the model's spec."""
    made_for, mean = model.spec.input_size, model.spec.mean
    if size is not None and not isinstance(size, int):
        return tuple(size)
    if size is not None and (made_for or mean):
        return (made_for[0], *(size,) * (len(made_for) - 1)) if made_for else (len(mean or ()), size, size)
    if made_for is None or size is not None:
        raise InvalidInput(
            "The image shape of this model is not known: pass size=(c, *space), such as size=(3, 224, 224)."
        )
    return tuple(made_for)


def _check_returned(returned: Any, blank: Tensor, visualizer: Visualizer) -> tuple[Tensor, Tensor]:
    """Return the images and responses; raise AttribkitError if they violate the contract of visualizers."""
    pair = returned if isinstance(returned, tuple) else (returned,)
    shapes = [tuple(each.shape) if isinstance(each, Tensor) else () for each in pair]
    if not _fits(shapes, tuple(blank.shape)):
        raise AttribkitError(
            f"{describe_plugin(visualizer)} "
            f"returned tensors of shapes {shapes}; a visualizer must return a pair: images of shape "
            f"{tuple(blank.shape)}, or a multiple of that number of images, and responses of shape (steps, images)."
        )
    images, responses = pair
    if not bool(images.isfinite().all() & responses.isfinite().all()):
        raise AttribkitError(
            f"{describe_plugin(visualizer)} "
            "returned images or responses that are not finite: use a smaller learning rate, or "
            "float32 for a half-precision model."
        )
    return images.detach(), responses.detach()


def _fits(shapes: Sequence[tuple[int, ...]], blank: tuple[int, ...]) -> bool:
    """Return whether there are one or more images for each blank image, and responses to all of them at each step."""
    if len(shapes) != 2 or shapes[0][1:] != blank[1:] or len(shapes[1]) != 2:
        return False
    return shapes[0][0] == shapes[1][1] > 0 == shapes[0][0] % blank[0] and shapes[1][0] > 0


def _notes_on_range(result: Visualization) -> list[str]:
    """Return notes on how the values of the images become colours in the pictures."""
    if result.mean is None:
        return ["the model's mean and std are not known: the pictures are stretched to their full range"]
    fraction = float(((result.pixels() < 0) | (result.pixels() > 1)).float().mean())
    if fraction < 0.005:
        return []
    return [f"{fraction:.0%} of the values are outside the range 0 to 1 and are clipped in the pictures"]
