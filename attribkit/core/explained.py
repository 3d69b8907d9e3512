"""What a method gives, checked, with all that is needed to read it."""

from typing import Any

import torch
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.diagnosis import diagnosis_of
from attribkit.core.errors import AttribkitError
from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.targets.outputs import precise
from attribkit.core.targets.target import Target


def explained(explain: Method, model: HookedModel, x: Tensor, question: Target) -> Attribution:
    """Explain x, and keep the method, its answer and what a careful reader should know."""
    scores = explain(model, x, question)
    target = model.resolved(question)
    model.signs.check(explain)
    _check_scores(scores, x, explain)
    scores = precise(scores.detach()).contiguous()
    found = diagnosis_of(model, x, target).notes if model.signs.ran else []
    notes = (*model.inputs.notes(), *model.notes, *found, *_remarks(scores, x.dtype))
    return Attribution(scores, x, target, explain, notes)


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
