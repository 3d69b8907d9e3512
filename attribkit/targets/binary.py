"""The sides of a model with one output, which tells two classes apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import PerImage
from attribkit.core.tensors import to_device
from attribkit.targets.class_outputs import (
    Classes,
    ClassLabels,
    ClassOutputs,
    as_plain,
    is_positive,
    negative,
    one_count,
    probability,
    read_scores,
    resolve_labels,
)
from attribkit.targets.logits import (
    ClassLogit,
    Counterfactual,
    Probability,
    as_logit,
    as_probability,
    of_outputs,
    saturation,
)
from attribkit.targets.target import Target, TargetNote

BinaryScore = Literal["probability", "logit"]  # of a class


@dataclass(frozen=True)
class Binary(Target):
    """A side of a model with one output: 1 is the positive class, 0 the negative one.

    The score of the positive side is the output itself, that of the negative side its negation (1 - p of a model that
    returns probabilities p).
    """

    index: Classes | None = None  # 1, 0 or one of two labels, or one for each image; None is the predicted side
    score: BinaryScore = "logit"  # "logit" is the output as the model returns it, "probability" the side's probability

    def __post_init__(self) -> None:
        told = None if self.index is None else as_plain(self.index)
        for each in told if isinstance(told, tuple) else (told,):
            if isinstance(each, int) and each not in (0, 1):
                raise InvalidInput(f"index={each!r} is no side of a model with one output: give 1, 0 or a label.")
        if self.score not in get_args(BinaryScore):
            raise InvalidInput(f"score={self.score!r} is neither 'probability' nor 'logit'.")
        object.__setattr__(self, "index", told)

    @property
    def count(self) -> int | None:
        return one_count(self, self.index)

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
        found = self._found(outputs)
        positive = self._sides(found) == 1
        if self.score == "probability":
            own = probability(found, 0)
            # sigmoid(-y) is exact where 1 - sigmoid(y) would be rounded to zero
            other = (-found.scores[:, 0]).sigmoid() if found.kind == "logits" else 1 - own
            return torch.where(positive, own, other)
        own = found.scores[:, 0]
        if found.kind == "logits":
            return own * (2 * positive.to(own) - 1)  # linear in the output, as `cam` needs it
        return torch.where(positive, own, negative(own, found.kind))

    def decision(self, outputs: Any) -> list[Tensor]:
        found = self._found(outputs)
        return list(is_positive(found.scores[:, 0], found.kind).long())

    def resolved(self, decision: Sequence[Tensor]) -> "Target":
        return replace(self, index=tuple(torch.stack(list(decision)).tolist()))

    def subset(self, images: slice) -> "Target":
        return self._mapped(lambda sides: sides[images])

    def tile(self, times: int) -> "Target":
        return self._mapped(lambda sides: sides * times)

    def resolve_labels(self, labels: ClassLabels) -> "Target":
        return self if self.index is None else replace(self, index=resolve_labels(self.index, labels))

    def notes(self, outputs: Any) -> list[TargetNote]:
        told = "the model has one output: Binary(1) scores its positive side, Binary(0) its negative side"
        found = self._found(outputs)
        return [(told, None), *of_outputs(found)[1:], *saturation(found, 0)]

    def _found(self, outputs: Any) -> ClassOutputs:
        found = read_scores(outputs)
        if not found.is_single:
            raise InvalidInput(
                f"{self!r} is for models with one output, and this model has {found.scores.shape[1]} classes: give the "
                "index of a class."
            )
        return found

    def _sides(self, found: ClassOutputs) -> Tensor:
        if self.index is None:
            return is_positive(found.scores[:, 0], found.kind).long()
        return to_device(self.index, found.scores.device).expand(len(found.scores))

    def _mapped(self, change: Callable[[Any], Any]) -> "Binary":
        return replace(self, index=change(self.index)) if isinstance(self.index, tuple) else self


@dataclass(frozen=True)
class LabelOfTwo(Target):
    """A class named by one of two labels: a side of a model with one output, and a class of a model with two."""

    named: ClassLogit | Probability | Counterfactual  # with the label's index

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
        found = read_scores(outputs)
        return list(torch.full((len(found.scores),), int(found.is_single), device="cpu"))

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
            return Binary(tuple(1 - each for each in index) if isinstance(index, tuple) else 1 - index)
        return Binary(index, "probability" if isinstance(self.named, Probability) else "logit")


def resolve_label_of_two(target: Target, labels: ClassLabels) -> Target:
    """A target with its labels exchanged for indices; of two labels, what they mean waits for the model's outputs."""
    read = target.resolve_labels(labels)
    if not isinstance(target, ClassLogit | Probability | Counterfactual) or read == target:
        return read
    names = labels() if callable(labels) else labels
    return LabelOfTwo(read) if names is not None and len(names) == 2 else read  # type: ignore[arg-type]


def with_binary_score(target: Target, score: BinaryScore) -> Target:
    """The probability, or the logit, of the class or side that a target scores; any other target as it is."""
    if isinstance(target, Binary):
        return replace(target, score=score)
    return as_probability(target) if score == "probability" else as_logit(target)
