"""Run an attribution method and check what it returns."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attribkit._contracts.attribution import Attribution, resize_map
from attribkit._contracts.method import Method
from attribkit._core.annotations import describe_plugin
from attribkit._core.axes import ImageAxes
from attribkit._core.errors import AttribkitError, error_context
from attribkit._core.layouts import Extent
from attribkit._core.substrates import options_channels_first
from attribkit._display.progress import track
from attribkit._engine.batched_model import LayersDiffer
from attribkit._engine.forward import Requirements
from attribkit._engine.model import HookedModel
from attribkit._runs.diagnosis import diagnosis_of
from attribkit._runs.validation import read_only, refuse_exits
from attribkit._targets.outputs import to_full_precision
from attribkit._targets.target import Target


def run_attribution(
    method: Method, model: HookedModel, x: Tensor, target: Target, note: str | None = None
) -> Attribution:
    """Run a method on the bound images, check its scores and return them with notes.

    Args:
        method: The method, with options in the axes of the model.
        model: The model, bound to x.
        x: Images, channels first, (b, c, *space).
        target: The target, bound to x; its classes may still depend on the outputs.
        note: Note on how the axes of the images were found.

    Returns:
        The attribution in the axes of the model.

    Raises:
        AttribkitError: The method returned unusable scores, wrote into x or raised SystemExit; or any of its errors.
    """
    axes = model.spec.axes
    own = options_channels_first(method, axes)
    with error_context("model", model.module), error_context("method", own):
        with refuse_exits(own), read_only(own, {"the images x": x}):
            scores = None
            depends_on_image = model.depends_on_image(target)  # also decides how versions of a single image are batched
            if len(x) == 1 or not depends_on_image:
                with suppress(LayersDiffer):
                    scores = own(model, x, target)
            if scores is None:
                scores = _scores_one_by_one(own, model, target)
        target = model.resolve(target)
        model.diagnostics.check(own)
        _check_scores(scores, x, own)
    scores = to_full_precision(scores.detach()).contiguous()
    diagnosis = diagnosis_of(model, x, target).notes if model.diagnostics.ran else []
    notes = (*model.inputs.notes(), *model.notes, *diagnosis, *_notes_on_scores(scores, x.dtype))
    attribution = Attribution(
        scores, x, target, own, notes, extent=_extent(own, model, scores), model=_model_name(model.module)
    )
    if axes is None:
        return attribution
    notes = (note, *notes) if note else notes
    return replace(attribution, method=method, notes=notes).from_channels_first(ImageAxes(axes))


def _model_name(module: Any) -> str:
    """Return the architecture of a timm model, or the name of the class."""
    config = getattr(module, "pretrained_cfg", None)
    architecture = config.get("architecture") if isinstance(config, Mapping) else None
    return architecture or type(module).__name__


def _extent(method: Method, model: HookedModel, scores: Tensor) -> Extent | None:
    """Return the part of the images that the scores of a single-layer method cover; None means all of them."""
    layer, requires = getattr(method, "layer", ""), getattr(method, "requires", None)
    on_pixels = isinstance(requires, Requirements) and bool(requires.gradients)
    single = layer is None or isinstance(layer, str)
    return model.extent(layer, tuple(scores.shape[2:])) if single and not on_pixels else None


def _scores_one_by_one(method: Method, model: HookedModel, target: Target) -> Tensor:
    """Run the method on each image by itself, since layers or grids differ between the images."""
    images = track(model.one_by_one(target), "images", len(model.images))
    maps = [_scores_of_one(method, one, own) for one, own in images]
    if len({tuple(each.shape[2:]) for each in maps}) > 1:
        model.note("the default layer differs between the images; the maps were resized to the images")
        maps = [resize_map(each, model.images.shape[2:]) for each in maps]
    return torch.cat(maps)


def _scores_of_one(method: Method, model: HookedModel, target: Any) -> Tensor:
    scores = method(model, model.images, target)
    _check_scores(scores, model.images, method)
    return scores


def _check_scores(scores: Any, x: Tensor, method: Method) -> None:
    """Raise AttribkitError unless the method returned finite scores (b, k, *grid)."""
    if not isinstance(scores, Tensor) or scores.ndim != x.ndim or len(scores) != len(x):
        got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise AttribkitError(
            f"{describe_plugin(method)} "
            f"returned {got}; a method must return a tensor (b, k, *grid) for its {len(x)} images."
        )
    finite = scores.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise AttribkitError(
            f"{describe_plugin(method)} "
            f"returned scores that are not finite for images {_indices(~finite)}: the model overflows or "
            "divides by zero on them. Check its outputs; a half-precision model may need float32."
        )


def _notes_on_scores(scores: Tensor, precision: torch.dtype) -> list[str]:
    """Return notes on maps without information; `precision` is the dtype of the model."""
    low, high = scores.flatten(1).aminmax(dim=1)
    largest, limit = torch.maximum(low.abs(), high.abs()), torch.finfo(precision).tiny
    cases = {
        "zero": ((largest == 0), "their maps contain no information"),
        "equal": ((low == high) & (largest != 0), "their maps contain no information"),
        f"below {limit:.1g}": (
            (largest > 0) & (largest < limit),
            f"values this small have little precision in {precision}; if the probability is saturated, explain the "
            "class's logit instead",
        ),
    }
    return [
        f"all scores are {value} for images {_indices(images)}: {reason}"
        for value, (images, reason) in cases.items()
        if bool(images.any())
    ]


def _indices(images: Tensor) -> list[int]:
    indices: list[int] = images.nonzero().flatten().tolist()
    return indices
