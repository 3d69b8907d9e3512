"""A model as a method sees it: scores, gradients and layers; nothing to set up and nothing to clean up."""

import copy
import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from attribkit.core.errors import InvalidInput, OutOfMemory, UnknownName, UnsupportedModel
from attribkit.core.hooks import captured
from attribkit.core.layers import Layer, find_layers
from attribkit.core.layouts import Layout
from attribkit.core.rules import Rule, apply
from attribkit.core.shapes import Images, LayerMaps, PerImage
from attribkit.core.spec import ModelSpec
from attribkit.core.targets import ClassLogit, Predicted, Scored, Target, check_count, class_scores
from attribkit.core.trace import gradient_reach
from attribkit.core.units import LayerUnit

_PACK = {"cpu": 16, "cuda": 64}  # images that share a forward, where there are several perturbed ones of each
_BLIND = 0.5  # a gradient that reaches a smaller share of the grid than this is worth a note


class HookedModel:
    """The model that a method is handed: frozen, and asked about one batch of images.

    A batch that does not fit into memory is cut into chunks that do, and the size that fits is remembered. Results have
    the model's precision, or float32 where the model computes in half of that.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec, *, batch_size: int | None = None) -> None:
        self.module = module
        self.spec = spec
        self.notes: list[str] = []  # what a careful reader of the result should know
        self._learnt = _Learnt(batch_size, any(isinstance(each, nn.Conv2d) for each in module.modules()))
        self._x: Tensor | None = None
        self._predicted: ClassLogit | None = None

    def explaining(self, x: Images) -> "HookedModel":
        """The same model, about to explain x, with notes and predicted classes of its own."""
        model = copy.copy(self)
        model.notes, model._x, model._predicted = [], x, None
        return model

    def __call__(self, x: Images) -> Any:
        """What the model returns; differentiable where x is."""
        channels_last = self._learnt.channels_last and x.ndim == 4 and x.device.type == "cpu"
        # A clone keeps the images of a user whose model works in place; this layout is the faster one for convolutions.
        images = x.clone(memory_format=torch.channels_last if channels_last else torch.preserve_format)
        try:
            return self.module(images)
        except Exception as error:
            error.add_note(f"(raised by the model's own forward, on images of shape {tuple(x.shape)})")
            raise

    def score(self, x: Images, target: Target) -> PerImage:
        """The target's score per image; not differentiable."""

        def run(part: Tensor, question: _Question) -> list[Tensor]:
            with torch.no_grad():
                return [precise(question(self(part)))]

        return self._in_chunks(run, x, target)[0]

    def gradient(self, x: Images, target: Target, rule: Rule | None = None) -> Images:
        """The derivative of each image's score by its own pixels; under a rule at the ReLUs, if one is given."""

        def run(part: Tensor, question: _Question) -> list[Tensor]:
            leaf = part.detach().requires_grad_()
            score = question(self(leaf))
            if rule is not None:
                for note in apply(rule, score.grad_fn):
                    self.note(note)
            return [precise(*_gradients(score, [leaf], [None]))]

        return self._in_chunks(run, x, target)[0]

    def scores(self, stream: Iterable[Images], target: Target) -> Float[Tensor, "k b"]:
        """The target's score of k perturbed versions of the images, which the stream yields one after the other.

        Several share a forward; memory does not grow with their number.
        """
        packs = self._packs(stream, target)
        return torch.cat([self.score(torch.cat(group), many).reshape(len(group), -1) for group, many in packs])

    def gradients(self, stream: Iterable[Images], target: Target) -> Iterator[Images]:
        """As `gradient`, for each perturbed version of the images that the stream yields; packed like `scores`."""
        for group, many in self._packs(stream, target):
            yield from self.gradient(torch.cat(group), many).chunk(len(group))

    def activation_and_gradient(
        self, x: Images, target: Target, layer: str | None = None
    ) -> tuple[LayerMaps, LayerMaps]:
        """A layer's activation and d score / d activation, channels first on the layer's grid, for token models too.

        layer: a dotted name; None is the layer that the model's spec or its first forward justifies.
        """
        return self.activations_and_gradients(x, target, [layer])[0]

    def activations_and_gradients(
        self, x: Images, target: Target, layers: Sequence[str | None]
    ) -> list[tuple[LayerMaps, LayerMaps]]:
        """As `activation_and_gradient` for each of several layers, by one forward and one backward."""
        wanted = [self._default_layer(x, target) if layer is None else (layer, None) for layer in layers]
        names = [name for name, _ in wanted]
        modules = [(self.layer(name), run) for name, run in wanted]

        def run(part: Tensor, question: _Question) -> list[Tensor]:
            with captured(modules) as kept:
                score = question(self(part))
                read = [self._read(name, outputs, part) for name, outputs in zip(names, kept, strict=True)]
                gradients = _gradients(score, [output for output, _ in read], names)
            pairs = zip(read, gradients, strict=True)
            return [precise(layout.to_grid(t)) for (output, layout), g in pairs for t in (output.detach(), g)]

        maps = self._in_chunks(run, x, target)
        for name, gradient in zip(names, maps[1::2], strict=True):
            self._note_reach(name, gradient)
        return list(zip(maps[::2], maps[1::2], strict=True))

    def layer(self, name: str) -> nn.Module:
        """A submodule by its dotted name."""
        if not isinstance(name, str):
            raise InvalidInput(
                f'A layer is told by its dotted name, got {type(name).__name__}; `attribute(x, "gradcam", layer=...)` '
                "takes a module of the model too."
            )
        try:
            return self.module.get_submodule(name)
        except AttributeError:
            known = [each for each, _ in self.module.named_modules() if each]
            raise UnknownName("layer", name, known, "Explainer.layers() tells which have a grid.") from None

    def layers(self, x: Images, target: Target | None = None) -> list[Layer]:
        """The layers that are maps of the image, in execution order; the first image of x is run once."""
        return find_layers(self.module, x[:1], self.spec, target.part(slice(0, 1)) if target else None)

    def note(self, text: str) -> None:
        """Leave a remark for the reader of the result; a repetition is dropped."""
        if text not in self.notes:
            self.notes.append(text)

    def resolved(self, target: Target) -> Target:
        """The target, with the predicted classes made explicit if that is what it means."""
        if isinstance(target, Predicted) and self._x is not None and self._predicted is None:
            self.score(self._x, target)
        return self._predicted or target if isinstance(target, Predicted) else target

    def _packs(self, stream: Iterable[Tensor], target: Target) -> Iterator[tuple[list[Tensor], Target]]:
        """Perturbed batches, as many together as a forward takes well, with the target repeated for each."""
        target = self.resolved(target)
        batches = iter(stream)
        for first in batches:
            room = self._learnt.batch_size or _PACK.get(first.device.type, _PACK["cuda"])
            more = room // len(first) - 1 if target.repeated(2) is not None else 0
            group = [first, *islice(batches, max(0, more))]
            yield group, target.repeated(len(group)) or target

    def _in_chunks(self, run: "_Run", x: Tensor, target: Target) -> list[Tensor]:
        """Put the question to as many images at a time as fit; join the answers."""
        target = target if x is self._x else self.resolved(target)
        check_count(target, len(x))
        parts: list[list[Tensor]] = []
        predicted: list[Tensor] = []
        start = 0
        while start < len(x):
            images = slice(start, start + (self._learnt.batch_size or len(x)))
            question = _Question(target.part(images), len(x[images]))
            part = self._attempt(run, x[images], question)
            if part is not None:
                parts.append(part)
                predicted.extend(question.predicted)
                start = images.stop
        if predicted and x is self._x:
            self._predicted = ClassLogit(tuple(torch.cat(predicted).tolist()))
        return parts[0] if len(parts) == 1 else [torch.cat(tensors) for tensors in zip(*parts, strict=True)]

    def _attempt(self, run: "_Run", x: Tensor, question: "_Question") -> list[Tensor] | None:
        """Run, or learn why it could not be run so and return None."""
        try:
            return run(x, question)
        except RuntimeError as error:
            if not self._learnt.from_error(error, x):
                raise
        question.predicted.clear()
        gc.collect()
        if x.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _default_layer(self, x: Tensor, target: Target) -> tuple[str, int | None]:
        """The layer that the spec names, or that a first forward at this image size justifies, and its run."""
        if self.spec.layer:
            name, run, reason = self.spec.layer, None, self.spec.reason
        else:
            chosen = next(layer for layer in self._known_layers(x, target) if layer.chosen)
            name, run, reason = chosen.name, chosen.run, chosen.reason
        self.note(f"layer={name!r}: {reason}")
        return name, run

    def _known_layers(self, x: Tensor, target: Target) -> list[Layer]:
        key = (tuple(x.shape[2:]), target.kind)
        if key not in self._learnt.layers:
            self._learnt.layers[key] = self.layers(x, target)
        return self._learnt.layers[key]

    def _read(self, name: str, outputs: list[Tensor], x: Tensor) -> tuple[Tensor, Layout]:
        """The last of a layer's outputs that is a map of the image, and how to read it."""
        if not outputs:
            raise UnsupportedModel(
                f"Layer {name!r} put out no tensor in the forward: it was not run, or not through its forward(). "
                "Explainer.layers() lists those that can be read."
            )
        layouts = [self.spec.layout(tuple(output.shape), tuple(x.shape)) for output in outputs]
        for output, layout in zip(reversed(outputs), reversed(layouts), strict=True):
            if layout is not None:
                if len(outputs) > 1:
                    self.note(f"layer {name!r} runs {len(outputs)} times in a forward; its last map was read")
                if layout.ambiguous:
                    self.note(f"layer {name!r} was read as channels first; its shape allows channels last as well")
                return output, layout
        raise InvalidInput(
            f"Layer {name!r} has no grid: its output of shape {tuple(outputs[-1].shape)} is no map of images of shape "
            f"{tuple(x.shape)}. Explainer.layers() lists the layers that have one."
        )

    def _note_reach(self, name: str, gradient: Tensor) -> None:
        reach = gradient_reach(gradient)
        if reach < _BLIND:
            self.note(f"the score's gradient is exactly zero at {1 - reach:.0%} of the grid of layer {name!r}")

    def response_and_gradient(self, x: Images, unit: Target | LayerUnit) -> tuple[PerImage, Images]:
        """How strongly a unit responds to each image, and d response / d x; a target's response is its score."""

        def run(part: Tensor, question: _Question) -> list[Tensor]:
            leaf = part.detach().requires_grad_()
            response = question(self(leaf) if isinstance(unit, Target) else self._channels(leaf, unit.layer))
            return [precise(response.detach()), precise(*_gradients(response, [leaf], [None]))]

        response, gradient = self._in_chunks(run, x, unit if isinstance(unit, Target) else Scored(unit.response))
        return response, gradient

    def _channels(self, x: Tensor, name: str) -> LayerMaps:
        """A layer's output as channels on its grid, or as (b, d) where it has no space left; differentiable."""
        with captured([(self.layer(name), None)]) as [outputs]:
            self(x)
        if outputs and len(outputs[-1]) == len(x) and outputs[-1].shape[:2].numel() == outputs[-1].numel():
            return outputs[-1].flatten(1)
        output, layout = self._read(name, outputs, x)
        return layout.to_grid(output)


_Run = Callable[[Tensor, "_Question"], list[Tensor]]


class _Question:
    """A target put to one chunk of images; keeps the classes that it turned out to mean."""

    def __init__(self, target: Target, images: int) -> None:
        self.target = target
        self.images = images
        self.predicted: list[Tensor] = []

    def __call__(self, outputs: Any) -> Tensor:
        if isinstance(self.target, Predicted):
            self.predicted.append(class_scores(outputs).max(1).indices)
        scores = self.target(outputs)
        if scores.shape != (self.images,):
            raise InvalidInput(
                f"The target {self.target!r} gave scores of shape {tuple(scores.shape)} for {self.images} images: give "
                "one score per image, of those that it is shown (large batches are asked about in parts)."
            )
        return scores


@dataclass
class _Learnt:
    """What earlier calls taught about a model."""

    batch_size: int | None  # images at a time; None is all of them
    channels_last: bool  # whether convolutions get their images in the faster memory layout
    layers: dict[tuple[Any, ...], list[Layer]] = field(default_factory=dict)  # by image size and kind of target

    def from_error(self, error: RuntimeError, x: Tensor) -> bool:
        """Whether the error says how to ask again."""
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            if len(x) == 1:
                raise OutOfMemory(
                    f"One image of shape {tuple(x.shape[1:])} alone does not fit into the memory of {x.device}: "
                    "use a smaller image, a model of lower precision or another device."
                ) from error
            self.batch_size = len(x) // 2
            return True
        if self.channels_last and "view size is not compatible" in str(error):
            self.channels_last = False
            return True
        return False


def _gradients(score: Tensor, tensors: Sequence[Tensor], layers: Sequence[str | None]) -> list[Tensor]:
    """The derivative of the score by each tensor, of a layer or (None) of the images; a missing path is an error."""
    gradients: Sequence[Tensor | None] = [None] * len(tensors)
    if score.requires_grad:
        try:
            gradients = torch.autograd.grad(score.sum(), tensors, allow_unused=True)
        except CheckpointError as error:
            raise UnsupportedModel(
                "The model recomputes its activations (gradient checkpointing), which hooks cannot follow: turn it "
                "off, in timm by model.set_grad_checkpointing(False)."
            ) from error
    cut = [layer for layer, gradient in zip(layers, gradients, strict=True) if gradient is None]
    if cut:
        where = "the images" if cut[0] is None else f"layer {cut[0]!r}"
        raise UnsupportedModel(
            f"No gradient leads from the score to {where}: the score does not depend on it, or the model or the target "
            "cuts the graph (detach, no_grad, argmax, NumPy). Choose a layer, a target or a method without gradients."
        )
    return [gradient for gradient in gradients if gradient is not None]


def precise(tensor: Tensor) -> Tensor:
    """In float32 what was computed in half of it."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
