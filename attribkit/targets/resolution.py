"""What a user may give as a target, read; another target for each image among them."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import PerImage
from attribkit.targets.binary import BinaryScore, resolve_label_of_two, with_binary_score
from attribkit.targets.class_outputs import ClassLabels
from attribkit.targets.embeddings import EmbeddingNorm
from attribkit.targets.logits import ClassLogit, Predicted
from attribkit.targets.target import FunctionTarget, Target, TargetNote, outputs_for


@dataclass(frozen=True)
class PerImageTargets(Target):
    """A target of its own for each image; ``target=[Contrast(1, 2), 3, Probability(4)]`` means this."""

    targets: tuple[Target, ...]

    def __post_init__(self) -> None:
        several = [each for each in self.targets if each.count not in (None, 1)]
        if several:
            raise InvalidInput(f"{several[0]!r} speaks of {several[0].count} images, and stands for one in a list.")
        layers = list(dict.fromkeys(each.read_layer for each in self.targets))
        if len(layers) > 1:
            read = " and ".join("the model's outputs" if each is None else f"layer {each!r}" for each in layers)
            raise InvalidInput(f"The targets of one batch must read the same: these read {read}. Ask one by one.")

    @property
    def count(self) -> int:
        return len(self.targets)

    @property
    def kind(self) -> Any:
        kinds = list(dict.fromkeys(each.kind for each in self.targets))
        return kinds[0] if len(kinds) == 1 else ("each", *kinds)

    @property
    def layer_key(self) -> Hashable:
        keys = tuple(each.layer_key for each in self.targets)
        return None if None in keys else keys

    @property
    def is_local(self) -> bool:
        return any(each.is_local for each in self.targets)

    @property
    def read_layer(self) -> str | None:
        return self.targets[0].read_layer

    @property
    def needs_outputs(self) -> bool:
        return any(each.needs_outputs for each in self.targets)

    @property
    def reads_classes(self) -> bool:
        return any(each.reads_classes for each in self.targets)

    def __call__(self, outputs: Any) -> PerImage:
        scores = {id(each): self._for_all(each)(outputs_for(each, outputs)) for each in self.targets}
        return torch.stack([scores[id(each)][i] for i, each in enumerate(self.targets)])

    def decision(self, outputs: Any) -> list[Tensor]:
        return [
            self._for_all(each).decision(outputs_for(each, outputs))[i]
            if each.needs_outputs
            else torch.empty(0, dtype=torch.float32, device="cpu")
            for i, each in enumerate(self.targets)
        ]

    def resolved(self, decision: Sequence[Tensor]) -> "Target":
        pairs = zip(self.targets, decision, strict=True)
        return PerImageTargets(tuple(each.resolved([found]) if each.needs_outputs else each for each, found in pairs))

    def subset(self, images: slice) -> "Target":
        return PerImageTargets(self.targets[images])

    def tile(self, times: int) -> "Target | None":
        return None if any(each.tile(2) is None for each in self.targets) else PerImageTargets(self.targets * times)

    def resolve_labels(self, labels: ClassLabels) -> "Target":
        return PerImageTargets(tuple(resolve_label_of_two(each, labels) for each in self.targets))

    def bind(self, images: Tensor, embed: Callable[[Tensor, Target], Tensor]) -> "Target":
        return PerImageTargets(tuple(each.bind(images, embed) for each in self.targets))

    def notes(self, outputs: Any) -> list[TargetNote]:
        return [
            (text, None if where is None else where & (torch.arange(len(where), device=where.device) == i))
            for i, each in enumerate(self.targets)
            for text, where in self._for_all(each).notes(outputs_for(each, outputs))
        ]

    def _for_all(self, each: Target) -> Target:
        """A target of one image, put to all of them."""
        return each if each.count is None else each.tile(len(self.targets)) or each


def as_target(target: Any, labels: ClassLabels = None, *, is_embedding_model: bool = False) -> Target:
    """Read what a user may give as a target: nothing, a class, a label, a Target, a function, or one of them per image.

    embeds: whether the model has no classes.
    """
    if target is None:
        return EmbeddingNorm() if is_embedding_model else Predicted()
    if callable(target) and not isinstance(target, Target):
        return FunctionTarget(target)
    if isinstance(target, list | tuple) and any(each is None or callable(each) for each in target):
        return PerImageTargets(tuple(as_target(each, labels, is_embedding_model=is_embedding_model) for each in target))
    read = target if isinstance(target, Target) else ClassLogit(target)
    if is_embedding_model and read.kind == "classes":
        raise InvalidInput(
            f"target={target!r}: this model has no classes, it embeds. Pass target=Similarity(to), EmbeddingNorm() or "
            "a function of its outputs; leave target out for the norm of the embedding."
        )
    return resolve_label_of_two(read, labels)


def with_score_type(target: Target, score: BinaryScore) -> Target:
    """The probability, or the logit, of a class that a target scores, image by image; any other target as it is."""
    if isinstance(target, PerImageTargets):
        return PerImageTargets(tuple(with_score_type(each, score) for each in target.targets))
    return with_binary_score(target, score)
