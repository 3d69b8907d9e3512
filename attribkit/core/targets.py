"""What is explained: a score per image, computed from the model's outputs."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribkit.core.errors import AttribkitError, InvalidInput, UnknownName
from attribkit.core.shapes import PerImage

Classes = Any  # a class index or label; or one per image, as a sequence, array or tensor
Labels = Sequence[str] | Callable[[], Sequence[str]] | None  # the names of the classes in order, or what makes them


class Target(ABC):
    """A score per image, computed from a model's outputs."""

    @abstractmethod
    def __call__(self, outputs: Any) -> PerImage:
        """Score each image from what the model returned; differentiable."""

    @property
    def count(self) -> int | None:
        """How many images it speaks of; None is any number."""
        return None

    @property
    def kind(self) -> Any:
        """Equal for targets that read the same part of a model's outputs."""
        return type(self)

    def part(self, images: slice) -> "Target":
        """The same question about some of the images."""
        return self

    def repeated(self, times: int) -> "Target | None":
        """The same question about the images, several times in a row; None where it cannot be put so."""
        return None


@dataclass(frozen=True)
class _OfClasses(Target):
    """A target whose fields each name a class, by its index or label, for all images, or one for each."""

    def __post_init__(self) -> None:
        for name, given in vars(self).items():
            object.__setattr__(self, name, _plain(given))

    @property
    def count(self) -> int | None:
        counts = {len(classes) for classes in vars(self).values() if isinstance(classes, tuple)}
        if len(counts) > 1:
            raise InvalidInput(f"{self} names different numbers of classes: give as many of each.")
        return counts.pop() if counts else None

    @property
    def kind(self) -> str:
        return "classes"

    def part(self, images: slice) -> "Target":
        return self._mapped(lambda classes: classes[images] if isinstance(classes, tuple) else classes)

    def repeated(self, times: int) -> "Target | None":
        return self._mapped(lambda classes: classes * times if isinstance(classes, tuple) else classes)

    def with_indices(self, labels: Labels) -> "Target":
        """The same with every label exchanged for the index of its class."""
        names = functools.cache(lambda: labels() if callable(labels) else labels)  # read only if there is a label
        return self._mapped(
            lambda classes: _each(classes, lambda c: _labelled(c, names()) if isinstance(c, str) else c)
        )

    def _mapped(self, change: Callable[[Any], Any]) -> "Target":
        return replace(self, **{name: change(classes) for name, classes in vars(self).items()})


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
        logits = class_scores(outputs)
        own = _picked(logits, self.index)
        classes = torch.as_tensor(self.index, device=logits.device).expand(len(logits))[:, None]
        others = logits.scatter(1, classes, torch.finfo(logits.dtype).min).logsumexp(1)
        # 1 / (1 + exp(others - own)): of a softmax that rounds to one, the derivative by the own logit would be lost.
        return (-torch.logaddexp(torch.zeros_like(own), others - own)).exp()


@dataclass(frozen=True)
class Counterfactual(_OfClasses):
    """What speaks against the class: its negated logit (Selvaraju et al., ICCV 2017, sec. 3.3)."""

    index: Classes

    def __call__(self, outputs: Any) -> PerImage:
        return -_picked(class_scores(outputs), self.index)


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

    @property
    def kind(self) -> str:
        return "classes"

    def __call__(self, outputs: Any) -> PerImage:
        return class_scores(outputs).max(1).values


@dataclass(frozen=True)
class Scored(Target):
    """Any function of the model's outputs.

    function: the model's outputs to one score per image, a tensor of shape (b,).
    """

    function: Callable[[Any], Tensor]

    @property
    def kind(self) -> Any:
        return getattr(self.function, "__code__", type(self.function))

    def __call__(self, outputs: Any) -> PerImage:
        scores = self.function(outputs)
        if not isinstance(scores, Tensor) or scores.ndim != 1:
            got = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise InvalidInput(
                f"The target {self.function!r} returned {got}; it must return one score per image, (b,)."
            )
        return scores


def as_target(target: Any, labels: Labels = None) -> Target:
    """Read what a user may give as a target: nothing, a class, a label, one per image, a Target, or a function."""
    if target is None:
        return Predicted()
    if callable(target) and not isinstance(target, Target):
        return Scored(target)
    read = target if isinstance(target, Target) else ClassLogit(target)
    return read.with_indices(labels) if isinstance(read, _OfClasses) else read


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
        widths = [each.shape[1] for each in outputs if isinstance(each, Tensor) and each.ndim == 2]
        if len(widths) > 1:
            raise InvalidInput(
                f"The model returned several tensors that could be class scores, of {widths} columns: pass "
                "target=function, which picks from the model's outputs, as in lambda outputs: outputs[1][:, 3]."
            )
    if isinstance(scores, Tensor) and scores.ndim == 2:
        return scores
    got = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(outputs).__name__
    raise InvalidInput(
        f"The model returned {got}, not class scores of shape (b, classes): pass target=function, "
        "where function turns the model's outputs into one score per image."
    )


def _picked(scores: Tensor, index: Any) -> PerImage:
    """Each image's class."""
    classes = scores.shape[1]
    wrong = [i for i in ([index] if isinstance(index, int) else index) if not 0 <= i < classes]
    if wrong:
        raise InvalidInput(f"There is no class {wrong[0]}: the model has {classes} classes, 0 to {classes - 1}.")
    if isinstance(index, int):
        return scores[:, index]
    return scores.gather(1, torch.tensor(index, device=scores.device)[:, None]).squeeze(1)


def _plain(classes: Any) -> Any:
    """An int or label, or a tuple of them, out of all that people write."""
    if isinstance(classes, np.ndarray | Tensor):
        classes = classes.tolist()
    if isinstance(classes, str) or (isinstance(classes, int | np.integer) and not isinstance(classes, bool)):
        return classes if isinstance(classes, str) else int(classes)
    if isinstance(classes, Sequence) and classes:
        plain = tuple(_plain(each) for each in classes)
        if not any(isinstance(each, tuple) for each in plain):
            return plain
    raise InvalidInput(
        f"target={classes!r} is no class: give a class index, a label name, one of these per image, a Target or a "
        "function of the model's outputs."
    )


def _each(classes: Any, change: Callable[[Any], Any]) -> Any:
    return tuple(change(each) for each in classes) if isinstance(classes, tuple) else change(classes)


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
