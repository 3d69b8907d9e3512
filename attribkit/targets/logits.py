"""Targets of classifiers: functions of the logits of classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import PerImage
from attribkit.targets.class_outputs import (
    Classes,
    ClassLabels,
    ClassOutputs,
    as_plain,
    is_saturated,
    one_count,
    probability,
    read_scores,
    resolve_labels,
)
from attribkit.targets.outputs import select_classes
from attribkit.targets.target import Target, TargetNote


@dataclass(frozen=True)
class _OfClasses(Target):
    """A target whose fields each name a class, by its index or label, for all images, or one for each."""

    def __post_init__(self) -> None:
        for name, given in vars(self).items():
            object.__setattr__(self, name, as_plain(given))

    @property
    def count(self) -> int | None:
        return one_count(self, *vars(self).values())

    @property
    def kind(self) -> str:
        return "classes"

    @property
    def reads_classes(self) -> bool:
        return True

    def subset(self, images: slice) -> "Target":
        return self._mapped(lambda classes: classes[images] if isinstance(classes, tuple) else classes)

    def tile(self, times: int) -> "Target | None":
        return self._mapped(lambda classes: classes * times if isinstance(classes, tuple) else classes)

    def resolve_labels(self, labels: ClassLabels) -> "Target":
        return self._mapped(lambda classes: resolve_labels(classes, labels))

    def notes(self, outputs: Any) -> list[TargetNote]:
        found = read_scores(outputs)
        return [*of_outputs(found), *saturation(found, *vars(self).values())]

    def _mapped(self, change: Callable[[Any], Any]) -> "Target":
        return replace(self, **{name: change(classes) for name, classes in vars(self).items()})


@dataclass(frozen=True)
class ClassLogit(_OfClasses):
    """The class's score as the model returns it: its logit, or its probability where the model returns probabilities.

    A model with one output has the index 0, the output itself.
    """

    index: Classes

    def __call__(self, outputs: Any) -> PerImage:
        return select_classes(read_scores(outputs).scores, self.index)


@dataclass(frozen=True)
class Probability(_OfClasses):
    """The class's probability, which has nearly no gradient where the model is certain.

    It is the softmax of logits, the sigmoid of a single one, and what a model that returns probabilities returns.
    """

    index: Classes

    def __call__(self, outputs: Any) -> PerImage:
        return probability(read_scores(outputs), self.index)

    def notes(self, outputs: Any) -> list[TargetNote]:
        found = read_scores(outputs)
        told = "the model has one output: its probability is the sigmoid of it, that of the positive side"
        single: list[TargetNote] = [(told, None)] if found.is_single and found.kind == "logits" else []
        return [*single, *_of_kind(found), *saturation(found, self.index)]


@dataclass(frozen=True)
class Counterfactual(_OfClasses):
    """What speaks against the class: its negated score (Selvaraju et al., ICCV 2017, sec. 3.3)."""

    index: Classes

    def __call__(self, outputs: Any) -> PerImage:
        return -select_classes(read_scores(outputs).scores, self.index)


@dataclass(frozen=True)
class Contrast(_OfClasses):
    """Why this class and not that one: the difference of their scores."""

    index: Classes
    against: Classes

    def __call__(self, outputs: Any) -> PerImage:
        found = read_scores(outputs)
        if found.is_single:
            raise InvalidInput(
                f"{self!r}: the model has one output, and no two classes to compare. Use index 0 for the output "
                "itself, or Binary(0) for its negative side."
            )
        return select_classes(found.scores, self.index) - select_classes(found.scores, self.against)


@dataclass(frozen=True)
class MultiLabel(Target):
    """Several classes at once, for models that give an image more than one: the sum of their scores."""

    classes: Any  # indices or labels, of every image; for other classes of each, a list of targets; kept as a tuple

    def __post_init__(self) -> None:
        told = as_plain(self.classes)
        if not isinstance(told, tuple) or len(set(told)) < len(told):
            raise InvalidInput(f"MultiLabel takes several classes, each once, as in MultiLabel((3, 7)), got {told!r}.")
        object.__setattr__(self, "classes", told)

    def __call__(self, outputs: Any) -> PerImage:
        scores = read_scores(outputs).scores
        return torch.stack([select_classes(scores, each) for each in self.classes]).sum(0)

    @property
    def kind(self) -> str:
        return "classes"

    @property
    def reads_classes(self) -> bool:
        return True

    def tile(self, times: int) -> "Target":
        return self

    def resolve_labels(self, labels: ClassLabels) -> "Target":
        return MultiLabel(resolve_labels(self.classes, labels))

    def notes(self, outputs: Any) -> list[TargetNote]:
        found = read_scores(outputs)
        return [*of_outputs(found), *saturation(found, *self.classes)]


@dataclass(frozen=True)
class Predicted(Target):
    """The class that the model scores highest, or the output of a model that has one; ``target=None`` means this.

    A result holds the class it came to, index 0 for a single output.
    """

    @property
    def kind(self) -> str:
        return "classes"

    @property
    def reads_classes(self) -> bool:
        return True

    @property
    def needs_outputs(self) -> bool:
        return True

    def __call__(self, outputs: Any) -> PerImage:
        return read_scores(outputs).scores.max(1).values

    def decision(self, outputs: Any) -> list[Tensor]:
        return list(read_scores(outputs).scores.max(1).indices)

    def resolved(self, decision: Sequence[Tensor]) -> "Target":
        return ClassLogit(tuple(torch.stack(list(decision)).tolist()))

    def notes(self, outputs: Any) -> list[TargetNote]:
        found = read_scores(outputs)
        if found.kind == "logits":
            return of_outputs(found)
        return [*of_outputs(found), *saturation(found, tuple(found.scores.argmax(1).tolist()))]


def as_probability(target: Target) -> Target:
    """The probability of the class whose logit the target scores; a target that is no class's logit as it is."""
    return Probability(target.index) if isinstance(target, ClassLogit) else target


def as_logit(target: Target) -> Target:
    """The logit of the class whose probability the target scores; any other target as it is."""
    return ClassLogit(target.index) if isinstance(target, Probability) else target


def of_outputs(found: ClassOutputs) -> list[TargetNote]:
    """What a reader should know of scores that are what the model returned."""
    told = "the model has one output: the score is the output itself; Binary(0) asks for its negative side"
    return [*([(told, None)] if found.is_single else []), *_of_kind(found)]


def _of_kind(found: ClassOutputs) -> list[TargetNote]:
    """What the scores are, where they are no logits."""
    if found.unsure:
        return [
            (
                "the outputs lie between 0 and 1 and were read as logits, since no gradient leads to them that shows "
                'what they are: ModelSpec(outputs="probabilities") reads them as probabilities',
                None,
            )
        ]
    kind = found.kind.replace("_", "-")
    return [] if kind == "logits" else [(f"the model returns {kind}, which are scored as they are", None)]


def saturation(found: ClassOutputs, *classes: Classes) -> list[TargetNote]:
    """Where a probability of these classes hardly changes with the image, because it is nearly 0 or 1."""
    if found.kind == "logits":
        return []
    own = torch.stack([is_saturated(select_classes(found.scores, each), found.kind) for each in classes]).any(0)
    return [("the probability is nearly 0 or 1, so that its gradient nearly vanishes: explain the logits", own)]
