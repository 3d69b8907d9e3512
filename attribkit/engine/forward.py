"""What a method asks of the images as they are, and one forward that answers it."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from attribkit.core.autograd import RECOMPUTED, straightened
from attribkit.core.errors import InvalidInput, UnsupportedModel
from attribkit.core.layouts import Extents, Layout
from attribkit.core.shapes import Images, LayerMaps, PerImage
from attribkit.engine.backward_rules import Rule, applied
from attribkit.engine.chunks import Question, RunsDiffer
from attribkit.state.hooks import Captured, Wanted, captured
from attribkit.targets.outputs import precise
from attribkit.tracing.trace import gradient_reach

_BLIND = 0.5  # a gradient that reaches a smaller share of the grid than this is worth a note


@dataclass(frozen=True)
class Reads:
    """What is asked of one forward of the images and of backwards over its graph."""

    layers: tuple[str | None, ...] = ()  # activation and gradient of each; None is the layer that the model justifies
    gradients: tuple[Rule | None, ...] = ()  # the derivative by the images under each rule; None is the plain one

    def __or__(self, other: "Reads") -> "Reads":
        """Both, nothing twice."""
        layers, gradients = self.layers + other.layers, self.gradients + other.gradients
        return Reads(tuple(dict.fromkeys(layers)), tuple(dict.fromkeys(gradients)))

    def __le__(self, other: "Reads") -> bool:
        """Whether the other asks for all of this."""
        return set(self.layers) <= set(other.layers) and set(self.gradients) <= set(other.gradients)


@dataclass(frozen=True, eq=False)
class Answers:
    """What one forward of the images said of a target."""

    reads: Reads
    score: PerImage
    layers: dict[str | None, list[tuple[LayerMaps, LayerMaps]]]  # activation and d score / d activation; mostly one
    gradients: dict[Rule | None, Images]
    layer_notes: dict[str | None, list[str]]
    gradient_notes: dict[Rule | None, list[str]]
    target_notes: list[str] = field(default_factory=list)
    extents: Extents = field(default_factory=Extents)  # of the layers

    def layer(self, name: str | None) -> tuple[LayerMaps, LayerMaps]:
        """Activation and d score / d activation of the one layer of this name."""
        (pair,) = self.layers[name]
        return pair

    def copied(self, reads: Reads) -> "Answers":
        """Those to a part of the questions, in tensors of their own, for a reader who may work in place."""
        layers = {
            layer: [(maps.clone(), gradients.clone()) for maps, gradients in self.layers[layer]]
            for layer in reads.layers
        }
        gradients = {rule: self.gradients[rule].clone() for rule in reads.gradients}
        return replace(self, reads=reads, score=self.score.clone(), layers=layers, gradients=gradients)

    def notes(self, reads: Reads) -> Iterable[str]:
        """What a careful reader should know of a part of the answers."""
        of_layers = [self.layer_notes.get(layer, []) for layer in reads.layers]
        of_gradients = [self.gradient_notes.get(rule, []) for rule in reads.gradients]
        return [note for notes in [self.target_notes, *of_layers, *of_gradients] for note in notes]


class ReadLayer(NamedTuple):
    """A layer that is asked for: which tensor it is, and how it is a map of the image."""

    asked: str | None  # as the method named it; None is what is read by default
    name: str  # as it is printed
    wanted: Wanted
    runs: int  # how often the module runs in a forward of one image
    layout: Layout | None  # None where it is no map of the image
    reached: bool = True  # whether it depends on the image


class Reading:
    """One forward of a chunk of images, and for each question the backwards that it needs.

    Where only layers are asked for, the graph starts at the first of them and nothing is recorded below it. One
    backward serves all layers and the plain gradient; each rule takes one more over the same graph.
    """

    def __init__(self, forward: Callable[[Images], Any], layers: Sequence[ReadLayer], reads: Reads) -> None:
        self.forward = forward
        self.layers = layers
        self.reads = reads
        self.gradient_notes: dict[Rule | None, list[str]] = defaultdict(list)

    def __call__(self, x: Tensor, questions: Sequence[Question]) -> list[Tensor]:
        """For each question its score, then the layers' maps, then the gradients."""
        images = x.detach().requires_grad_(bool(self.reads.gradients))
        with captured([layer.wanted for layer in self.layers]) as kept:
            outputs = self.forward(images)
        read = [map_of(layer, each, x) for layer, each in zip(self.layers, kept, strict=True)]
        found: list[Tensor] = []
        for question in questions:
            score = question(outputs)
            found.append(score.detach())
            found += self._derived(score, read, images, keep=question is not questions[-1])
        return [precise(tensor) for tensor in found]

    def answers(self, found: Sequence[Tensor], targets: int) -> list[Answers]:
        """The answers about each of so many targets, out of what the calls found."""
        each = len(found) // targets
        return [self._answer(found[i * each : (i + 1) * each]) for i in range(targets)]

    def _answer(self, found: Sequence[Tensor]) -> Answers:
        score, *tensors = found
        pairs = zip(tensors[0 : 2 * len(self.layers) : 2], tensors[1 : 2 * len(self.layers) : 2], strict=True)
        layers: dict[str | None, list[tuple[Tensor, Tensor]]] = {asked: [] for asked in self.reads.layers}
        notes: dict[str | None, list[str]] = defaultdict(list)
        for layer, (activation, gradient) in zip(self.layers, pairs, strict=True):
            layers[layer.asked].append((activation, gradient))
            notes[layer.asked].extend(_blindness(layer.name, gradient))
        gradients = dict(zip(self.reads.gradients, tensors[2 * len(self.layers) :], strict=True))
        return Answers(self.reads, score, layers, gradients, notes, dict(self.gradient_notes))

    def _derived(
        self, score: Tensor, read: Sequence[tuple[Tensor, Layout]], images: Tensor, keep: bool
    ) -> list[Tensor]:
        """Activation and gradient of each layer, and the gradients by the images."""
        rules = [rule for rule in self.reads.gradients if rule is not None]
        plain = None in self.reads.gradients
        wanted = [output for output, _ in read] + [images] * plain
        names: list[str | None] = [layer.name for layer in self.layers] + [None] * plain
        derived = gradients_of(score, wanted, names, keep=keep or bool(rules)) if wanted else []
        pairs = zip(read, derived, strict=False)
        maps = [layout.to_grid(tensor) for (output, layout), g in pairs for tensor in (output.detach(), g)]
        by_rule: dict[Rule | None, Tensor] = {None: derived[-1]} if plain else {}
        for rule in rules:
            with applied(rule, score.grad_fn) as notes:
                self.gradient_notes[rule] = notes
                (by_rule[rule],) = gradients_of(score, [images], [None], keep=keep or rule is not rules[-1])
        return maps + [by_rule[rule] for rule in self.reads.gradients]


def map_of(layer: ReadLayer, kept: Captured, x: Tensor) -> tuple[Tensor, Layout]:
    """What was kept of a layer for the images x, and how it is a map of them."""
    if kept.runs != layer.runs and len(x) > 1:
        raise RunsDiffer
    if not layer.reached:
        raise UnsupportedModel(
            f"Layer {layer.name!r} does not depend on the image that is explained: it sees another input of the model. "
            "Explainer.layers() lists the layers that do."
        )
    if kept.tensor is None:
        raise UnsupportedModel(
            f"Layer {layer.name!r} put out no tensor in the forward: it was not run, or not through its forward(). "
            "Explainer.layers() lists those that can be read."
        )
    shape = tuple(kept.tensor.shape)
    if layer.layout is None and shape[0] != len(x):
        raise _rows_of_several(layer, shape, len(x))
    if layer.layout is None and _is_one_cell(shape, x.ndim):
        raise InvalidInput(
            f"Layer {layer.name!r} has no grid: its output of shape {shape} is a single cell, which tells no place on "
            f"images of shape {tuple(x.shape)}. Give larger images, or choose an earlier layer: Explainer.layers() "
            "lists those that have a grid."
        )
    if layer.layout is None:
        raise InvalidInput(
            f"Layer {layer.name!r} has no grid: its output of shape {shape} is no map of images of shape "
            f"{tuple(x.shape)}. Explainer.layers() lists the layers that have one."
        )
    frames = layer.layout.frames
    if shape[0] != len(x) * max(frames, 1) or (frames and len(x) > 1):
        if len(x) > 1:
            raise RunsDiffer
        raise _rows_of_several(layer, shape, len(x))
    return kept.tensor, layer.layout


def _is_one_cell(shape: tuple[int, ...], axes: int) -> bool:
    """Whether an output has an axis of channels, first or last, and a single cell along the axes of space."""
    return len(shape) == axes and 1 in (math.prod(shape[2:]), math.prod(shape[1:-1]))


def _rows_of_several(layer: ReadLayer, shape: tuple[int, ...], images: int) -> UnsupportedModel:
    return UnsupportedModel(
        f"Layer {layer.name!r} has {shape[0]} rows for {images} images (shape {shape}), such as crops, views or pairs: "
        "explain the part of the model that takes one of them, or choose another layer."
    )


def ways_of_reading(layout: Layout, name: str) -> Iterable[str]:
    """What is worth a note in how a layer was read."""
    if layout.ambiguous:
        yield f"layer {name!r} was read as {layout.kind}; its shape allows another order of axes as well"
    if layout.inferred:
        yield f"layer {name!r}: grid inferred from the shape alone"
    if layout.extent is not None:
        yield f"layer {name!r} {_covered(layout)}; the heatmap is zero elsewhere"


def _covered(layout: Layout) -> str:
    spans = ", ".join(f"{start:.0%} to {end:.0%}" for start, end in layout.extent or ())
    return f"has cells at {spans} of the image along its axes"


def gradients_of(score: Tensor, tensors: Sequence[Tensor], layers: Sequence[str | None], *, keep: bool) -> list[Tensor]:
    """The derivative of the score by each tensor, of a layer or (None) of the images; a missing path is an error.

    keep: whether the graph is needed for another backward.
    """
    gradients: Sequence[Tensor | None] = [None] * len(tensors)
    if score.requires_grad:
        try:
            with straightened(score):
                gradients = torch.autograd.grad(score.sum(), tensors, retain_graph=keep, allow_unused=True)
        except RuntimeError as error:
            if isinstance(error, CheckpointError) or "torch.utils.checkpoint" in str(error):
                raise UnsupportedModel(RECOMPUTED) from error
            raise
    cut = [layer for layer, gradient in zip(layers, gradients, strict=True) if gradient is None]
    if cut:
        where = "the images" if cut[0] is None else f"layer {cut[0]!r}"
        raise UnsupportedModel(
            f"No gradient leads from the score to {where}: the score does not depend on it, or the model or the target "
            "cuts the graph (detach, no_grad, argmax, NumPy). Choose a layer, a target or a method without gradients."
        )
    return [gradient for gradient in gradients if gradient is not None]


def _blindness(name: str, gradient: Tensor) -> Iterable[str]:
    reach = gradient_reach(gradient)
    if reach < _BLIND:
        yield f"the score's gradient is exactly zero at {1 - reach:.0%} of the grid of layer {name!r}"
