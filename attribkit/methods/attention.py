"""Attention maps and their rollouts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attribkit.core.attention import Weights
from attribkit.core.errors import InvalidInput, UnsupportedModel
from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, Scores
from attribkit.core.targets import Target

Fusion = Literal["mean", "max", "min"]  # of the heads


@dataclass(frozen=True)
class Attention(Method):
    """Where one layer of a transformer looks: the weights with which the tokens that the score reads attend to patches.

    Those tokens are the class token, or the ones that are averaged; which they are is seen from the score's gradient.
    """

    name: ClassVar[str] = "attention"
    source: ClassVar[str] = "Dosovitskiy et al., ICLR 2021; Vaswani et al., NeurIPS 2017, eq. 1"

    block: int = -1  # which of the layers in execution order; negative counts from the last
    head: int | None = None  # None fuses the heads
    fusion: Fusion = "mean"

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        model.note("attention does not depend on the target: it shows where tokens look, not what speaks for a class")
        layers = model.attention(x, target, self._of_heads)
        if not -len(layers) <= self.block < len(layers):
            raise InvalidInput(
                f"block={self.block}: this model has {len(layers)} layers of attention, 0 to {len(layers) - 1}."
            )
        return _map(model, x, target, layers[self.block])

    def _of_heads(self, weights: Weights) -> Tensor:
        heads = weights.shape[1]
        if self.head is None:
            return fused(weights, self.fusion)
        if not 0 <= self.head < heads:
            raise InvalidInput(f"head={self.head}: this model's attention has {heads} heads, 0 to {heads - 1}.")
        return weights[:, self.head]


@dataclass(frozen=True)
class AttentionRollout(Method):
    """Attention followed through all layers, with the residual connections as half of every step."""

    name: ClassVar[str] = "attention_rollout"
    source: ClassVar[str] = "Abnar and Zuidema, ACL 2020, eq. 1"

    fusion: Fusion = "mean"
    discard_ratio: float = 0.0  # share of each layer's weights, the smallest, that is set to zero

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        if not 0 <= self.discard_ratio < 1:
            raise InvalidInput(f"discard_ratio={self.discard_ratio} must be from 0 to below 1.")
        model.note(
            "attention_rollout does not depend on the target: it shows where tokens look, not what speaks for a class"
        )
        layers = _square(model.attention(x, target, lambda weights: fused(weights, self.fusion)))
        rollout = _identity(layers[0])
        for weights in layers:
            step = self._kept(weights) + _identity(weights)
            rollout = step / step.sum(2, keepdim=True) @ rollout
        return _map(model, x, target, rollout)

    def _kept(self, weights: Tensor) -> Tensor:
        """Without the smallest weights of each image."""
        discarded = int(weights[0].numel() * self.discard_ratio)
        if not discarded:
            return weights
        flat = weights.flatten(1)
        return flat.scatter(1, flat.topk(discarded, largest=False).indices, 0).view_as(weights)


@dataclass(frozen=True)
class GradientRollout(Method):
    """Attention followed through all layers, each weight times its gradient where that is positive."""

    name: ClassVar[str] = "gradient_rollout"
    source: ClassVar[str] = "Chefer et al., ICCV 2021, eqs. 5 and 6"

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        layers = _square(model.attention_and_gradient(x, target, lambda w, gradient: (w * gradient).relu().mean(1)))
        relevance = _identity(layers[0])
        for weights in layers:
            relevance = relevance + weights @ relevance
        return _map(model, x, target, relevance)


def fused(weights: Weights, how: Fusion) -> Tensor:
    """The heads made one, (b, queries, keys)."""
    if how not in ("mean", "max", "min"):
        raise InvalidInput(f"fusion={how!r} is no way to fuse heads; known: mean, max, min.")
    return {"mean": weights.mean(1), "max": weights.amax(1), "min": weights.amin(1)}[how]


def _square(layers: Sequence[Tensor]) -> Sequence[Tensor]:
    shapes = {tuple(weights.shape[1:]) for weights in layers}
    if len(shapes) > 1 or any(queries != keys for queries, keys in shapes):
        raise UnsupportedModel(
            f"A rollout needs the same tokens in every layer; here attention is queries by keys {sorted(shapes)}. Use "
            "attention with block=..., or gradcam."
        )
    return layers


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def _map(model: HookedModel, x: Images, target: Target, weights: Tensor) -> Scores:
    """The rows (b, queries, keys) of the tokens that the score reads, averaged, on the grid of the patches."""
    read = model.readers(x, target)
    rows = weights[:, read] if weights.shape[1] == len(read) else weights
    row = rows.mean(1)[..., None]  # (b, keys, 1)
    layout = model.spec.layout(tuple(row.shape), tuple(x.shape))
    if layout is None:
        raise UnsupportedModel(
            f"{row.shape[1]} tokens are no grid over images of shape {tuple(x.shape)}: tell the model's prefix tokens "
            "by Explainer(model, spec=ModelSpec(prefix_tokens=...)), or use gradcam."
        )
    tokens = read.nonzero().flatten().tolist()
    model.note(f"attention of token {tokens[0]}" if len(tokens) == 1 else f"mean attention of {len(tokens)} tokens")
    return layout.to_grid(row)
