"""[methods/attention] Attention maps and their rollouts.
[methods/attention_gates] The spatial gates of a network's own attention modules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.contracts.attribution import resize_map
from attribkit.contracts.method import Method
from attribkit.core.errors import InvalidInput, UnknownName, UnsupportedModel, join_names
from attribkit.core.options import FractionBelowOne, Name, NonNegativeInt
from attribkit.core.shapes import Images, Scores
from attribkit.engine.model import HookedModel
from attribkit.targets.target import Target
from attribkit.tracing.attention import AttentionLayer, AttentionLayers
from attribkit.tracing.attention_grid import Tokens, Windows
from attribkit.tracing.gates import Gate

Fusion = Literal["mean", "max", "min"]  # of the heads


@dataclass(frozen=True)
class Attention(Method):
    """Where one layer of a transformer looks: the weights with which the tokens that the score reads attend to patches.

    Those tokens are the class token, or the ones that are averaged; which they are is seen from the score's gradient.
    In a layer of other tokens than the last, and inside windows, they are all.
    """

    name: ClassVar[str] = "attention"
    source: ClassVar[str] = "Dosovitskiy et al., ICLR 2021; Vaswani et al., NeurIPS 2017, eq. 1"
    needs_target: ClassVar[bool] = False

    block: int = -1  # which of the layers in execution order; negative counts from the last
    head: NonNegativeInt | None = None  # None fuses the heads
    fusion: Fusion = "mean"

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        model.note("attention does not depend on the target: it shows where tokens look, not what speaks for a class")

        def fuse(weights: Windows) -> Tensor:
            return (
                fused(weights, self.fusion) if self.head is None else weights[:, :, self.head : self.head + 1].clone()
            )

        layers = _noted(model, model.attention(x, target, fuse))
        if not -len(layers) <= self.block < len(layers):
            raise InvalidInput(
                f"block={self.block}: this model has {len(layers)} layers of attention, 0 to {len(layers) - 1}."
            )
        layer = layers[self.block]
        if self.head is not None and not 0 <= self.head < layer.heads:
            raise InvalidInput(f"head={self.head}: {layer.name!r} has {layer.heads} heads, 0 to {layer.heads - 1}.")
        asking = layer.queries.real
        if _same(layer.queries, layers[-1].queries):
            asking = model.query_tokens(x, target)
        _note_asking(model, layer, asking)
        return layer.received(asking)


@dataclass(frozen=True)
class AttentionRollout(Method):
    """Attention followed through all layers, with the residual connections as half of every step."""

    name: ClassVar[str] = "attention_rollout"
    source: ClassVar[str] = "Abnar and Zuidema, ACL 2020, eq. 1"
    needs_target: ClassVar[bool] = False

    fusion: Fusion = "mean"
    discard_ratio: FractionBelowOne = 0.0  # share of each layer's weights, the smallest, that is set to zero

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        model.note(
            "attention_rollout does not depend on the target: it shows where tokens look, not what speaks for a class"
        )
        layers = _noted(model, model.attention(x, target, lambda weights: fused(weights, self.fusion)))
        steps = _steps(layers)
        rollout = _identity(steps[0])
        for weights in steps:
            step = self._kept(weights) + _identity(weights)
            rollout = step / step.sum(2, keepdim=True) @ rollout
        return _read(model, x, target, layers[-1], rollout)

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
        layers = _noted(
            model, model.attention_and_gradient(x, target, lambda w, g: (w * g).relu().mean(2, keepdim=True))
        )
        steps = _steps(layers)
        relevance = _identity(steps[0])
        for weights in steps:
            relevance = relevance + weights @ relevance
        return _read(model, x, target, layers[-1], relevance)


def fused(weights: Windows, how: Fusion) -> Float[Tensor, "b windows 1 queries keys"]:
    """The heads made one."""
    if how == "mean":
        return weights.mean(2, keepdim=True)
    return weights.amax(2, keepdim=True) if how == "max" else weights.amin(2, keepdim=True)


def _steps(layers: AttentionLayers) -> Sequence[Tensor]:
    """The weights (b, tokens, tokens) of each layer, if they lead between the same tokens and nothing is missing."""
    instead = "Use attention with block=..., or gradcam."
    inside = [layer for layer in layers if layer.windows.shape[1] > 1]
    if inside:
        raise UnsupportedModel(
            f"A rollout needs attention between all tokens; that of {join_names(layer.name for layer in inside)} is inside "
            f"windows. {instead}"
        )
    tokens = {(str(layer.queries), str(layer.keys)) for layer in layers}
    first = layers[0].queries
    if not all(_same(first, each) for layer in layers for each in (layer.queries, layer.keys)):
        pairs = ", ".join(sorted(f"{queries} by {keys}" for queries, keys in tokens))
        raise UnsupportedModel(
            f"A rollout needs the same tokens in every layer; here attention is queries by keys {pairs}. {instead}"
        )
    if layers.gaps:
        raise UnsupportedModel(f"A rollout needs the weights of every layer, but {'; '.join(layers.gaps)}. {instead}")
    return [layer.weights[:, 0] for layer in layers]


def _same(some: Tokens, others: Tokens) -> bool:
    return some.grid == others.grid and torch.equal(some.numbers, others.numbers)


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def _read(model: HookedModel, x: Images, target: Target, last: AttentionLayer, weights: Tensor) -> Scores:
    """The rows (b, queries, keys) of the tokens that the score reads, averaged, on the grid of the patches."""
    asking = model.query_tokens(x, target)
    _note_asking(model, last, asking)
    read = last.queries.numbers[asking]
    cells = slice(last.keys.prefix, last.keys.count - last.keys.suffix)
    return weights[:, None, read, cells].mean(2).unflatten(2, last.keys.grid)


def _note_asking(model: HookedModel, layer: AttentionLayer, asking: Tensor) -> None:
    """Tell whose attention is shown."""
    tokens = layer.queries.numbers[asking].tolist()
    model.note(f"attention of token {tokens[0]}" if len(tokens) == 1 else f"mean attention of {len(tokens)} tokens")
    windows = layer.windows.shape[1]
    if windows > 1:
        model.note(
            f"{layer.name!r} attends inside {windows} windows: each gives away the same sum of attention, so that the "
            "map compares places inside a window, not windows"
        )


def _noted(model: HookedModel, layers: AttentionLayers) -> AttentionLayers:
    for note in layers.notes:
        model.note(note)
    return layers


@dataclass(frozen=True)
class AttentionGates(Method):
    """What the model's attention modules let through at each place; the same map whatever the target."""

    name: ClassVar[str] = "attention_gates"
    source: ClassVar[str] = "Woo et al., ECCV 2018, eq. 3 (CBAM); Park et al., BMVC 2018, eq. 2 (BAM)"
    needs_target: ClassVar[bool] = False

    gate: Name | None = None  # dotted name of the module that applies it; None is the mean of all

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        model.note("attention_gates does not depend on the target: it shows what the model lets through, not for which")
        maps = [_over_space(gate) for gate in self._chosen(model.attention_gates(x))]
        if len(maps) == 1:
            return maps[0]
        return torch.stack([resize_map(each, x.shape[2:]) for each in maps]).mean(0)

    def _chosen(self, gates: Sequence[Gate]) -> list[Gate]:
        spatial = [gate for gate in gates if gate.kind != "channel"]
        if not spatial:
            names = join_names(dict.fromkeys(gate.name for gate in gates))
            has = f"{len(gates)} gates over channels alone ({names})" if gates else "no gates"
            raise UnsupportedModel(
                f"attention_gates draws gates over space, and the model has {has}: use gradcam; "
                "Explainer.attention_gates(x) gives the values of all gates."
            )
        chosen = [gate for gate in spatial if self.gate in (None, gate.name)]
        if not chosen:
            raise UnknownName("gate over space", str(self.gate), dict.fromkeys(gate.name for gate in spatial))
        return chosen


def _over_space(gate: Gate) -> Scores:
    """A gate's map, (b, 1, *grid); one over channels too is averaged over them."""
    return gate.values.unsqueeze(1) if gate.kind == "spatial" else gate.values.mean(1, keepdim=True)
