"""Resolution of the target argument, including different targets for the images of a batch."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attribkit._core.errors import InvalidInput
from attribkit._core.shapes import PerImage
from attribkit._targets.binary import BinaryScore, resolve_label_of_two, with_binary_score
from attribkit._targets.class_outputs import ClassLabels
from attribkit._targets.embeddings import EmbeddingNorm
from attribkit._targets.logits import ClassLogit, Predicted
from attribkit._targets.target import FunctionTarget, Target, TargetNote, outputs_for


@dataclass(frozen=True)
class PerImageTargets(Target):
    """A separate target for each image; created by ``target=[Contrast(1, 2), 3, Probability(4)]``.

    Args:
        targets: The targets, one per image.

    Raises:
        InvalidInput: A target is for several images, or the targets score different layers.
    """

    targets: tuple[Target, ...]

    def __post_init__(self) -> None:
        larger = [target for target in self.targets if target.count not in (None, 1)]
        if larger:
            raise InvalidInput(
                f"Each target in a list must be for one image, but {larger[0]!r} is for {larger[0].count} images."
            )
        layers = list(dict.fromkeys(target.read_layer for target in self.targets))
        if len(layers) > 1:
            sources = " and ".join("the model's outputs" if layer is None else f"layer {layer!r}" for layer in layers)
            raise InvalidInput(
                f"The targets of one batch must all score the same layer; these score {sources}. Explain the images "
                "separately."
            )

    @property
    def count(self) -> int:
        return len(self.targets)

    @property
    def kind(self) -> Any:
        kinds = list(dict.fromkeys(target.kind for target in self.targets))
        return kinds[0] if len(kinds) == 1 else ("each", *kinds)

    @property
    def layer_key(self) -> Hashable:
        keys = tuple(target.layer_key for target in self.targets)
        return None if None in keys else keys

    @property
    def is_local(self) -> bool:
        return any(target.is_local for target in self.targets)

    @property
    def read_layer(self) -> str | None:
        return self.targets[0].read_layer

    @property
    def needs_outputs(self) -> bool:
        return any(target.needs_outputs for target in self.targets)

    @property
    def reads_classes(self) -> bool:
        return any(target.reads_classes for target in self.targets)

    def __call__(self, outputs: Any) -> PerImage:
        scores = {id(target): self._for_batch(target)(outputs_for(target, outputs)) for target in self.targets}
        return torch.stack([scores[id(target)][i] for i, target in enumerate(self.targets)])

    def decision(self, outputs: Any) -> list[Tensor]:
        return [
            self._for_batch(target).decision(outputs_for(target, outputs))[i]
            if target.needs_outputs
            else torch.empty(0, dtype=torch.float32, device="cpu")
            for i, target in enumerate(self.targets)
        ]

    def resolved(self, decision: Sequence[Tensor]) -> "Target":
        pairs = zip(self.targets, decision, strict=True)
        return PerImageTargets(
            tuple(target.resolved([entry]) if target.needs_outputs else target for target, entry in pairs)
        )

    def subset(self, images: slice) -> "Target":
        return PerImageTargets(self.targets[images])

    def tile(self, times: int) -> "Target | None":
        if any(target.tile(2) is None for target in self.targets):
            return None
        return PerImageTargets(self.targets * times)

    def resolve_labels(self, labels: ClassLabels) -> "Target":
        return PerImageTargets(tuple(resolve_label_of_two(target, labels) for target in self.targets))

    def bind(self, images: Tensor, embed: Callable[[Tensor, Target], Tensor]) -> "Target":
        return PerImageTargets(tuple(target.bind(images, embed) for target in self.targets))

    def notes(self, outputs: Any) -> list[TargetNote]:
        return [
            (text, None if where is None else where & (torch.arange(len(where), device=where.device) == i))
            for i, target in enumerate(self.targets)
            for text, where in self._for_batch(target).notes(outputs_for(target, outputs))
        ]

    def _for_batch(self, target: Target) -> Target:
        """Apply the target of one image to all images of the batch."""
        return target if target.count is None else target.tile(len(self.targets)) or target


def as_target(target: Any, labels: ClassLabels = None, *, is_embedding_model: bool = False) -> Target:
    """Convert the target argument to a Target.

    Args:
        target: None, a class index or label, a Target, a function of the outputs, or a list with one of these per
            image. None means the predicted class, or the norm of the embedding of an embedding model.
        labels: Names of the classes in order, or a function that returns them.
        is_embedding_model: Whether the model returns an embedding instead of class scores.

    Raises:
        InvalidInput: The target is invalid, or a class target of an embedding model.
        UnknownName: The label is unknown.
    """
    if target is None:
        return EmbeddingNorm() if is_embedding_model else Predicted()
    if callable(target) and not isinstance(target, Target):
        return FunctionTarget(target)
    if isinstance(target, list | tuple) and any(item is None or callable(item) for item in target):
        return PerImageTargets(tuple(as_target(item, labels, is_embedding_model=is_embedding_model) for item in target))
    converted = target if isinstance(target, Target) else ClassLogit(target)
    if is_embedding_model and converted.kind == "classes":
        raise InvalidInput(
            f"target={target!r} requires class scores, but this model returns an embedding. Pass "
            "target=Similarity(to), EmbeddingNorm() or a function of its outputs; the default is the norm of the "
            "embedding."
        )
    return resolve_label_of_two(converted, labels)


def with_score_type(target: Target, score: BinaryScore) -> Target:
    """Make class targets score the probability or the logit of their class; return other targets unchanged."""
    if isinstance(target, PerImageTargets):
        return PerImageTargets(tuple(with_score_type(item, score) for item in target.targets))
    return with_binary_score(target, score)
