"""What a user may give as a target, read; another target for each image among them."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import PerImage
from attribkit.targets.binary import Score, one_of_two, scored_side
from attribkit.targets.class_outputs import Labels
from attribkit.targets.embeddings import EmbeddingNorm
from attribkit.targets.logits import ClassLogit, Predicted
from attribkit.targets.target import Remark, Scored, Target, handed


@dataclass(frozen=True)
class Each(Target):
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
    def is_open(self) -> bool:
        return any(each.is_open for each in self.targets)

    @property
    def reads_classes(self) -> bool:
        return any(each.reads_classes for each in self.targets)

    def __call__(self, outputs: Any) -> PerImage:
        scores = {id(each): self._for_all(each)(handed(each, outputs)) for each in self.targets}
        return torch.stack([scores[id(each)][i] for i, each in enumerate(self.targets)])

    def evidence(self, outputs: Any) -> list[Tensor]:
        return [
            self._for_all(each).evidence(handed(each, outputs))[i]
            if each.is_open
            else torch.empty(0, dtype=torch.float32, device="cpu")
            for i, each in enumerate(self.targets)
        ]

    def settled(self, evidence: Sequence[Tensor]) -> "Target":
        pairs = zip(self.targets, evidence, strict=True)
        return Each(tuple(each.settled([found]) if each.is_open else each for each, found in pairs))

    def part(self, images: slice) -> "Target":
        return Each(self.targets[images])

    def repeated(self, times: int) -> "Target | None":
        return None if any(each.repeated(2) is None for each in self.targets) else Each(self.targets * times)

    def with_indices(self, labels: Labels) -> "Target":
        return Each(tuple(one_of_two(each, labels) for each in self.targets))

    def prepared(self, images: Tensor, embed: Callable[[Tensor, Target], Tensor]) -> "Target":
        return Each(tuple(each.prepared(images, embed) for each in self.targets))

    def remarks(self, outputs: Any) -> list[Remark]:
        return [
            (text, None if where is None else where & (torch.arange(len(where), device=where.device) == i))
            for i, each in enumerate(self.targets)
            for text, where in self._for_all(each).remarks(handed(each, outputs))
        ]

    def _for_all(self, each: Target) -> Target:
        """A target of one image, put to all of them."""
        return each if each.count is None else each.repeated(len(self.targets)) or each


def as_target(target: Any, labels: Labels = None, *, embeds: bool = False) -> Target:
    """Read what a user may give as a target: nothing, a class, a label, a Target, a function, or one of them per image.

    embeds: whether the model has no classes.
    """
    if target is None:
        return EmbeddingNorm() if embeds else Predicted()
    if callable(target) and not isinstance(target, Target):
        return Scored(target)
    if isinstance(target, list | tuple) and any(each is None or callable(each) for each in target):
        return Each(tuple(as_target(each, labels, embeds=embeds) for each in target))
    read = target if isinstance(target, Target) else ClassLogit(target)
    if embeds and read.kind == "classes":
        raise InvalidInput(
            f"target={target!r}: this model has no classes, it embeds. Pass target=Similarity(to), EmbeddingNorm() or "
            "a function of its outputs; leave target out for the norm of the embedding."
        )
    return one_of_two(read, labels)


def scored_as(target: Target, score: Score) -> Target:
    """The probability, or the logit, of a class that a target scores, image by image; any other target as it is."""
    if isinstance(target, Each):
        return Each(tuple(scored_as(each, score) for each in target.targets))
    return scored_side(target, score)
