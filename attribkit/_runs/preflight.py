"""Checks of a model before it is explained: properties that make attributions wrong or unreliable."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from attribkit._core.errors import AttribkitError, UnsupportedModel
from attribkit._core.inputs import Inputs
from attribkit._core.shapes import Images
from attribkit._engine.batched_model import LayersDiffer
from attribkit._engine.diagnostics import ALL_GENERATORS, Diagnostics
from attribkit._engine.model import HookedModel
from attribkit._runs.diagnosis import (
    Diagnosis,
    batch_dependence_note,
    batch_rounding,
    contradicted_slopes,
    diagnosis_key,
    precision_of,
    randomness_note,
    unused_draws_note,
    wrong_gradient_note,
)
from attribkit._targets.target import Target


@dataclass(frozen=True)
class Finding:
    """A property of a model that affects its attributions; `str()` gives one line.

    Args:
        level: "error" if some methods cannot explain the model; "note" if their results need care.
        text: What was found, and what to do.
    """

    level: Literal["error", "note"]
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.text}"


def preflight(model: HookedModel, x: Images, target: Target, inputs: Inputs) -> list[Finding]:
    """Run all checks of a frozen model and return their findings.

    The findings about the model itself are stored, and later results for images of this size include them.

    Args:
        model: The model.
        x: A few images, (b, c, *space); at least two to test whether they affect each other.
        target: The target to explain.
        inputs: The other inputs of the model, a row for each image.
    """
    findings: list[Finding] = []
    diagnosis: dict[str, Any] = {}
    for kind, check in _CHECKS:
        if kind and "randomness" in diagnosis:
            continue  # scores that differ by chance do not show an effect of the batch or a wrong slope
        bound = model.bind(x, inputs)
        bound.diagnostics = Diagnostics(ALL_GENERATORS)
        try:
            resolved = bound.resolve(target)
            fresh = bound.subset(slice(None))  # without the scores that the bound model keeps
            texts = check(fresh, fresh.images, resolved)
            findings += [Finding("note", text) for text in texts + bound.notes]
            if kind and texts:
                diagnosis[kind] = texts[0]
        except AttribkitError as error:
            findings.append(Finding("error", str(error)))
            if not isinstance(error, UnsupportedModel):  # an invalid target: the other checks would repeat the error
                break
    model.diagnoses[diagnosis_key(model, x)] = Diagnosis(**diagnosis)
    if len(x) < 2:
        text = "whether the images of a batch affect each other was not tested: pass at least two images"
        findings.append(Finding("note", text))
    return list(dict.fromkeys(findings))


def _scores_are_deterministic(model: HookedModel, x: Tensor, target: Target) -> list[str]:
    first, second = model.score(x, target), model.score(x, target)
    if torch.equal(first, second):
        return []
    return [randomness_note(float((first - second).abs().max()), float(first.abs().max()), model.diagnostics.drawn)]


def _draws_no_random_numbers(model: HookedModel, x: Tensor, target: Target) -> list[str]:
    for _ in range(2):
        model.score(x, target)
    return [unused_draws_note(model.diagnostics.drawn_anew)] if model.diagnostics.drawn_anew else []


def _images_are_independent(model: HookedModel, x: Tensor, target: Target) -> list[str]:
    images = [slice(i, i + 1) for i in range(len(x))]
    separate = torch.cat([model.subset(each).score(x[each], target.subset(each)) for each in images])
    together = model.score(x, target)
    gap, scale = float((separate - together).abs().max()), float(separate.abs().max())
    return [batch_dependence_note(gap, scale)] if gap > scale * batch_rounding(precision_of(model, x)) else []


def _gradient_is_the_derivative(model: HookedModel, x: Tensor, target: Target) -> list[str]:
    slopes = contradicted_slopes(model, x, target)
    model.notes.clear()
    return [wrong_gradient_note(slopes)] if slopes else []


def _gradient_reaches_the_images(model: HookedModel, x: Tensor, target: Target) -> list[str]:
    gradient = model.gradient(x, target).flatten(1)
    zero = (gradient == 0).all(1).nonzero().flatten().tolist()
    return (
        [f"the gradient of the score is exactly zero for images {zero}: the output may be untrained or saturated"]
        if zero
        else []
    )


def _gradient_reaches_the_default_layer(model: HookedModel, x: Tensor, target: Target) -> list[str]:
    try:
        model.activation_and_gradient(x, target)  # adds notes on grid cells that the gradient does not reach
    except LayersDiffer:
        for one, its_target in model.one_by_one(target):
            one.activation_and_gradient(one.images, its_target)
    model.notes[:] = [note for note in model.notes if not note.startswith("layer=")]  # a chosen layer is not a finding
    return []


_CHECKS: list[tuple[str | None, Callable[[HookedModel, Tensor, Any], list[str]]]] = [  # and its Diagnosis field
    ("randomness", _scores_are_deterministic),
    ("draws", _draws_no_random_numbers),
    ("batch", _images_are_independent),
    (None, _gradient_reaches_the_images),
    (None, _gradient_reaches_the_default_layer),
    ("gradient", _gradient_is_the_derivative),
]
