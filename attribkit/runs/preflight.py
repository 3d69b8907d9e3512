"""What would make an answer wrong for a model, found before anything is explained."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from attribkit.core.errors import AttribkitError, UnsupportedModel
from attribkit.core.inputs import Inputs
from attribkit.core.shapes import Images
from attribkit.engine.batched_model import LayersDiffer
from attribkit.engine.diagnostics import ALL_GENERATORS, Diagnostics
from attribkit.engine.model import HookedModel
from attribkit.runs.diagnosis import (
    Diagnosis,
    batch_dependence,
    batch_rounding,
    contradicted_slopes,
    key_of,
    precision_of,
    randomness,
    unused_draws,
    wrong_gradient,
)
from attribkit.targets.target import Target


@dataclass(frozen=True)
class Finding:
    """Something that a careful user should know of a model."""

    level: Literal["error", "note"]  # an error: some methods cannot answer; a note: the answer needs care
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.text}"


def preflight(model: HookedModel, x: Images, target: Target, inputs: Inputs) -> list[Finding]:
    """Every finding of every check below; the model is frozen, x holds at least two images; inputs: a row for each.

    What is found of the model itself is kept, so that later answers about images of this size carry it.
    """
    findings: list[Finding] = []
    kept: dict[str, Any] = {}
    for kind, check in _CHECKS:
        if kind and "randomness" in kept:
            continue  # scores that differ by chance tell nothing of batches and slopes
        asked = model.bind(x, inputs)
        asked.diagnostics = Diagnostics(ALL_GENERATORS)
        try:
            found = check(asked, x, asked.resolve(target))
            findings += [Finding("note", text) for text in found + asked.notes]
            if kind and found:
                kept[kind] = found[0]
        except AttribkitError as error:
            findings.append(Finding("error", str(error)))
            if not isinstance(
                error, UnsupportedModel
            ):  # the question itself is wrong; the other checks would repeat it
                break
    model.diagnoses[key_of(model, x)] = Diagnosis(**kept)
    if len(x) < 2:
        findings.append(Finding("note", "whether images disturb each other was not tested: give at least two"))
    return list(dict.fromkeys(findings))


def _repeats_itself(model: HookedModel, x: Tensor, target: Target) -> list[str]:
    first, second = model.score(x, target), model.score(x, target)
    if torch.equal(first, second):
        return []
    return [randomness(float((first - second).abs().max()), float(first.abs().max()), model.diagnostics.drawn)]


def _draws_nothing(model: HookedModel, x: Tensor, target: Target) -> list[str]:
    for _ in range(2):
        model.score(x, target)
    return [unused_draws(model.diagnostics.drawn_anew)] if model.diagnostics.drawn_anew else []


def _images_are_independent(model: HookedModel, x: Tensor, target: Target) -> list[str]:
    images = [slice(i, i + 1) for i in range(len(x))]
    apart = torch.cat([model.subset(each).score(x[each], target.subset(each)) for each in images])
    together = model.score(x, target)
    gap, scale = float((apart - together).abs().max()), float(apart.abs().max())
    return [batch_dependence(gap, scale)] if gap > scale * batch_rounding(precision_of(model, x)) else []


def _gradient_is_the_derivative(model: HookedModel, x: Tensor, target: Target) -> list[str]:
    slopes = contradicted_slopes(model, x, target)
    model.notes.clear()
    return [wrong_gradient(slopes)] if slopes else []


def _gradient_reaches_the_images(model: HookedModel, x: Tensor, target: Target) -> list[str]:
    gradient = model.gradient(x, target).flatten(1)
    blind = (gradient == 0).all(1).nonzero().flatten().tolist()
    return (
        [f"the gradient of the score is exactly zero for images {blind}: an untrained or saturated output?"]
        if blind
        else []
    )


def _default_layer_sees(model: HookedModel, x: Tensor, target: Target) -> list[str]:
    try:
        model.activation_and_gradient(x, target)  # leaves its own notes where the gradient does not reach
    except LayersDiffer:
        for one, own in model.one_by_one(target):
            one.activation_and_gradient(one.images, own)
    model.notes[:] = [note for note in model.notes if not note.startswith("layer=")]  # the choice itself is no finding
    return []


_CHECKS: list[tuple[str | None, Callable[[HookedModel, Tensor, Any], list[str]]]] = [  # with the kind of a Diagnosis
    ("randomness", _repeats_itself),
    ("draws", _draws_nothing),
    ("batch", _images_are_independent),
    (None, _gradient_reaches_the_images),
    (None, _default_layer_sees),
    ("gradient", _gradient_is_the_derivative),
]
