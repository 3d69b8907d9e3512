"""Targets of classifiers: functions of the logits of classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attribkit.core.devices import sent
from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import PerImage
from attribkit.core.targets.classes import Classes, Labels, indices, one_count, plain
from attribkit.core.targets.outputs import class_scores, has_one_logit, picked, precise
from attribkit.core.targets.target import Remark, Target


@dataclass(frozen=True)
class _OfClasses(Target):
    """A target whose fields each name a class, by its index or label, for all images, or one for each."""

    def __post_init__(self) -> None:
        for name, given in vars(self).items():
            object.__setattr__(self, name, plain(given))

    @property
    def count(self) -> int | None:
        return one_count(self, *vars(self).values())

    @property
    def kind(self) -> str:
        return "classes"

    def part(self, images: slice) -> "Target":
        return self._mapped(lambda classes: classes[images] if isinstance(classes, tuple) else classes)

    def repeated(self, times: int) -> "Target | None":
        return self._mapped(lambda classes: classes * times if isinstance(classes, tuple) else classes)

    def with_indices(self, labels: Labels) -> "Target":
        return self._mapped(lambda classes: indices(classes, labels))

    def remarks(self, outputs: Any) -> list[Remark]:
        return _of_one_logit(outputs)

    def _mapped(self, change: Callable[[Any], Any]) -> "Target":
        return replace(self, **{name: change(classes) for name, classes in vars(self).items()})


@dataclass(frozen=True)
class ClassLogit(_OfClasses):
    """The class's score as the model outputs it, before any softmax; the negated logit for class 0 of a single one."""

    index: Classes

    def __call__(self, outputs: Any) -> PerImage:
        return _logit(outputs, self.index)


@dataclass(frozen=True)
class Probability(_OfClasses):
    """The class's softmax probability, a single logit's sigmoid; its gradient vanishes where the model is certain."""

    index: Classes

    def __call__(self, outputs: Any) -> PerImage:
        logits = precise(class_scores(outputs))  # in half of it, probabilities near one have two digits
        own = picked(logits, self.index)
        classes = sent(self.index, logits.device).expand(len(logits))[:, None]
        others = logits.scatter(1, classes, torch.finfo(logits.dtype).min).logsumexp(1)
        # 1 / (1 + exp(others - own)): of a softmax that rounds to one, the derivative by the own logit would be lost.
        return (-torch.logaddexp(torch.zeros_like(own), others - own)).exp()


@dataclass(frozen=True)
class Counterfactual(_OfClasses):
    """What speaks against the class: its negated logit (Selvaraju et al., ICCV 2017, sec. 3.3)."""

    index: Classes

    def __call__(self, outputs: Any) -> PerImage:
        return -_logit(outputs, self.index)


@dataclass(frozen=True)
class Contrast(_OfClasses):
    """Why this class and not that one: the difference of their logits."""

    index: Classes
    against: Classes

    def __call__(self, outputs: Any) -> PerImage:
        logits = class_scores(outputs)
        return picked(logits, self.index) - picked(logits, self.against)


@dataclass(frozen=True)
class MultiLabel(Target):
    """Several classes at once, for models that give an image more than one: the sum of their logits."""

    classes: Any  # indices or labels, of every image; for other classes of each, a list of targets; kept as a tuple

    def __post_init__(self) -> None:
        told = plain(self.classes)
        if not isinstance(told, tuple) or len(set(told)) < len(told):
            raise InvalidInput(f"MultiLabel takes several classes, each once, as in MultiLabel((3, 7)), got {told!r}.")
        object.__setattr__(self, "classes", told)

    def __call__(self, outputs: Any) -> PerImage:
        return torch.stack([_logit(outputs, each) for each in self.classes]).sum(0)  # type: ignore[arg-type]

    @property
    def kind(self) -> str:
        return "classes"

    def repeated(self, times: int) -> "Target":
        return self

    def with_indices(self, labels: Labels) -> "Target":
        return MultiLabel(indices(self.classes, labels))

    def remarks(self, outputs: Any) -> list[Remark]:
        return _of_one_logit(outputs)


@dataclass(frozen=True)
class Predicted(Target):
    """The class that the model scores highest; ``target=None`` means this, and a result holds the class it came to."""

    @property
    def kind(self) -> str:
        return "classes"

    @property
    def is_open(self) -> bool:
        return True

    def __call__(self, outputs: Any) -> PerImage:
        largest = class_scores(outputs).max(1).values
        return 2 * largest if has_one_logit(outputs) else largest

    def evidence(self, outputs: Any) -> list[Tensor]:
        return list(class_scores(outputs).max(1).indices)

    def settled(self, evidence: Sequence[Tensor]) -> "Target":
        return ClassLogit(tuple(torch.stack(list(evidence)).tolist()))

    def remarks(self, outputs: Any) -> list[Remark]:
        return _of_one_logit(outputs)


def as_probability(target: Target) -> Target:
    """The probability of the class whose logit the target scores; a target that is no class's logit as it is."""
    return Probability(target.index) if isinstance(target, ClassLogit) else target


def as_logit(target: Target) -> Target:
    """The logit of the class whose probability the target scores; any other target as it is."""
    return ClassLogit(target.index) if isinstance(target, Probability) else target


def _logit(outputs: Any, index: Any) -> PerImage:
    """The class's logit; of a single one, the logit or its negation."""
    own = picked(class_scores(outputs), index)
    return 2 * own if has_one_logit(outputs) else own


def _of_one_logit(outputs: Any) -> list[Remark]:
    told = "the model has one logit: it scores class 1, its negation class 0, and its sign is the prediction"
    return [(told, None)] if has_one_logit(outputs) else []
