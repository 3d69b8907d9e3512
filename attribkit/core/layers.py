"""Which layers of a model are maps of the image."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attribkit.core.errors import UnsupportedModel
from attribkit.core.layer_choice import choose, is_inside_attention, unjustified
from attribkit.core.layouts import Layout
from attribkit.core.spec import ModelSpec
from attribkit.core.targets.target import Target
from attribkit.core.trace import Output, Trace


@dataclass(frozen=True)
class Layer:
    """A module whose output is a map of the image."""

    name: str  # dotted
    kind: str  # class name
    shape: tuple[int, ...]  # of its output, without the batch axis
    layout: Layout
    run: int = 0  # which of its runs in a forward this is
    reason: str = ""  # why it is the one that methods read by default; empty for the others

    @property
    def chosen(self) -> bool:
        """Whether methods read this layer when none is named."""
        return bool(self.reason)


@dataclass(frozen=True)
class FoundLayers:
    """The layers of a model that are maps of the image, and the one to read or why there is none."""

    layers: list[Layer]  # in the order in which they finish
    refusal: UnsupportedModel | None = None

    @property
    def chosen(self) -> Layer:
        """The layer that methods read by default, where there is no refusal."""
        return next(layer for layer in self.layers if layer.chosen)


@torch.enable_grad()
def find_layers(model: nn.Module, x: Tensor, spec: ModelSpec, target: Target) -> FoundLayers:
    """Find the layers that are maps of the image, and choose one for a target's score.

    model: frozen; x: one image, (1, c, *space). Costs a forward with its graph, and for a class-token model a backward
    through its last block.
    """
    trace = Trace(model, x, target)
    maps = _maps(trace.outputs, x, spec)
    try:
        chosen, reason = _named(maps, spec, model) if spec.layer else choose(trace, maps, model)
    except UnsupportedModel as refusal:
        return FoundLayers([_layer(output, layout) for output, layout in maps.items()], refusal)
    layers = [_layer(output, layout, reason if output is chosen else "") for output, layout in maps.items()]
    return FoundLayers(layers)


def _layer(output: Output, layout: Layout, reason: str = "") -> Layer:
    return Layer(output.name, type(output.module).__name__, output.shape[1:], layout, output.run, reason)


def _maps(outputs: Iterable[Output], x: Tensor, spec: ModelSpec) -> dict[Output, Layout]:
    """The outputs that are maps of the image: seen from where their elements come from, or else told by the shape."""
    maps: dict[Output, Layout] = {}
    for output in (each for each in outputs if not is_inside_attention(each.name)):
        layout = _told_by_shape(output, maps.values(), x, spec) if output.lost else output.layout
        if layout is not None:
            maps[output] = layout
    return maps


def _told_by_shape(output: Output, before: Iterable[Layout], x: Tensor, spec: ModelSpec) -> Layout | None:
    layout = spec.layout(output.shape, tuple(x.shape))
    known = layout is None or spec.prefix_tokens is not None or _is_plausible(output, layout, before, x)
    return layout if known else None


def _is_plausible(output: Output, layout: Layout, before: Iterable[Layout], x: Tensor) -> bool:
    """Tokens of which nothing is told must be the image cut up, or come from a map of their grid or a finer one."""
    if layout.kind != "tokens" or math.prod(output.shape[1:]) == math.prod(x.shape[1:]):
        return True
    return any(_is_coarser(layout.grid, earlier.grid) for earlier in before)


def _is_coarser(grid: tuple[int, ...], fine: tuple[int, ...]) -> bool:
    """Whether a grid is the finer one, strided by a whole number."""
    strides = range(1, max(fine) + 1)
    return any(all(cells in (a // k, -(-a // k)) for a, cells in zip(fine, grid, strict=True)) for k in strides)


def _named(maps: dict[Output, Layout], spec: ModelSpec, model: nn.Module) -> tuple[Output, str]:
    """The layer that the spec names."""
    found = [output for output in maps if output.name == spec.layer]
    if not found:
        raise unjustified(model, maps, f"the spec names {spec.layer!r}, which is no map of these images")
    return found[-1], spec.reason
