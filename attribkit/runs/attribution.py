"""What a method gives, checked, with all that is needed to read it."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attribkit.contracts.attribution import Attribution, resized
from attribkit.contracts.method import Method
from attribkit.core.axes import ImageAxes
from attribkit.core.errors import AttribkitError, naming
from attribkit.core.layouts import Extent
from attribkit.core.substrates import options_channels_first
from attribkit.engine.batched_model import LayersDiffer
from attribkit.engine.forward import Reads
from attribkit.engine.model import HookedModel
from attribkit.runs.diagnosis import diagnosis_of
from attribkit.runs.guards import exits_refused, untouched
from attribkit.targets.outputs import precise
from attribkit.targets.target import Target


def explained(explain: Method, model: HookedModel, x: Tensor, question: Target) -> Attribution:
    """Explain x, and keep the method, its answer and what a careful reader should know."""
    with naming("model", model.module), naming("method", explain):
        with exits_refused(explain), untouched(explain, {"the images x": x}):
            scores = _scores(explain, model, x, question)
        target = model.resolved(question)
        model.signs.check(explain)
        _check_scores(scores, x, explain)
    scores = precise(scores.detach()).contiguous()
    found = diagnosis_of(model, x, target).notes if model.signs.ran else []
    notes = (*model.inputs.notes(), *model.notes, *found, *_remarks(scores, x.dtype))
    return Attribution(scores, x, target, explain, notes, extent=_extent(explain, model, scores))


def _extent(explain: Method, model: HookedModel, scores: Tensor) -> Extent | None:
    """Where the scores of a method that reads one layer lie; those made with the pixels' gradients are on the image."""
    layer, reads = getattr(explain, "layer", ""), getattr(explain, "reads", None)
    on_pixels = isinstance(reads, Reads) and bool(reads.gradients)
    alone = layer is None or isinstance(layer, str)
    return model.extent(layer, tuple(scores.shape[2:])) if alone and not on_pixels else None


def explained_as_given(
    explain: Method, model: HookedModel, x: Tensor, question: Target, note: str | None = None
) -> Attribution:
    """The same for images and options in the model's own axes; x: channels first. note: on how the axes were found."""
    axes = model.spec.axes
    if axes is None:
        return explained(explain, model, x, question)
    found = explained(options_channels_first(explain, axes), model, x, question)
    notes = (note, *found.notes) if note else found.notes
    return replace(found, method=explain, notes=notes).restored(ImageAxes(axes))


def _scores(explain: Method, model: HookedModel, x: Tensor, question: Target) -> Any:
    """What the method gives; image by image where the way through the model depends on the image."""
    if not model.depends_on_image(question) or len(x) == 1:
        try:
            return explain(model, x, question)
        except LayersDiffer:
            pass
    maps = [_of_one(explain, one, own) for one, own in model.one_by_one(question)]
    if len({tuple(each.shape[2:]) for each in maps}) > 1:
        model.note("the layer that is read differs between the images: the maps were resized to the images")
        maps = [resized(each, x.shape[2:]) for each in maps]
    return torch.cat(maps)


def _of_one(explain: Method, model: HookedModel, question: Any) -> Tensor:
    scores = explain(model, model.images, question)
    _check_scores(scores, model.images, explain)
    return scores


def _check_scores(scores: Any, x: Tensor, method: Method) -> None:
    """Refuse what a method must not return."""
    if not isinstance(scores, Tensor) or scores.ndim != x.ndim or len(scores) != len(x):
        got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise AttribkitError(
            f"{method!r} returned {got}; a method returns a tensor (b, k, *grid) for its {len(x)} images."
        )
    finite = scores.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise AttribkitError(
            f"{method!r} gave scores that are not finite for images {_where(~finite)}: the model overflows or divides "
            "by zero on them. Look at its outputs; a model of half precision may need float32."
        )


def _remarks(scores: Tensor, precision: torch.dtype) -> list[str]:
    """What the scores themselves tell a careful reader; precision: that of the model."""
    low, high = scores.flatten(1).aminmax(dim=1)
    largest, limit = torch.maximum(low.abs(), high.abs()), torch.finfo(precision).tiny
    told = {
        "zero": ((largest == 0), "the map says nothing about them"),
        "equal": ((low == high) & (largest != 0), "the map says nothing about them"),
        f"below {limit:.1g}": (
            (largest > 0) & (largest < limit),
            f"{precision} has few digits left there; a saturated probability? ask for the class's logit",
        ),
    }
    return [
        f"all scores are {value} for images {_where(images)}: {why}"
        for value, (images, why) in told.items()
        if bool(images.any())
    ]


def _where(images: Tensor) -> list[int]:
    found: list[int] = images.nonzero().flatten().tolist()
    return found
