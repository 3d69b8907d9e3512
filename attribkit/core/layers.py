"""Which layers of a model are maps of the image, and which of them an explanation should read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attribkit.core.errors import InvalidInput, UnsupportedModel, listed
from attribkit.core.hooks import first_tensor, observed
from attribkit.core.layouts import Layout
from attribkit.core.spec import ModelSpec
from attribkit.core.targets import class_scores

_ENOUGH = 0.5  # share of positions that the gradient must reach


@dataclass(frozen=True)
class Layer:
    """A module whose output is a map of the image."""

    name: str  # dotted
    kind: str  # class name
    shape: tuple[int, ...]  # of its output, without the batch axis
    layout: Layout
    reach: float = math.nan  # share of the grid that the score's gradient reaches; nan where it was not asked for
    reason: str = ""  # why it is the one that methods read by default; empty for the others

    @property
    def chosen(self) -> bool:
        """Whether methods read this layer when none is named."""
        return bool(self.reason)


@dataclass(frozen=True, eq=False)
class _Output:
    """A layer met in the trace, with what it put out."""

    layer: Layer
    tensor: Tensor


def trace(model: nn.Module, x: Tensor, spec: ModelSpec) -> list[Layer]:
    """The layers that are maps of the image, in the order in which they finish, one of them chosen.

    model: frozen; x: one image, (1, c, *space). Costs a forward; a class-token model also a backward.
    """
    with observed(model) as seen:
        scores = _top_score(model(x.detach().requires_grad_().clone()))
    outputs = _maps(seen, x, spec)
    classes = _class_maps(seen, scores)
    if spec.layer is None and any(output.layer.layout.kind == "tokens" for output in outputs):
        outputs = _with_reach(outputs, scores)
    chosen, reason = (spec.layer, spec.reason) if spec.layer else _choose(outputs, classes, model)
    layers = [output.layer for output in outputs]
    return [replace(layer, reason=reason) if layer.name == chosen else layer for layer in layers]


def _maps(seen: Sequence[tuple[str, nn.Module, object]], x: Tensor, spec: ModelSpec) -> list[_Output]:
    """The outputs that have a layout; of a module that ran more than once, the last."""
    found: dict[str, _Output] = {}
    for name, module, output in seen:
        tensor = first_tensor(output)
        layout = spec.layout(tensor.shape, x.shape) if tensor is not None else None
        if tensor is not None and layout is not None and not _is_attention(name):
            found.pop(name, None)
            found[name] = _Output(Layer(name, type(module).__name__, tuple(tensor.shape[1:]), layout), tensor)
    return list(found.values())


def _is_attention(name: str) -> bool:
    """Inside an attention module a query-by-key matrix can have the proportions of an image."""
    return any(part in ("attn", "attention", "self_attention", "self_attn") for part in name.split(".")[:-1])


def _top_score(outputs: object) -> Tensor | None:
    try:
        return class_scores(outputs)
    except InvalidInput:  # not a classifier; the choice then goes without class scores
        return None


def _class_maps(seen: Sequence[tuple[str, nn.Module, object]], scores: Tensor | None) -> int | None:
    """How many channels a map of classes has, in a model whose classifier is a convolution."""
    weighted = [module for _, module, _ in seen if any(True for _ in module.parameters(recurse=False))]
    if scores is None or not weighted or isinstance(weighted[-1], nn.Linear):
        return None
    return scores.shape[1]


def _with_reach(outputs: list[_Output], scores: Tensor | None) -> list[_Output]:
    """Each output with the share of its grid where the gradient of the top score is not exactly zero."""
    score = scores.amax(1).sum() if scores is not None else None
    if score is None or not score.requires_grad:
        return outputs
    connected = [output for output in outputs if output.tensor.requires_grad]
    gradients = torch.autograd.grad(score, [output.tensor for output in connected], allow_unused=True)
    reach = {
        id(output): 0.0 if gradient is None else gradient_reach(output.layer.layout.to_grid(gradient))
        for output, gradient in zip(connected, gradients, strict=True)
    }
    return [replace(o, layer=replace(o.layer, reach=reach.get(id(o), math.nan))) for o in outputs]


def gradient_reach(gradient: Tensor) -> float:
    """The share of positions at which some channel's gradient is not exactly zero; gradient: (b, d, *grid)."""
    return gradient.ne(0).any(1).float().mean().item()


def _choose(outputs: list[_Output], classes: int | None, model: nn.Module) -> tuple[str, str]:
    """The last map of the image before it is pooled, or, where that one's gradient is blind, the last that is not."""
    unpooled = [o for o in outputs if "Pool" not in o.layer.kind]
    maps = [o for o in unpooled if not _is_class_map(o.layer, classes)] or unpooled
    if not maps:
        raise _unjustified(model, outputs, "no layer before the pooling is a map of the image")
    last = _outermost(maps[-1], maps)
    where = f"{'x'.join(map(str, last.layout.grid))}, {last.layout}"
    if not last.reach < _ENOUGH:
        return last.name, f"the last map of the image before it is pooled ({where})"
    norms = [o.layer for o in maps if "Norm" in o.layer.kind and o.layer.reach >= _ENOUGH]
    if norms:
        return norms[-1].name, f"the last normalisation whose patches the score's gradient reaches ({where})"
    raise _unjustified(
        model, outputs, f"the score's gradient reaches {last.reach:.0%} of {last.name!r}, the last of them"
    )


def _is_class_map(layer: Layer, classes: int | None) -> bool:
    return layer.layout.kind == "channels first" and layer.shape[0] == classes


def _outermost(output: _Output, maps: list[_Output]) -> Layer:
    """Of the modules that put out the same tensor, the one with the shortest path; it is the name that people know."""
    same = [o.layer for o in maps if o.tensor is output.tensor]
    return min(same, key=lambda layer: layer.name.count("."))


def _unjustified(model: nn.Module, outputs: list[_Output], why: str) -> UnsupportedModel:
    names = listed(dict.fromkeys(_outermost(output, outputs).name for output in reversed(outputs)))
    return UnsupportedModel(
        f"No layer of this {type(model).__name__} can be chosen with a reason: {why}. Candidates, last first: {names}. "
        "Name one by layer=..., or describe the model by Explainer(model, spec=ModelSpec(...))."
    )
