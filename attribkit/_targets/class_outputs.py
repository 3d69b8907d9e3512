"""Class indices and labels of targets, and class scores (logits, probabilities) in the outputs of a model."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from attribkit._core.errors import AttribkitError, InvalidInput, UnknownName
from attribkit._core.shapes import PerImage
from attribkit._core.spec import OutputKind, output_kind_by_graph, output_kind_by_values
from attribkit._core.tensors import to_device
from attribkit._targets.outputs import Link, class_maps, class_scores, find_link, select_classes, to_full_precision

Classes = Any  # a class index or label; or one per image, as a sequence, array or tensor
ClassLabels = Sequence[str] | Callable[[], Sequence[str]] | None  # names of the classes in order, or a function of them

_SATURATED = 1e-3  # distance of a probability from 0 or 1 at which its gradient nearly vanishes


def as_classes(classes: Any) -> Any:
    """Convert class indices and labels to an int or str, or to a tuple of these.

    Args:
        classes: A class index or label, or one per image as a sequence, array or tensor.

    Raises:
        InvalidInput: The value is of another type, or nested.
    """
    if isinstance(classes, np.ndarray | Tensor):
        classes = classes.tolist()
    if isinstance(classes, str) or (isinstance(classes, int | np.integer) and not isinstance(classes, bool)):
        return classes if isinstance(classes, str) else int(classes)
    if isinstance(classes, Sequence) and classes:
        items = tuple(as_classes(item) for item in classes)
        if not any(isinstance(item, tuple) for item in items):
            return items
    raise InvalidInput(
        "target must be a class index, a label, a sequence with one of these per image, a Target or a function of the "
        f"model's outputs, got {classes!r}."
    )


def resolve_labels(classes: Any, labels: ClassLabels) -> Any:
    """Replace every label by the index of its class."""
    names = functools.cache(lambda: labels() if callable(labels) else labels)  # computed only if there is a label

    def index(item: Any) -> Any:
        return _class_of_label(item, names()) if isinstance(item, str) else item

    return tuple(index(item) for item in classes) if isinstance(classes, tuple) else index(classes)


def common_count(target: object, *fields: Any) -> int | None:
    """Return the number of images in the fields of a target that are tuples; None if all fields hold for any image."""
    counts = {len(field) for field in fields if isinstance(field, tuple)}
    if len(counts) > 1:
        raise InvalidInput(
            f"The fields of {target} have different numbers of classes. Pass one per image in each field."
        )
    return counts.pop() if counts else None


def _class_of_label(name: str, labels: Sequence[str] | None) -> int:
    """Return the class with this label; else the only class with it among its comma-separated synonyms."""
    if labels is None:
        raise InvalidInput(
            f"target={name!r} is a label, but the labels of this model are unknown. Pass the class index, or create "
            "Explainer(model, spec=ModelSpec(labels=[...]))."
        )
    lowered = name.strip().lower()
    exact = [i for i, label in enumerate(labels) if label.lower() == lowered]
    synonyms = [i for i, label in enumerate(labels) if lowered in label.lower().split(", ")]
    matches = exact or synonyms
    if len(matches) > 1:
        raise AttribkitError(f"The label {name!r} is ambiguous: it names the classes {matches}. Pass the index of one.")
    if not matches:
        raise UnknownName("label", name, labels)
    return matches[0]


class ClassOutputs(NamedTuple):
    """Class scores, or maps of them, and their kind."""

    scores: Tensor  # (b, classes) or (b, classes, *cells), as returned by the model
    kind: OutputKind
    link: Link = "softmax"  # softmax for several classes, sigmoid for a single output
    unsure: bool = False  # whether the scores may be probabilities, without a graph to confirm it

    @property
    def is_single(self) -> bool:
        """Whether the model has a single output, or a single map."""
        return self.scores.shape[1] == 1


@dataclass
class OutputReader:
    """A reader of class scores, which determines their kind once, from the first outputs.

    Args:
        stated: Kind of the scores by the model's spec; None is detected from the outputs.
    """

    stated: OutputKind | None = None

    def __post_init__(self) -> None:
        self._decided: dict[bool, tuple[OutputKind, Link, bool]] = {}  # keyed by whether the scores are maps
        self.summary = ""  # kind and number of the scores that were read, such as "logits of 1000 classes"

    def read(self, scores: Tensor, returned: "Returned", find: Callable[[Any], Tensor], *, maps: bool) -> ClassOutputs:
        """Return scores with their kind.

        Args:
            scores: The scores in `returned`.
            returned: What the model returned.
            find: Finds such scores in other outputs of the model.
            maps: Whether the scores are maps.
        """
        if maps not in self._decided:
            self._decided[maps] = self._decide(scores, returned, find)
        kind, link, unsure = self._decided[maps]
        self.summary = f"{kind.replace('_', ' ')} of {scores.shape[1]} classes{' in maps' if maps else ''}"
        return ClassOutputs(scores, kind, link, unsure)

    def _decide(
        self, scores: Tensor, returned: "Returned", find: Callable[[Any], Tensor]
    ) -> tuple[OutputKind, Link, bool]:
        linked = find_link(scores, returned.outputs)
        if self.stated is not None:
            return self.stated, linked or "softmax", False
        try:
            by_values, sums_to_one = output_kind_by_values(scores)
        except RuntimeError:  # tensors without values: meta device, fake tensors, vmap
            by_values, sums_to_one = "logits", False
        if by_values == "logits" or (linked and by_values == "probabilities"):
            return "logits", linked or "softmax", False
        if scores.grad_fn is None and returned.graph is not None:
            with torch.enable_grad():  # so that restored axes keep the graph
                scores = find(returned.graph())
        kind = output_kind_by_graph(scores, by_values, sums_to_one)
        unsure = kind == "logits" and by_values == "probabilities" and scores.grad_fn is None
        return kind, linked or "softmax", unsure


class Returned(NamedTuple):
    """The outputs of a model for a target that reads classes."""

    outputs: Any
    images: int | None = None  # number of images
    reader: OutputReader | None = None
    graph: Callable[[], Any] | None = None  # returns the outputs for one image with their graph


def read_scores(outputs: Any) -> ClassOutputs:
    """Return the class scores, (b, classes), of outputs of a model."""
    returned = outputs if isinstance(outputs, Returned) else Returned(outputs)

    def find(outputs: Any) -> Tensor:
        return class_scores(outputs)

    scores = class_scores(returned.outputs, returned.images)
    return (returned.reader or OutputReader()).read(scores, returned, find, maps=False)


def read_maps(outputs: Any, axes: int | None = None) -> ClassOutputs:
    """Return the maps of class scores, (b, classes, *cells); `axes` is the number of spatial axes, if known."""
    returned = outputs if isinstance(outputs, Returned) else Returned(outputs)

    def find(outputs: Any) -> Tensor:
        return class_maps(outputs, 1, axes)

    maps = class_maps(returned.outputs, returned.images, axes)
    return (returned.reader or OutputReader()).read(maps, returned, find, maps=True)


def class_probability(parsed: ClassOutputs, index: Classes) -> PerImage:
    """Return the probability of the class of each image; for a single output, that of the positive class."""
    scores = to_full_precision(parsed.scores)  # half precision has two digits near one
    selected = select_classes(scores, index)
    if parsed.kind != "logits":
        return selected.exp() if parsed.kind == "log_probabilities" else selected
    if parsed.is_single or parsed.link == "sigmoid":
        return selected.sigmoid()
    classes = to_device(index, scores.device).expand(len(scores))[:, None]
    others = scores.scatter(1, classes, torch.finfo(scores.dtype).min).logsumexp(1)
    # 1 / (1 + exp(others - selected)) keeps the derivative by the class's logit where the softmax rounds to one.
    return (-torch.logaddexp(torch.zeros_like(selected), others - selected)).exp()


def class_probabilities(parsed: ClassOutputs) -> Tensor:
    """Return the probability of every class, (b, classes); for a single output that of its positive class, (b, 1)."""
    scores = to_full_precision(parsed.scores)
    if parsed.kind != "logits":
        return scores.exp() if parsed.kind == "log_probabilities" else scores
    return scores.sigmoid() if parsed.is_single or parsed.link == "sigmoid" else scores.softmax(1)


def negative_class_score(scores: Tensor, kind: OutputKind) -> Tensor:
    """Return the score of the negative class of a single output, in the units of the output."""
    if kind == "logits":
        return -scores
    if kind == "probabilities":
        return 1 - scores
    return torch.log(-torch.expm1(scores.clamp(max=-torch.finfo(scores.dtype).eps)))


def is_positive(scores: Tensor, kind: OutputKind) -> Tensor:
    """Return where a single output predicts its positive class."""
    if kind == "logits":
        return scores > 0
    return scores > 0.5 if kind == "probabilities" else scores.exp() > 0.5


def is_saturated(scores: Tensor, kind: OutputKind) -> Tensor:
    """Return where a probability returned by the model is so near 0 or 1 that its gradient nearly vanishes."""
    if kind == "logits":
        return torch.zeros_like(scores, dtype=torch.bool)
    if kind == "log_probabilities":
        return scores.exp() > 1 - _SATURATED
    return (scores < _SATURATED) | (scores > 1 - _SATURATED)
