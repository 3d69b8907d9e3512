"""Targets for classifiers: functions of the class scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attribkit._core.errors import InvalidInput
from attribkit._core.shapes import PerImage
from attribkit._targets.class_outputs import (
    Classes,
    ClassLabels,
    ClassOutputs,
    as_classes,
    class_probability,
    common_count,
    is_saturated,
    read_scores,
    resolve_labels,
)
from attribkit._targets.outputs import select_classes
from attribkit._targets.target import Target, TargetNote


@dataclass(frozen=True)
class _OfClasses(Target):
    """A target whose fields are class indices or labels, each for all images or one per image."""

    def __post_init__(self) -> None:
        for name, classes in vars(self).items():
            object.__setattr__(self, name, as_classes(classes))

    @property
    def count(self) -> int | None:
        return common_count(self, *vars(self).values())

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
        parsed = read_scores(outputs)
        return [*output_notes(parsed), *saturation_notes(parsed, *vars(self).values())]

    def _mapped(self, change: Callable[[Any], Any]) -> "Target":
        return replace(self, **{name: change(classes) for name, classes in vars(self).items()})


@dataclass(frozen=True)
class ClassLogit(_OfClasses):
    """The score of a class as the model returns it: its logit, or its probability if the model returns probabilities.

    Args:
        index: Class index or label, for all images or one per image; 0 is the output of a model with a single output.

    Example:
        >>> explainer.attribute(x, "gradcam", target=ClassLogit(("star", "ring"))).target
        ClassLogit(index=(4, 1))
    """

    index: Classes

    def __call__(self, outputs: Any) -> PerImage:
        return select_classes(read_scores(outputs).scores, self.index)


@dataclass(frozen=True)
class Probability(_OfClasses):
    """The probability of a class: the softmax of logits, the sigmoid of a single logit, or the output if it is one.

    Limitations: the gradient nearly vanishes where the probability is near 0 or 1.

    Args:
        index: Class index or label, for all images or one per image; 0 is the output of a model with a single output.

    Example:
        >>> explainer.attribute(x, "gradcam", target=Probability("star")).target
        Probability(index=4)
    """

    index: Classes

    def __call__(self, outputs: Any) -> PerImage:
        return class_probability(read_scores(outputs), self.index)

    def notes(self, outputs: Any) -> list[TargetNote]:
        parsed = read_scores(outputs)
        text = "the model has one output: the probability of its positive class is the sigmoid of the output"
        single: list[TargetNote] = [(text, None)] if parsed.is_single and parsed.kind == "logits" else []
        return [*single, *_kind_notes(parsed), *saturation_notes(parsed, self.index)]


@dataclass(frozen=True)
class Counterfactual(_OfClasses):
    """The negated score of a class: the map shows the evidence against the class.

    Args:
        index: Class index or label, for all images or one per image.

    Reference:
        Selvaraju et al., ICCV 2017, sec. 3.3.

    Example:
        >>> against, evidence = (
        ...     explainer.attribute(x, "gradcam", target=target, relu=False) for target in (Counterfactual(4), 4)
        ... )
        >>> torch.equal(against.scores, -evidence.scores)
        True
    """

    index: Classes

    def __call__(self, outputs: Any) -> PerImage:
        return -select_classes(read_scores(outputs).scores, self.index)


@dataclass(frozen=True)
class Contrast(_OfClasses):
    """The difference of the scores of two classes: the map shows why the model prefers one over the other.

    Args:
        index: Class index or label, for all images or one per image.
        against: The class whose score is subtracted.

    Example:
        >>> explainer.attribute(x, "gradcam", target=Contrast("star", against="ring")).target
        Contrast(index=4, against=1)
    """

    index: Classes
    against: Classes

    def __call__(self, outputs: Any) -> PerImage:
        parsed = read_scores(outputs)
        if parsed.is_single:
            raise InvalidInput(
                f"{self!r} compares two classes, but the model has one output. Use index 0 for the output itself, or "
                "Binary(0) for its negative class."
            )
        return select_classes(parsed.scores, self.index) - select_classes(parsed.scores, self.against)


@dataclass(frozen=True)
class MultiLabel(Target):
    """The sum of the scores of several classes, for multi-label models.

    Args:
        classes: Class indices or labels, the same for all images; stored as a tuple. For different classes per image,
            pass a list of MultiLabel targets.

    Raises:
        InvalidInput: `classes` is not a sequence of distinct classes.

    Example:
        >>> explainer.attribute(x, "gradcam", target=MultiLabel(("star", "ring"))).scores.shape
        torch.Size([2, 1, 8, 8])
    """

    classes: Any

    def __post_init__(self) -> None:
        classes = as_classes(self.classes)
        if not isinstance(classes, tuple) or len(set(classes)) < len(classes):
            raise InvalidInput(
                f"MultiLabel(classes) must be a sequence of distinct classes, such as MultiLabel((3, 7)), got "
                f"{classes!r}."
            )
        object.__setattr__(self, "classes", classes)

    def __call__(self, outputs: Any) -> PerImage:
        scores = read_scores(outputs).scores
        return torch.stack([select_classes(scores, index) for index in self.classes]).sum(0)

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
        parsed = read_scores(outputs)
        return [*output_notes(parsed), *saturation_notes(parsed, *self.classes)]


@dataclass(frozen=True)
class Predicted(Target):
    """The class with the highest score, or the output of a model with a single output; the same as ``target=None``.

    The target of a result is the ClassLogit of the predicted class, with index 0 for a single output.
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
        parsed = read_scores(outputs)
        if parsed.kind == "logits":
            return output_notes(parsed)
        return [*output_notes(parsed), *saturation_notes(parsed, tuple(parsed.scores.argmax(1).tolist()))]


def as_probability(target: Target) -> Target:
    """Convert a ClassLogit to the Probability of its class; return other targets unchanged."""
    return Probability(target.index) if isinstance(target, ClassLogit) else target


def as_logit(target: Target) -> Target:
    """Convert a Probability to the ClassLogit of its class; return other targets unchanged."""
    return ClassLogit(target.index) if isinstance(target, Probability) else target


def output_notes(parsed: ClassOutputs) -> list[TargetNote]:
    """Return notes on targets that score the outputs as the model returns them."""
    text = "the model has one output: the score is the output itself; Binary(0) scores its negative class"
    return [*([(text, None)] if parsed.is_single else []), *_kind_notes(parsed)]


def _kind_notes(parsed: ClassOutputs) -> list[TargetNote]:
    """Return notes on scores that are not logits, or may not be."""
    if parsed.unsure:
        return [
            (
                "the outputs are between 0 and 1 and were treated as logits, because they do not have an autograd "
                "graph that would show whether they are probabilities; if they are, pass "
                'ModelSpec(outputs="probabilities")',
                None,
            )
        ]
    kind = parsed.kind.replace("_", "-")
    return (
        [] if kind == "logits" else [(f"the model returns {kind}, which are used as scores without conversion", None)]
    )


def saturation_notes(parsed: ClassOutputs, *classes: Classes) -> list[TargetNote]:
    """Return notes on images whose probability of one of the classes is nearly 0 or 1."""
    if parsed.kind == "logits":
        return []
    saturated = [is_saturated(select_classes(parsed.scores, index), parsed.kind) for index in classes]
    return [
        (
            "the probability is nearly 0 or 1, so its gradient nearly vanishes: explain the logits",
            torch.stack(saturated).any(0),
        )
    ]
