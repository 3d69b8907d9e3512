"""[core/targets/classes] How classes are told: by an index or a label, one for all images or one for each.
[core/targets/class_outputs] Class scores as targets read them: where they stand among what a model returns, and what they are.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from attribkit.core.errors import AttribkitError, InvalidInput, UnknownName
from attribkit.core.shapes import PerImage
from attribkit.core.spec import OutputKind, kind_by_graph, kind_by_values
from attribkit.core.tensors import to_device
from attribkit.targets.outputs import Link, class_maps, class_scores, find_link, select_classes, to_full_precision

Classes = Any  # a class index or label; or one per image, as a sequence, array or tensor
ClassLabels = (
    Sequence[str] | Callable[[], Sequence[str]] | None
)  # the names of the classes in order, or what makes them


def as_plain(classes: Any) -> Any:
    """An int or label, or a tuple of them, out of all that people write."""
    if isinstance(classes, np.ndarray | Tensor):
        classes = classes.tolist()
    if isinstance(classes, str) or (isinstance(classes, int | np.integer) and not isinstance(classes, bool)):
        return classes if isinstance(classes, str) else int(classes)
    if isinstance(classes, Sequence) and classes:
        told = tuple(as_plain(each) for each in classes)
        if not any(isinstance(each, tuple) for each in told):
            return told
    raise InvalidInput(
        f"target={classes!r} is no class: give a class index, a label name, one of these per image, a Target or a "
        "function of the model's outputs."
    )


def resolve_labels(classes: Any, labels: ClassLabels) -> Any:
    """The same with every label exchanged for the index of its class."""
    names = functools.cache(lambda: labels() if callable(labels) else labels)  # read only if there is a label

    def index(one: Any) -> Any:
        return _labelled(one, names()) if isinstance(one, str) else one

    return tuple(index(each) for each in classes) if isinstance(classes, tuple) else index(classes)


def one_count(target: object, *fields: Any) -> int | None:
    """How many images the fields of a target speak of, each a tuple or something for all of them."""
    counts = {len(each) for each in fields if isinstance(each, tuple)}
    if len(counts) > 1:
        raise InvalidInput(f"{target} names different numbers of classes: give as many of each.")
    return counts.pop() if counts else None


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


_SATURATED = 1e-3  # a probability this near to one, or to zero, has a gradient of nearly zero


class ClassOutputs(NamedTuple):
    """Class scores, or maps of them, and what they are."""

    scores: Tensor  # (b, classes) or (b, classes, *cells), as the model returned them
    kind: OutputKind
    link: Link = "softmax"  # for logits of several classes; of a single output it is the sigmoid
    unsure: bool = False  # whether they could be probabilities, and nothing shows that they are

    @property
    def is_single(self) -> bool:
        """Whether the model has one output, or one map."""
        return self.scores.shape[1] == 1


@dataclass
class OutputReader:
    """Reads what a model returns; what the scores are is decided once, by the first outputs.

    stated: what the model's spec says that they are; None is decided by the outputs.
    """

    stated: OutputKind | None = None

    def __post_init__(self) -> None:
        self._decided: dict[bool, tuple[OutputKind, Link, bool]] = {}  # for maps, and for scores

    def read(self, scores: Tensor, returned: "Returned", find: Callable[[Any], Tensor], *, maps: bool) -> ClassOutputs:
        """Scores that were found among what the model returned; find: the same of other outputs."""
        if maps not in self._decided:
            self._decided[maps] = self._decide(scores, returned, find)
        kind, link, unsure = self._decided[maps]
        return ClassOutputs(scores, kind, link, unsure)

    def _decide(
        self, scores: Tensor, returned: "Returned", find: Callable[[Any], Tensor]
    ) -> tuple[OutputKind, Link, bool]:
        linked = find_link(scores, returned.outputs)
        if self.stated is not None:
            return self.stated, linked or "softmax", False
        try:
            by_values, sums_to_one = kind_by_values(scores)
        except RuntimeError:  # there are no values: scores of a meta device, a fake mode or a vmap
            by_values, sums_to_one = "logits", False
        if by_values == "logits" or (linked and by_values == "probabilities"):
            return "logits", linked or "softmax", False
        if scores.grad_fn is None and returned.graph is not None:
            with torch.enable_grad():  # axes that are given back keep the graph
                scores = find(returned.graph())
        kind = kind_by_graph(scores, by_values, sums_to_one)
        unsure = kind == "logits" and by_values == "probabilities" and scores.grad_fn is None
        return kind, linked or "softmax", unsure


class Returned(NamedTuple):
    """What a model returned for so many images, for a target that reads classes."""

    outputs: Any
    images: int | None = None
    reader: OutputReader | None = None
    graph: Callable[[], Any] | None = None  # what the model returns for one image, with its graph


def read_scores(outputs: Any) -> ClassOutputs:
    """The class scores (b, classes) of what a model returned."""
    returned = outputs if isinstance(outputs, Returned) else Returned(outputs)

    def find(outputs: Any) -> Tensor:
        return class_scores(outputs)

    scores = class_scores(returned.outputs, returned.images)
    return (returned.reader or OutputReader()).read(scores, returned, find, maps=False)


def read_maps(outputs: Any, axes: int | None = None) -> ClassOutputs:
    """The maps of class scores (b, classes, *cells); axes: of their space, where that is known."""
    returned = outputs if isinstance(outputs, Returned) else Returned(outputs)

    def find(outputs: Any) -> Tensor:
        return class_maps(outputs, 1, axes)

    maps = class_maps(returned.outputs, returned.images, axes)
    return (returned.reader or OutputReader()).read(maps, returned, find, maps=True)


def probability(found: ClassOutputs, index: Classes) -> PerImage:
    """The probability of each image's class; of a single output, that of its positive side."""
    scores = to_full_precision(found.scores)  # in half of it, probabilities near one have two digits
    own = select_classes(scores, index)
    if found.kind != "logits":
        return own.exp() if found.kind == "log_probabilities" else own
    if found.is_single or found.link == "sigmoid":
        return own.sigmoid()
    classes = to_device(index, scores.device).expand(len(scores))[:, None]
    others = scores.scatter(1, classes, torch.finfo(scores.dtype).min).logsumexp(1)
    # 1 / (1 + exp(others - own)): of a softmax that rounds to one, the derivative by the own logit would be lost.
    return (-torch.logaddexp(torch.zeros_like(own), others - own)).exp()


def probabilities(found: ClassOutputs) -> Tensor:
    """The probability of every class, (b, classes); of a single output that of its positive side, (b, 1)."""
    scores = to_full_precision(found.scores)
    if found.kind != "logits":
        return scores.exp() if found.kind == "log_probabilities" else scores
    return scores.sigmoid() if found.is_single or found.link == "sigmoid" else scores.softmax(1)


def negative(scores: Tensor, kind: OutputKind) -> Tensor:
    """What a model of one output gives the negative side, in the units of the output."""
    if kind == "logits":
        return -scores
    if kind == "probabilities":
        return 1 - scores
    return torch.log(-torch.expm1(scores.clamp(max=-torch.finfo(scores.dtype).eps)))


def is_positive(scores: Tensor, kind: OutputKind) -> Tensor:
    """Where a single output is on its positive side."""
    if kind == "logits":
        return scores > 0
    return scores > 0.5 if kind == "probabilities" else scores.exp() > 0.5


def is_saturated(own: Tensor, kind: OutputKind) -> Tensor:
    """Where a probability that the model returns is so near to its bounds that its gradient nearly vanishes."""
    if kind == "logits":
        return torch.zeros_like(own, dtype=torch.bool)
    if kind == "log_probabilities":
        return own.exp() > 1 - _SATURATED
    return (own < _SATURATED) | (own > 1 - _SATURATED)
