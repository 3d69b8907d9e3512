"""The layers and gradients that a method requires of the unperturbed images, and the forward pass for them."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from attribkit._core.autograd import CHECKPOINTING_MESSAGE, contiguous_batchnorm_gradients
from attribkit._core.errors import InvalidInput, UnsupportedModel
from attribkit._core.layouts import Extents, Layout
from attribkit._core.shapes import Images, LayerMaps, PerImage
from attribkit._engine.backward_rules import BackwardRule, apply_rule
from attribkit._engine.evaluation import RunsDiffer, TargetEvaluation
from attribkit._state.hooks import CapturedTensor, TensorRequest, capture
from attribkit._targets.outputs import to_full_precision
from attribkit._tracing.trace import nonzero_gradient_fraction

_LEAST_REACH = 0.5  # fraction of the grid below which a note says that the gradient does not reach it


@dataclass(frozen=True)
class Requirements:
    """The layers and gradients that a method requires of one forward pass and its backward passes.

    Args:
        layers: Layers whose activation and gradient are required; None means the default layer of the target.
        gradients: Backward rules for which the derivative with respect to the images is required; None means the plain
            gradient.
    """

    layers: tuple[str | None, ...] = ()
    gradients: tuple[BackwardRule | None, ...] = ()

    def __or__(self, other: "Requirements") -> "Requirements":
        """Return both requirements, each layer and rule once."""
        layers, gradients = self.layers + other.layers, self.gradients + other.gradients
        return Requirements(tuple(dict.fromkeys(layers)), tuple(dict.fromkeys(gradients)))

    def __le__(self, other: "Requirements") -> bool:
        """Return whether the other requirements include these."""
        return set(self.layers) <= set(other.layers) and set(self.gradients) <= set(other.gradients)


@dataclass(frozen=True, eq=False)
class ForwardResults:
    """The results of one forward pass of the images for one target.

    Args:
        requires: The requirements that are met.
        score: Score of each image, (b,).
        layers: Activation and d score / d activation of each layer, (b, d, *grid), by requested name; usually one pair.
        gradients: d score / d x, (b, c, *space), by backward rule.
        layer_notes: Notes on the layers, by requested name.
        gradient_notes: Notes on the gradients, by backward rule.
        target_notes: Notes on how the outputs were scored.
        extents: The part of the images that the grid of each layer covers.
    """

    requires: Requirements
    score: PerImage
    layers: dict[str | None, list[tuple[LayerMaps, LayerMaps]]]
    gradients: dict[BackwardRule | None, Images]
    layer_notes: dict[str | None, list[str]]
    gradient_notes: dict[BackwardRule | None, list[str]]
    target_notes: list[str] = field(default_factory=list)
    extents: Extents = field(default_factory=Extents)

    def layer(self, name: str | None) -> tuple[LayerMaps, LayerMaps]:
        """Return activation and d score / d activation of the one layer of this name."""
        (pair,) = self.layers[name]
        return pair

    def copied(self, requires: Requirements) -> "ForwardResults":
        """Return the part that meets some of the requirements, in new tensors that a method may write into."""
        layers = {
            layer: [(maps.clone(), gradients.clone()) for maps, gradients in self.layers[layer]]
            for layer in requires.layers
        }
        gradients = {rule: self.gradients[rule].clone() for rule in requires.gradients}
        return replace(self, requires=requires, score=self.score.clone(), layers=layers, gradients=gradients)

    def notes(self, requires: Requirements) -> Iterable[str]:
        """Return the notes that concern some of the requirements."""
        on_layers = [self.layer_notes.get(layer, []) for layer in requires.layers]
        on_gradients = [self.gradient_notes.get(rule, []) for rule in requires.gradients]
        return [note for notes in [self.target_notes, *on_layers, *on_gradients] for note in notes]


class LayerRequest(NamedTuple):
    """A layer to read: its tensor, and the layout of the tensor as a map of the image."""

    requested: str | None  # name in the requirements; None means the default layer
    name: str  # printed name
    request: TensorRequest
    runs: int  # number of times that the module runs for one image
    layout: Layout | None  # None if the output is not a map of the image
    reached: bool = True  # whether the output depends on the image


class ForwardPass:
    """One forward pass of a chunk of images, and for each target the backward passes that it needs.

    If only layers are required, the graph starts at the first of them and nothing below it is recorded. One backward
    pass serves all layers and the plain gradient; each rule takes one more over the same graph.

    Args:
        forward: Maps images to the outputs that the targets score.
        layers: The layers to read.
        requires: The requirements of the method.
        layer_notes: Notes on the choice of each layer, by requested name.
        extents: Extents of the layers.
    """

    def __init__(
        self,
        forward: Callable[[Images], Any],
        layers: Sequence[LayerRequest],
        requires: Requirements,
        layer_notes: Mapping[str | None, list[str]],
        extents: Extents,
    ) -> None:
        self.forward = forward
        self.layers = layers
        self.requires = requires
        self.layer_notes = layer_notes
        self.extents = extents
        self.gradient_notes: dict[BackwardRule | None, list[str]] = defaultdict(list)

    def __call__(self, x: Tensor, evaluations: Sequence[TargetEvaluation]) -> list[Tensor]:
        """Return, for each target, its score, then activation and gradient of each layer, then the gradients for x."""
        images = x.detach().requires_grad_(bool(self.requires.gradients))
        with capture([layer.request for layer in self.layers]) as captured:
            outputs = self.forward(images)
        maps = [map_of(layer, each, x) for layer, each in zip(self.layers, captured, strict=True)]
        tensors: list[Tensor] = []
        for evaluation in evaluations:
            score = evaluation(outputs)
            tensors.append(score.detach())
            tensors += self._derived(score, maps, images, keep=evaluation is not evaluations[-1])
        return [to_full_precision(tensor) for tensor in tensors]

    def results(self, tensors: Sequence[Tensor], target_notes: Sequence[list[str]]) -> list[ForwardResults]:
        """Return the results of each target from the tensors of all chunks."""
        count = len(tensors) // len(target_notes)
        return [self._results_of(tensors[i * count : (i + 1) * count], notes) for i, notes in enumerate(target_notes)]

    def _results_of(self, tensors: Sequence[Tensor], target_notes: list[str]) -> ForwardResults:
        score, *rest = tensors
        count = 2 * len(self.layers)
        layers: dict[str | None, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.requires.layers}
        notes = {name: list(self.layer_notes[name]) for name in self.requires.layers}
        for layer, activation, gradient in zip(self.layers, rest[0:count:2], rest[1:count:2], strict=True):
            layers[layer.requested].append((activation, gradient))
            notes[layer.requested].extend(_reach_notes(layer.name, gradient))
        gradients = dict(zip(self.requires.gradients, rest[count:], strict=True))
        gradient_notes = dict(self.gradient_notes)
        return ForwardResults(
            self.requires, score, layers, gradients, notes, gradient_notes, list(target_notes), self.extents
        )

    def _derived(
        self, score: Tensor, maps: Sequence[tuple[Tensor, Layout]], images: Tensor, keep: bool
    ) -> list[Tensor]:
        """Return activation and gradient of each layer, and the gradients with respect to the images."""
        rules = [rule for rule in self.requires.gradients if rule is not None]
        plain = None in self.requires.gradients
        wanted = [output for output, _ in maps] + [images] * plain
        names: list[str | None] = [layer.name for layer in self.layers] + [None] * plain
        derived = gradients_of(score, wanted, names, keep=keep or bool(rules)) if wanted else []
        pairs = zip(maps, derived, strict=False)
        on_grids = [layout.to_grid(tensor) for (output, layout), g in pairs for tensor in (output.detach(), g)]
        by_rule: dict[BackwardRule | None, Tensor] = {None: derived[-1]} if plain else {}
        for rule in rules:
            with apply_rule(rule, score.grad_fn) as notes:
                self.gradient_notes[rule] = notes
                (by_rule[rule],) = gradients_of(score, [images], [None], keep=keep or rule is not rules[-1])
        return on_grids + [by_rule[rule] for rule in self.requires.gradients]


def map_of(layer: LayerRequest, captured: CapturedTensor, x: Tensor) -> tuple[Tensor, Layout]:
    """Return the captured output of a layer for the images x, and its layout; raises if it is not a map of them."""
    if captured.runs != layer.runs and len(x) > 1:
        raise RunsDiffer
    if not layer.reached:
        raise UnsupportedModel(
            f"Layer {layer.name!r} does not depend on the explained image; it processes another input of the model. "
            "Explainer.layers() lists the layers that do."
        )
    if captured.tensor is None:
        raise UnsupportedModel(
            f"Layer {layer.name!r} did not return a tensor in the forward pass: it was not called, or its forward() "
            "was bypassed. Explainer.layers() lists the layers that can be used."
        )
    shape = tuple(captured.tensor.shape)
    if layer.layout is None and shape[0] != len(x):
        raise _rows_of_several(layer, shape, len(x))
    if layer.layout is None and _is_one_cell(shape, x.ndim):
        raise InvalidInput(
            f"Layer {layer.name!r} does not have a grid: its output of shape {shape} is a single cell for images of "
            f"shape {tuple(x.shape)}, without spatial information. Pass larger images, or choose an earlier layer: "
            "Explainer.layers() lists those that have a grid."
        )
    if layer.layout is None:
        raise InvalidInput(
            f"Layer {layer.name!r} does not have a grid: its output of shape {shape} is not a spatial map for images "
            f"of shape {tuple(x.shape)}. Explainer.layers() lists the layers that have one."
        )
    frames = layer.layout.frames
    if shape[0] != len(x) * max(frames, 1) or (frames and len(x) > 1):
        if len(x) > 1:
            raise RunsDiffer
        raise _rows_of_several(layer, shape, len(x))
    return captured.tensor, layer.layout


def _is_one_cell(shape: tuple[int, ...], axes: int) -> bool:
    """Return whether an output has channels, first or last, and a single cell along the spatial axes."""
    return len(shape) == axes and 1 in (math.prod(shape[2:]), math.prod(shape[1:-1]))


def _rows_of_several(layer: LayerRequest, shape: tuple[int, ...], images: int) -> UnsupportedModel:
    return UnsupportedModel(
        f"The output of layer {layer.name!r} has {shape[0]} rows for {images} images (shape {shape}): the model may "
        "process several crops, views or pairs. Explain the part of the model that processes one of them, or choose "
        "another layer."
    )


def layout_notes(layout: Layout, name: str) -> Iterable[str]:
    """Yield the notes on how the output of a layer was read as a map."""
    if layout.ambiguous:
        yield f"layer {name!r} was read as {layout.kind}, but its shape also allows a different axis order"
    if layout.inferred:
        yield f"layer {name!r}: grid inferred from the shape alone"
    if layout.extent is not None:
        yield f"layer {name!r} {_coverage(layout)}; the heatmap is zero elsewhere"


def _coverage(layout: Layout) -> str:
    spans = ", ".join(f"{start:.0%} to {end:.0%}" for start, end in layout.extent or ())
    return f"covers {spans} of the image along its axes"


def gradients_of(score: Tensor, tensors: Sequence[Tensor], layers: Sequence[str | None], *, keep: bool) -> list[Tensor]:
    """Return the derivative of the score with respect to each tensor.

    Args:
        score: Score of each image, (b,).
        tensors: Outputs of layers, or the images.
        layers: For each tensor, the printed name of its layer, or None for the images.
        keep: Whether the graph is needed for another backward pass.

    Raises:
        UnsupportedModel: The graph does not connect the score with one of the tensors, or the model recomputes its
            activations.
    """
    gradients: Sequence[Tensor | None] = [None] * len(tensors)
    if score.requires_grad:
        try:
            with contiguous_batchnorm_gradients(score):
                gradients = torch.autograd.grad(score.sum(), tensors, retain_graph=keep, allow_unused=True)
        except RuntimeError as error:
            if isinstance(error, CheckpointError) or "torch.utils.checkpoint" in str(error):
                raise UnsupportedModel(CHECKPOINTING_MESSAGE) from error
            raise
    cut = [layer for layer, gradient in zip(layers, gradients, strict=True) if gradient is None]
    if cut:
        where = "the images" if cut[0] is None else f"layer {cut[0]!r}"
        raise UnsupportedModel(
            f"The score has no gradient with respect to {where}: the score does not depend on it, or the model or the "
            "target cuts the graph (detach, no_grad, argmax, NumPy). Choose another layer or target, or a method "
            "without gradients."
        )
    return [gradient for gradient in gradients if gradient is not None]


def _reach_notes(name: str, gradient: Tensor) -> Iterable[str]:
    reach = nonzero_gradient_fraction(gradient)
    if reach < _LEAST_REACH:
        yield f"the score's gradient is exactly zero at {1 - reach:.0%} of the grid of layer {name!r}"
