"""What makes an image like another one, to the model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.fingerprint import fingerprint
from attribkit.core.outputs import embedding, precise
from attribkit.core.shapes import PerImage
from attribkit.core.targets import Remark, Target, of_embedding


@dataclass(frozen=True, eq=False)
class Similarity(Target):
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
        return len(self.to) if self.to.ndim > 1 and len(self.to) > 1 else None

    @property
    def kind(self) -> Any:
        return "embedding", self.layer

    @property
    def read_layer(self) -> str | None:
        return self.layer

    def __call__(self, outputs: Any) -> PerImage:
        if self.embedding is None:
            raise InvalidInput(
                f"{self!r} does not know its reference's embedding: pass it to an Explainer as a target."
            )
        own = precise(embedding(outputs))
        if own.shape[1] != self.embedding.shape[1]:
            raise InvalidInput(
                f"The model's embedding has {own.shape[1]} numbers, the reference's {self.embedding.shape[1]}: give "
                "images, or an embedding of this model and layer."
            )
        return F.cosine_similarity(own, self.embedding.to(own))

    def part(self, images: slice) -> "Target":
        return self if self.count is None else self._with(lambda several: several[images])

    def repeated(self, times: int) -> "Target":
        return self if self.count is None else self._with(lambda several: torch.cat([several] * times))

    def prepared(self, images: Tensor, embed: Callable[[Tensor, Target], Tensor]) -> "Target":
        known = torch.atleast_2d(self.to) if self.to.ndim <= 2 else embed(self.to, self)
        return replace(self, to=self.to.detach().clone(), embedding=known.detach().clone())

    def remarks(self, outputs: Any) -> list[Remark]:
        return of_embedding(outputs)

    def __repr__(self) -> str:
        return f"Similarity(to=({fingerprint(self.to)}){'' if self.layer is None else f', layer={self.layer!r}'})"

    def _with(self, change: Callable[[Tensor], Tensor]) -> "Similarity":
        return replace(self, to=change(self.to), embedding=None if self.embedding is None else change(self.embedding))
