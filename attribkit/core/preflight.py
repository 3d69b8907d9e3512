"""What would make an answer wrong for a model, found before anything is explained."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from attribkit.core.errors import AttribkitError, UnsupportedModel
from attribkit.core.inputs import Inputs
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images
from attribkit.core.targets.target import Target


@dataclass(frozen=True)
class Finding:
    """Something that a careful user should know of a model."""

    level: Literal["error", "note"]  # an error: some methods cannot answer; a note: the answer needs care
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.text}"


def preflight(model: HookedModel, x: Images, target: Target, inputs: Inputs) -> list[Finding]:
    """Every finding of every check below; the model is frozen, x holds at least two images; inputs: a row for each."""
    findings: list[Finding] = []
    for check in _CHECKS:
        asked = model.explaining(x, inputs)
        try:
            findings += [Finding("note", text) for text in check(asked, x, asked.resolved(target)) + asked.notes]
        except AttribkitError as error:
            findings.append(Finding("error", str(error)))
            if not isinstance(
                error, UnsupportedModel
            ):  # the question itself is wrong; the other checks would repeat it
                break
    return list(dict.fromkeys(findings))


def _repeats_itself(model: HookedModel, x: Tensor, target: Target) -> list[str]:
    if torch.equal(model.score(x, target), model.score(x, target)):
        return []
    return [
        "two forwards of the same images differ: something random is active in evaluation mode (functional dropout?)"
    ]


def _images_are_independent(model: HookedModel, x: Tensor, target: Target) -> list[str]:
    if len(x) < 2:
        return ["whether images disturb each other was not tested: give at least two"]
    images = [slice(i, i + 1) for i in range(len(x))]
    apart = torch.cat([model.part(each).score(x[each], target.part(each)) for each in images])
    together = model.score(x, target)
    if torch.allclose(apart, together, rtol=1e-3, atol=1e-4):
        return []
    gap = float((apart - together).abs().max())
    return [f"an image's score changes by up to {gap:.2g} with the batch that it is in: explain images one by one"]


def _gradient_reaches_the_images(model: HookedModel, x: Tensor, target: Target) -> list[str]:
    gradient = model.gradient(x, target).flatten(1)
    blind = (gradient == 0).all(1).nonzero().flatten().tolist()
    return (
        [f"the gradient of the score is exactly zero for images {blind}: an untrained or saturated output?"]
        if blind
        else []
    )


def _default_layer_sees(model: HookedModel, x: Tensor, target: Target) -> list[str]:
    model.activation_and_gradient(x, target)  # leaves its own notes where the gradient does not reach
    model.notes[:] = [note for note in model.notes if not note.startswith("layer=")]  # the choice itself is no finding
    return []


_CHECKS: list[Callable[[HookedModel, Tensor, Any], list[str]]] = [
    _repeats_itself,
    _images_are_independent,
    _gradient_reaches_the_images,
    _default_layer_sees,
]
