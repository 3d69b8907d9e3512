"""Targets for embedding models: similarity to a reference, and the norm of the embedding."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit._core.errors import InvalidInput
from attribkit._core.shapes import PerImage
from attribkit._core.tensors import fingerprint
from attribkit._targets.outputs import LayerOutput, is_pooled, read_embedding, to_full_precision
from attribkit._targets.target import Target, TargetNote

_TOLERANCE = 1e-3  # a norm this near to one, or to the root of the width, results from a normalisation


class _OfEmbedding(Target):
    """A score of the embedding of an image, which the model or one of its layers computes."""

    layer: str | None

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
    """The Euclidean norm of the embedding, for models without classes.

    Args:
        layer: Dotted name of the layer whose output is the embedding; None means the output of the model.

    Example:
        >>> explainer.attribute(x, "saliency", target=EmbeddingNorm("global_pool")).scores.shape
        torch.Size([2, 1, 128, 128])
    """

    layer: str | None = None

    def __call__(self, outputs: Any) -> PerImage:
        return to_full_precision(read_embedding(outputs)).norm(dim=1)

    def tile(self, times: int) -> "Target":
        return self

    def notes(self, outputs: Any) -> list[TargetNote]:
        vectors = read_embedding(outputs)
        norm, limit = to_full_precision(vectors).norm(dim=1), max(_TOLERANCE, 4 * torch.finfo(vectors.dtype).eps)
        constant = torch.minimum((norm - 1).abs(), (norm / vectors.shape[1] ** 0.5 - 1).abs()) < limit
        return [
            ("the score is the norm of the embedding, which is not specific to a class", None),
            ("the embedding looks normalised: its norm does not depend on the image; use Similarity", constant),
            *_reading_notes(outputs),
        ]


@dataclass(frozen=True, eq=False)
class Similarity(_OfEmbedding):
    """The cosine similarity of the embeddings of an image and a reference.

    The embedding of the reference is computed once.

    Args:
        to: The reference: images (1, c, *space), or (b, c, *space) with one for each image; or an embedding, (d,),
            (1, d) or (b, d).
        layer: Dotted name of the layer whose output is the embedding; None means the output of the model.
        embedding: Embedding of the reference, (1 or b, d); None until `bind` computes it.

    Raises:
        InvalidInput: `to` is not a non-empty floating-point tensor.

    Example:
        >>> target = Similarity(x[1:], layer="global_pool")  # to the second image
        >>> explainer.attribute(x[:1], "gradcam", target=target).scores.shape
        torch.Size([1, 1, 8, 8])
    """

    to: Tensor
    layer: str | None = None
    embedding: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.to, Tensor) or not self.to.is_floating_point() or 0 in self.to.shape:
            got = f"{self.to.dtype} {tuple(self.to.shape)}" if isinstance(self.to, Tensor) else type(self.to).__name__
            raise InvalidInput(
                "Similarity(to) must be a floating-point tensor of images (b, c, *space) or of an embedding (d,), got "
                f"{got}."
            )

    @property
    def count(self) -> int | None:
        reference = self.to if self.embedding is None else self.embedding
        return len(reference) if reference.ndim > 1 and len(reference) > 1 else None

    def __call__(self, outputs: Any) -> PerImage:
        if self.embedding is None:
            raise InvalidInput(
                f"The embedding of the reference of {self!r} has not been computed. Pass the target to an Explainer "
                "or call bind."
            )
        vectors = to_full_precision(read_embedding(outputs))
        if vectors.shape[1] != self.embedding.shape[1]:
            raise InvalidInput(
                f"The embedding of the model has {vectors.shape[1]} dimensions, but the reference embedding has "
                f"{self.embedding.shape[1]}. Pass images, or an embedding computed by this model at this layer."
            )
        return F.cosine_similarity(vectors, self.embedding.to(vectors))

    def subset(self, images: slice) -> "Target":
        if self.count is None:
            return self
        return replace(self, to=self.to[images], embedding=None if self.embedding is None else self.embedding[images])

    def tile(self, times: int) -> "Target":
        if self.count is None or self.embedding is None:
            return self
        return replace(self, embedding=self.embedding.repeat(times, 1))  # `to` is not needed once it is embedded

    def bind(self, images: Tensor, embed: Callable[[Tensor, Target], Tensor]) -> "Target":
        vectors = torch.atleast_2d(self.to) if self.to.ndim <= 2 else embed(self.to, self)
        return replace(self, to=self.to.detach().clone(), embedding=vectors.detach().clone())

    def notes(self, outputs: Any) -> list[TargetNote]:
        return _reading_notes(outputs)

    def __repr__(self) -> str:
        return f"Similarity(to=({fingerprint(self.to)}){'' if self.layer is None else f', layer={self.layer!r}'})"


def _reading_notes(outputs: Any) -> list[TargetNote]:
    """Return notes on how the embedding was read."""
    notes: list[TargetNote] = [(note, None) for note in outputs.notes] if isinstance(outputs, LayerOutput) else []
    return [*notes, ("the embedding is the spatial mean of a feature map", None)] if is_pooled(outputs) else notes
