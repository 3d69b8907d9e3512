"""Methods that read a model's own attention: attention maps, their rollouts, and spatial attention gates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit._contracts.attribution import resize_map
from attribkit._contracts.method import Method
from attribkit._core.errors import InvalidInput, UnknownName, UnsupportedModel, join_names
from attribkit._core.options import FractionBelowOne, Name, NonNegativeInt
from attribkit._core.shapes import Images, Scores
from attribkit._engine.model import HookedModel
from attribkit._targets.target import Target
from attribkit._tracing.attention import AttentionLayer, AttentionLayers
from attribkit._tracing.attention_grid import Tokens, Windows
from attribkit._tracing.gates import Gate

HeadFusion = Literal["mean", "max", "min"]


@dataclass(frozen=True)
class Attention(Method):
    """Attention weights of one transformer layer: how much the tokens that the score reads attend to each patch.

    Those tokens are the class token, or the tokens that are averaged; the gradient of the score shows which. In layers
    whose tokens differ from those of the last layer, and inside windows, all tokens are used.

    Args:
        block: Index of the attention layer in execution order; a negative index counts from the last layer.
        head: Index of the attention head; None fuses all heads.
        fusion: How the heads are fused: their mean, maximum or minimum.
    """

    name: ClassVar[str] = "attention"
    display_name: ClassVar[str] = "Attention"
    source: ClassVar[str] = "Dosovitskiy et al., ICLR 2021; Vaswani et al., NeurIPS 2017, eq. 1"
    uses_target: ClassVar[bool] = False

    block: int = -1
    head: NonNegativeInt | None = None
    fusion: HeadFusion = "mean"

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        model.note(
            "attention does not depend on the target: it shows where tokens attend, not which pixels support a class"
        )

        def select(weights: Windows) -> Tensor:
            if self.head is None:
                return fuse_heads(weights, self.fusion)
            return weights[:, :, self.head : self.head + 1].clone()

        layers = _with_notes(model, model.attention(x, target, select))
        if not -len(layers) <= self.block < len(layers):
            raise InvalidInput(
                f"block={self.block} is out of range: the model has {len(layers)} attention layers, "
                f"0 to {len(layers) - 1}."
            )
        layer = layers[self.block]
        if self.head is not None and not 0 <= self.head < layer.heads:
            raise InvalidInput(
                f"head={self.head} is out of range: layer {layer.name!r} has {layer.heads} heads, "
                f"0 to {layer.heads - 1}."
            )
        queries = layer.queries.real
        if _are_same_tokens(layer.queries, layers[-1].queries):
            queries = model.query_tokens(x, target)
        _note_queries(model, layer, queries)
        return layer.received(queries)


@dataclass(frozen=True)
class AttentionRollout(Method):
    """Attention weights multiplied through all layers, with the residual connection as half of every step.

    The rollout is the product over the layers of (A + I) with each row normalised to one.

    Args:
        fusion: How the heads are fused: their mean, maximum or minimum.
        discard_ratio: Fraction of each layer's weights, the smallest ones, that is set to zero first.
    """

    name: ClassVar[str] = "attention_rollout"
    display_name: ClassVar[str] = "Attention rollout"
    source: ClassVar[str] = "Abnar and Zuidema, ACL 2020, eq. 1"
    uses_target: ClassVar[bool] = False

    fusion: HeadFusion = "mean"
    discard_ratio: FractionBelowOne = 0.0

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        model.note(
            "attention_rollout does not depend on the target: it shows where tokens attend, not which pixels support "
            "a class"
        )
        layers = _with_notes(model, model.attention(x, target, lambda weights: fuse_heads(weights, self.fusion)))
        matrices = _token_matrices(layers)
        rollout = _identity(matrices[0])
        for weights in matrices:
            step = self._discard_smallest(weights) + _identity(weights)
            rollout = step / step.sum(2, keepdim=True) @ rollout
        return _patch_map(model, x, target, layers[-1], rollout)

    def _discard_smallest(self, weights: Tensor) -> Tensor:
        """Set the smallest weights of each image to zero."""
        discarded = int(weights[0].numel() * self.discard_ratio)
        if not discarded:
            return weights
        flat = weights.flatten(1)
        return flat.scatter(1, flat.topk(discarded, largest=False).indices, 0).view_as(weights)


@dataclass(frozen=True)
class GradientRollout(Method):
    """Attention weights times their positive gradients, propagated through all layers.

    With the mean over the heads of ReLU(A * dy/dA) as the weights of a layer, relevance R starts as the identity and
    becomes R + weights @ R at each layer.
    """

    name: ClassVar[str] = "gradient_rollout"
    display_name: ClassVar[str] = "Gradient rollout"
    source: ClassVar[str] = "Chefer et al., ICCV 2021, eqs. 5 and 6"

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        layers = _with_notes(
            model, model.attention_and_gradient(x, target, lambda w, g: (w * g).relu().mean(2, keepdim=True))
        )
        matrices = _token_matrices(layers)
        relevance = _identity(matrices[0])
        for weights in matrices:
            relevance = relevance + weights @ relevance
        return _patch_map(model, x, target, layers[-1], relevance)


@dataclass(frozen=True)
class AttentionGates(Method):
    """Values of the spatial gates by which the model's attention modules multiply its maps; the target is not used.

    A gate over channels and positions is averaged over the channels.

    Args:
        gate: Dotted name of the module that applies the gate; None averages the maps of all spatial gates.
    """

    name: ClassVar[str] = "attention_gates"
    display_name: ClassVar[str] = "Attention gates"
    source: ClassVar[str] = "Woo et al., ECCV 2018, eq. 3 (CBAM); Park et al., BMVC 2018, eq. 2 (BAM)"
    uses_target: ClassVar[bool] = False
    expected_failures: ClassVar[Mapping[str, str]] = {"example": "the small networks do not have gates"}

    gate: Name | None = None

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        model.note(
            "attention_gates does not depend on the target: it shows the values of the gates, not which pixels "
            "support a class"
        )
        maps = [_gate_map(gate) for gate in self._select(model.attention_gates(x))]
        if len(maps) == 1:
            return maps[0]
        return torch.stack([resize_map(each, x.shape[2:]) for each in maps]).mean(0)

    def _select(self, gates: Sequence[Gate]) -> list[Gate]:
        spatial = [gate for gate in gates if gate.kind != "channel"]
        if not spatial:
            names = join_names(dict.fromkeys(gate.name for gate in gates))
            found = f"only {len(gates)} channel gates: {names}" if gates else "none"
            raise UnsupportedModel(
                f"attention_gates requires spatial gates, but the model has {found}. Use gradcam, or read the values "
                "of all gates with Explainer.attention_gates(x)."
            )
        selected = [gate for gate in spatial if self.gate in (None, gate.name)]
        if not selected:
            raise UnknownName("spatial gate", str(self.gate), dict.fromkeys(gate.name for gate in spatial))
        return selected


def fuse_heads(weights: Windows, fusion: HeadFusion) -> Float[Tensor, "b windows 1 queries keys"]:
    """Return the mean, maximum or minimum of the weights over the heads."""
    if fusion == "mean":
        return weights.mean(2, keepdim=True)
    return weights.amax(2, keepdim=True) if fusion == "max" else weights.amin(2, keepdim=True)


def _token_matrices(layers: AttentionLayers) -> Sequence[Tensor]:
    """Return the weights (b, tokens, tokens) of each layer; raise UnsupportedModel where they cannot be multiplied."""
    advice = "Use attention with block=..., or gradcam."
    windowed = [layer for layer in layers if layer.windows.shape[1] > 1]
    if windowed:
        raise UnsupportedModel(
            "A rollout needs attention between all tokens, but these layers attend inside windows: "
            f"{join_names(layer.name for layer in windowed)}. {advice}"
        )
    tokens = {(str(layer.queries), str(layer.keys)) for layer in layers}
    first = layers[0].queries
    if not all(_are_same_tokens(first, each) for layer in layers for each in (layer.queries, layer.keys)):
        pairs = ", ".join(sorted(f"{queries} by {keys}" for queries, keys in tokens))
        raise UnsupportedModel(
            f"A rollout needs the same tokens in every layer; the queries by keys of this model are {pairs}. {advice}"
        )
    if layers.gaps:
        raise UnsupportedModel(f"A rollout needs the weights of every layer, but {'; '.join(layers.gaps)}. {advice}")
    return [layer.weights[:, 0] for layer in layers]


def _are_same_tokens(first: Tokens, second: Tokens) -> bool:
    return first.grid == second.grid and torch.equal(first.numbers, second.numbers)


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def _patch_map(model: HookedModel, x: Images, target: Target, last: AttentionLayer, weights: Tensor) -> Scores:
    """Average the rows (b, queries, keys) of the tokens that the score reads, on the grid of the patches."""
    queries = model.query_tokens(x, target)
    _note_queries(model, last, queries)
    rows = last.queries.numbers[queries]
    patches = slice(last.keys.prefix, last.keys.count - last.keys.suffix)
    return weights[:, None, rows, patches].mean(2).unflatten(2, last.keys.grid)


def _note_queries(model: HookedModel, layer: AttentionLayer, queries: Tensor) -> None:
    """Note which tokens' attention is shown."""
    tokens = layer.queries.numbers[queries].tolist()
    model.note(f"attention of token {tokens[0]}" if len(tokens) == 1 else f"mean attention of {len(tokens)} tokens")
    windows = layer.windows.shape[1]
    if windows > 1:
        model.note(
            f"{layer.name!r} attends inside {windows} windows, and the attention in each window has the same sum: "
            "compare positions inside a window, not across windows"
        )


def _with_notes(model: HookedModel, layers: AttentionLayers) -> AttentionLayers:
    for note in layers.notes:
        model.note(note)
    return layers


def _gate_map(gate: Gate) -> Scores:
    """Return a gate's map, (b, 1, *grid), averaged over its channels if it has any."""
    return gate.values.unsqueeze(1) if gate.kind == "spatial" else gate.values.mean(1, keepdim=True)
