"""Embeddings as targets: how alike the model finds two images, or how strongly it responds at all."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import PerImage
from attribkit.core.tensors import fingerprint
from attribkit.targets.outputs import LayerOutput, embedding, is_pooled, to_full_precision
from attribkit.targets.target import Target, TargetNote

_CONSTANT = 1e-3  # a norm this near to one, or to the root of the width, comes from a normalisation


class _OfEmbedding(Target):
    """A score of what the model, or one of its layers, makes of an image."""

    layer: str | None  # dotted name of the layer that puts the embedding out; None is what the model returns

    @property
    def kind(self) -> Any:
        return "embedding", self.layer

    @property
    def layer_key(self) -> Hashable:
        return type(self), self.layer

    @property
    def read_layer(self) -> str | None:
        return self.layer


@dataclass(frozen=True)
class EmbeddingNorm(_OfEmbedding):
    """How strongly the model responds at all: the Euclidean norm of its embedding; for models without classes."""

    layer: str | None = None  # dotted name of the layer that puts the embedding out; None is what the model returns

    def __call__(self, outputs: Any) -> PerImage:
        return to_full_precision(embedding(outputs)).norm(dim=1)

    def tile(self, times: int) -> "Target":
        return self

    def notes(self, outputs: Any) -> list[TargetNote]:
        found = embedding(outputs)
        norm, limit = to_full_precision(found).norm(dim=1), max(_CONSTANT, 4 * torch.finfo(found.dtype).eps)
        constant = torch.minimum((norm - 1).abs(), (norm / found.shape[1] ** 0.5 - 1).abs()) < limit
        return [
            ("the score is the norm of the embedding, which speaks for no class", None),
            ("the embedding looks normalised, so that its norm tells nothing of the image: use Similarity", constant),
            *_ways_of_reading(outputs),
        ]


@dataclass(frozen=True, eq=False)
class Similarity(_OfEmbedding):
    """How alike the model finds an image and a reference: the cosine of the angle between their embeddings.

    The reference's embedding is computed once, and kept.
    """

    to: Tensor  # images (1, c, *space), or (b, ...) for one each; or their embedding, (d,), (1, d) or (b, d)
    layer: str | None = None  # dotted name of the layer that puts the embedding out; None is what the model returns
    embedding: Tensor | None = None  # of the reference, (1 or b, d); None until the model is asked

    def __post_init__(self) -> None:
        if not isinstance(self.to, Tensor) or not self.to.is_floating_point() or 0 in self.to.shape:
            got = f"{self.to.dtype} {tuple(self.to.shape)}" if isinstance(self.to, Tensor) else type(self.to).__name__
            raise InvalidInput(f"Similarity is to images (b, c, *space), or an embedding (d,), of floats, got {got}.")

    @property
    def count(self) -> int | None:
        known = self.to if self.embedding is None else self.embedding
        return len(known) if known.ndim > 1 and len(known) > 1 else None

    def __call__(self, outputs: Any) -> PerImage:
        if self.embedding is None:
            raise InvalidInput(
                f"{self!r} does not know its reference's embedding: pass it to an Explainer as a target."
            )
        own = to_full_precision(embedding(outputs))
        if own.shape[1] != self.embedding.shape[1]:
            raise InvalidInput(
                f"The model's embedding has {own.shape[1]} numbers, the reference's {self.embedding.shape[1]}: give "
                "images, or an embedding of this model and layer."
            )
        return F.cosine_similarity(own, self.embedding.to(own))

    def subset(self, images: slice) -> "Target":
        if self.count is None:
            return self
        return replace(self, to=self.to[images], embedding=None if self.embedding is None else self.embedding[images])

    def tile(self, times: int) -> "Target":
        if self.count is None or self.embedding is None:
            return self
        return replace(self, embedding=self.embedding.repeat(times, 1))  # the reference itself is not asked for again

    def bind(self, images: Tensor, embed: Callable[[Tensor, Target], Tensor]) -> "Target":
        known = torch.atleast_2d(self.to) if self.to.ndim <= 2 else embed(self.to, self)
        return replace(self, to=self.to.detach().clone(), embedding=known.detach().clone())

    def notes(self, outputs: Any) -> list[TargetNote]:
        return _ways_of_reading(outputs)

    def __repr__(self) -> str:
        return f"Similarity(to=({fingerprint(self.to)}){'' if self.layer is None else f', layer={self.layer!r}'})"


def _ways_of_reading(outputs: Any) -> list[TargetNote]:
    """How the embedding was read."""
    told: list[TargetNote] = [(note, None) for note in outputs.notes] if isinstance(outputs, LayerOutput) else []
    return [*told, ("the embedding is the mean of a map over its cells", None)] if is_pooled(outputs) else told
