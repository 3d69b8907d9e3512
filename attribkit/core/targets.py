"""What is explained: a score per image, computed from the model's outputs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attribkit.core.errors import AttribkitError, InvalidInput, UnknownName
from attribkit.core.shapes import PerImage

Classes = int | tuple[int, ...]  # one class for all images, or one for each


class Target(ABC):
    """A score per image, computed from a model's outputs."""

    @abstractmethod
    def __call__(self, outputs: Any) -> PerImage:
        """Score each image from what the model returned; differentiable."""

    @property
    def count(self) -> int | None:
        """How many images it speaks of; None is any number."""
        return None

    def part(self, images: slice) -> "Target":
        """The same question about some of the images."""
        return self


@dataclass(frozen=True)
class _OfClasses(Target):
    """A target whose fields each name a class for all images, or one for each."""

    @property
    def count(self) -> int | None:
        counts = {len(classes) for classes in vars(self).values() if isinstance(classes, tuple)}
        if len(counts) > 1:
            raise InvalidInput(f"{self} names different numbers of classes: give as many of each.")
        return counts.pop() if counts else None

    def part(self, images: slice) -> "Target":
        return replace(self, **{name: _part(classes, images) for name, classes in vars(self).items()})


@dataclass(frozen=True)
class ClassLogit(_OfClasses):
    """The class's score as the model outputs it, before any softmax."""

    index: Classes

    def __call__(self, outputs: Any) -> PerImage:
        return _picked(class_scores(outputs), self.index)


@dataclass(frozen=True)
class Probability(_OfClasses):
    """The class's softmax probability; its gradient vanishes where the model is certain."""

    index: Classes

    def __call__(self, outputs: Any) -> PerImage:
        return _picked(class_scores(outputs).softmax(1), self.index)


@dataclass(frozen=True)
class Contrast(_OfClasses):
    """Why this class and not that one: the difference of their logits."""

    index: Classes
    against: Classes

    def __call__(self, outputs: Any) -> PerImage:
        logits = class_scores(outputs)
        return _picked(logits, self.index) - _picked(logits, self.against)


@dataclass(frozen=True)
class Predicted(Target):
    """The class that the model scores highest; ``target=None`` means this, and a result holds the class it came to."""

    def __call__(self, outputs: Any) -> PerImage:
        return class_scores(outputs).max(1).values


@dataclass(frozen=True)
class Scored(Target):
    """Any function of the model's outputs.

    function: the model's outputs to one score per image, a tensor of shape (b,).
    """

    function: Callable[[Any], Tensor]

    def __call__(self, outputs: Any) -> PerImage:
        scores = self.function(outputs)
        if not isinstance(scores, Tensor) or scores.ndim != 1:
            got = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise InvalidInput(
                f"The target {self.function!r} returned {got}; it must return one score per image, (b,)."
            )
        return scores


def as_target(target: Any, labels: Sequence[str] | Callable[[], Sequence[str]] | None = None) -> Target:
    """Read what a user may give as a target: nothing, a class, a label, one per image, a Target, or a function.

    labels: the names of the classes in order, or what makes them when they are needed.
    """
    if target is None:
        return Predicted()
    if isinstance(target, Target):
        return target
    if callable(target):
        return Scored(target)
    names = labels() if callable(labels) and _has_label(target) else labels
    return ClassLogit(_classes(target, None if callable(names) else names))


def check_count(target: Target, images: int) -> None:
    """Refuse a target that speaks of another number of images."""
    if target.count not in (None, images):
        raise InvalidInput(f"{target.count} targets for {images} images: give one for all of them, or one per image.")


def class_scores(outputs: Any) -> Tensor:
    """The (b, classes) tensor among what a model returned: a tensor, ``.logits``, ``["logits"]`` or a first entry."""
    scores = outputs
    if not isinstance(scores, Tensor):
        scores = getattr(outputs, "logits", None)
    if scores is None and isinstance(outputs, Mapping):
        scores = outputs.get("logits")
    if scores is None and isinstance(outputs, tuple | list) and outputs:
        scores = outputs[0]
    if isinstance(scores, Tensor) and scores.ndim == 2:
        return scores
    got = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(outputs).__name__
    raise InvalidInput(
        f"The model returned {got}, not class scores of shape (b, classes): pass target=function, "
        "where function turns the model's outputs into one score per image."
    )


def _picked(scores: Tensor, index: Classes) -> PerImage:
    """Each image's class."""
    classes = scores.shape[1]
    wrong = [i for i in ([index] if isinstance(index, int) else index) if not 0 <= i < classes]
    if wrong:
        raise InvalidInput(f"There is no class {wrong[0]}: the model has {classes} classes, 0 to {classes - 1}.")
    if isinstance(index, int):
        return scores[:, index]
    return scores.gather(1, torch.tensor(index, device=scores.device)[:, None]).squeeze(1)


def _part(index: Classes, images: slice) -> Classes:
    return index if isinstance(index, int) else index[images]


def _classes(target: Any, labels: Sequence[str] | None) -> Classes:
    if isinstance(target, str):
        return _labelled(target, labels)
    if isinstance(target, Tensor) or hasattr(target, "__array__"):
        target = target.tolist()
    if isinstance(target, int) and not isinstance(target, bool):
        return target
    if isinstance(target, Sequence) and target:
        classes = [_classes(each, labels) for each in target]
        if all(isinstance(each, int) for each in classes):
            return tuple(classes)  # type: ignore[arg-type]
    raise InvalidInput(
        f"target={target!r} is no class: give a class index, a label name, one of these per image, a Target or a "
        "function of the model's outputs."
    )


def _has_label(target: Any) -> bool:
    return isinstance(target, str) or (isinstance(target, Sequence) and any(isinstance(t, str) for t in target))


def _labelled(name: str, labels: Sequence[str] | None) -> int:
    """The class of a label: its whole name, or one of the synonyms in it where only one class has that."""
    if labels is None:
        raise InvalidInput(
            f"target={name!r} is a label name, and this model's labels are not known: give the class index, or "
            "Explainer(model, spec=ModelSpec(labels=[...]))."
        )
    wanted = name.strip().lower()
    whole = [i for i, label in enumerate(labels) if label.lower() == wanted]
    synonyms = [i for i, label in enumerate(labels) if wanted in label.lower().split(", ")]
    found = whole or synonyms
    if len(found) > 1:
        raise AttribkitError(f"Several classes are named {name!r}: {found}; give the index of one.")
    if not found:
        raise UnknownName("label", name, labels)
    return found[0]
