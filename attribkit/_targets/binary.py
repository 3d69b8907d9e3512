"""Targets for binary classifiers with a single output."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from attribkit._core.errors import InvalidInput
from attribkit._core.shapes import PerImage
from attribkit._core.tensors import to_device
from attribkit._targets.class_outputs import (
    Classes,
    ClassLabels,
    ClassOutputs,
    as_classes,
    class_probability,
    common_count,
    is_positive,
    negative_class_score,
    read_scores,
    resolve_labels,
)
from attribkit._targets.logits import (
    ClassLogit,
    Counterfactual,
    Probability,
    as_logit,
    as_probability,
    output_notes,
    saturation_notes,
)
from attribkit._targets.target import Target, TargetNote

BinaryScore = Literal["probability", "logit"]


@dataclass(frozen=True)
class Binary(Target):
    """The positive (1) or negative (0) class of a binary classifier with a single output.

    The score of the positive class is the output itself. That of the negative class is the negated output, or 1 - p if
    the model returns probabilities p.

    Args:
        index: 1, 0 or one of two labels, for all images or one per image; None means the predicted class.
        score: "logit" scores the output as the model returns it, "probability" the probability of the class.

    Raises:
        InvalidInput: `index` or `score` is invalid.

    Example:
        >>> from torch import nn
        >>> body = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()
        >>> classifier = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1))
        >>> positive, negative = (
        ...     Explainer(classifier).attribute(x, "gradcam", target=Binary(side), relu=False) for side in (1, 0)
        ... )
        >>> torch.equal(positive.scores, -negative.scores)
        True
    """

    index: Classes | None = None
    score: BinaryScore = "logit"

    def __post_init__(self) -> None:
        index = None if self.index is None else as_classes(self.index)
        for item in index if isinstance(index, tuple) else (index,):
            if isinstance(item, int) and item not in (0, 1):
                raise InvalidInput(f"index must be 1 (positive class), 0 (negative class) or a label, got {item!r}.")
        if self.score not in get_args(BinaryScore):
            raise InvalidInput(f"score must be 'probability' or 'logit', got {self.score!r}.")
        object.__setattr__(self, "index", index)

    @property
    def count(self) -> int | None:
        return common_count(self, self.index)

    @property
    def kind(self) -> str:
        return "classes"

    @property
    def reads_classes(self) -> bool:
        return True

    @property
    def needs_outputs(self) -> bool:
        return self.index is None

    def __call__(self, outputs: Any) -> PerImage:
        parsed = self._read(outputs)
        positive = self._indices(parsed) == 1
        if self.score == "probability":
            positive_probability = class_probability(parsed, 0)
            # sigmoid(-y) is exact where 1 - sigmoid(y) is rounded to zero
            complement = (-parsed.scores[:, 0]).sigmoid() if parsed.kind == "logits" else 1 - positive_probability
            return torch.where(positive, positive_probability, complement)
        output = parsed.scores[:, 0]
        if parsed.kind == "logits":
            return output * (2 * positive.to(output) - 1)  # linear in the output, as `cam` requires
        return torch.where(positive, output, negative_class_score(output, parsed.kind))

    def decision(self, outputs: Any) -> list[Tensor]:
        parsed = self._read(outputs)
        return list(is_positive(parsed.scores[:, 0], parsed.kind).long())

    def resolved(self, decision: Sequence[Tensor]) -> "Target":
        return replace(self, index=tuple(torch.stack(list(decision)).tolist()))

    def subset(self, images: slice) -> "Target":
        return self._mapped(lambda index: index[images])

    def tile(self, times: int) -> "Target":
        return self._mapped(lambda index: index * times)

    def resolve_labels(self, labels: ClassLabels) -> "Target":
        return self if self.index is None else replace(self, index=resolve_labels(self.index, labels))

    def notes(self, outputs: Any) -> list[TargetNote]:
        text = "the model has one output: Binary(1) scores its positive class, Binary(0) its negative class"
        parsed = self._read(outputs)
        return [(text, None), *output_notes(parsed)[1:], *saturation_notes(parsed, 0)]

    def _read(self, outputs: Any) -> ClassOutputs:
        parsed = read_scores(outputs)
        if not parsed.is_single:
            raise InvalidInput(
                f"{self!r} requires a model with one output, but this model has {parsed.scores.shape[1]} classes. Pass "
                "the index of a class."
            )
        return parsed

    def _indices(self, parsed: ClassOutputs) -> Tensor:
        if self.index is None:
            return is_positive(parsed.scores[:, 0], parsed.kind).long()
        return to_device(self.index, parsed.scores.device).expand(len(parsed.scores))

    def _mapped(self, change: Callable[[Any], Any]) -> "Binary":
        return replace(self, index=change(self.index)) if isinstance(self.index, tuple) else self


@dataclass(frozen=True)
class LabelOfTwo(Target):
    """A class given by one of two labels: Binary for a model with one output, a class for a model with two.

    Args:
        named: The target with the index of the label.
    """

    named: ClassLogit | Probability | Counterfactual

    @property
    def count(self) -> int | None:
        return self.named.count

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
        return self._resolved(read_scores(outputs).is_single)(outputs)

    def decision(self, outputs: Any) -> list[Tensor]:
        parsed = read_scores(outputs)
        return list(torch.full((len(parsed.scores),), int(parsed.is_single), device="cpu"))

    def resolved(self, decision: Sequence[Tensor]) -> "Target":
        return self._resolved(bool(decision[0]))

    def subset(self, images: slice) -> "Target":
        return LabelOfTwo(self.named.subset(images))  # type: ignore[arg-type]

    def tile(self, times: int) -> "Target":
        return LabelOfTwo(self.named.tile(times))  # type: ignore[arg-type]

    def notes(self, outputs: Any) -> list[TargetNote]:
        return self._resolved(read_scores(outputs).is_single).notes(outputs)

    def _resolved(self, is_single: bool) -> Target:
        if not is_single:
            return self.named
        index = self.named.index
        if isinstance(self.named, Counterfactual):
            return Binary(tuple(1 - item for item in index) if isinstance(index, tuple) else 1 - index)
        return Binary(index, "probability" if isinstance(self.named, Probability) else "logit")


def resolve_label_of_two(target: Target, labels: ClassLabels) -> Target:
    """Replace labels by class indices; the meaning of one of two labels is resolved by the outputs of the model."""
    resolved = target.resolve_labels(labels)
    if not isinstance(target, ClassLogit | Probability | Counterfactual) or resolved == target:
        return resolved
    names = labels() if callable(labels) else labels
    return LabelOfTwo(resolved) if names is not None and len(names) == 2 else resolved  # type: ignore[arg-type]


def with_binary_score(target: Target, score: BinaryScore) -> Target:
    """Make a class target score the probability or the logit of its class; return other targets unchanged."""
    if isinstance(target, Binary):
        return replace(target, score=score)
    return as_probability(target) if score == "probability" else as_logit(target)
