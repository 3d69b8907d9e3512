"""A model as a method sees it: scores, gradients and layers; nothing to set up and nothing to clean up."""

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attribkit.core.arrangement import Arrangement, Windows
from attribkit.core.attention import Weights
from attribkit.core.attention_layers import AttentionFollowed, AttentionLayers
from attribkit.core.chunks import Learnt, Question, Run, in_chunks
from attribkit.core.errors import InvalidInput, UnknownName, UnsupportedModel
from attribkit.core.gates import Gate, gates_watched
from attribkit.core.hooks import captured
from attribkit.core.interventions import Change, scores_with
from attribkit.core.layers import FoundLayers, Layer, find_layers
from attribkit.core.layouts import Layout
from attribkit.core.linear_head import class_weights
from attribkit.core.progress import tracked
from attribkit.core.reading import Answers, Reading, ReadLayer, Reads, gradients_of, map_of, precise, ways_of_reading
from attribkit.core.rules import Rule
from attribkit.core.shapes import Images, LayerMaps, PerImage
from attribkit.core.signs import Signs
from attribkit.core.spec import ModelSpec
from attribkit.core.targets import ClassLogit, Predicted, Scored, Target
from attribkit.core.units import LayerUnit

_PACK = {"cpu": 16, "cuda": 64}  # images that share a forward, where there are several perturbed ones of each
_MANY = 4  # images from which on the memory layout that convolutions like pays, on a CPU


class HookedModel:
    """The model that a method is handed: frozen, and asked about one batch of images.

    A batch that does not fit into memory is cut into chunks that do, and the size that fits is remembered. Results have
    the model's precision, or float32 where the model computes in half of that.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec, *, batch_size: int | None = None) -> None:
        self.module = module
        self.spec = spec
        self.notes: list[str] = []  # what a careful reader of the result should know
        self.signs = Signs()  # what its forwards let see in passing
        self._learnt = Learnt(batch_size, any(isinstance(each, nn.Conv2d) for each in module.modules()))
        self._x: Tensor = torch.empty(0)  # the images that are being explained
        self._predicted: ClassLogit | None = None
        self._answers: list[tuple[Target, Answers]] = []  # what is known of x beforehand

    def explaining(self, x: Images) -> "HookedModel":
        """The same model, about to explain x, with notes and predicted classes of its own."""
        model = self.again()
        model._x, model._predicted, model._answers = x, None, []
        model.signs = Signs()
        return model

    def knowing(self, targets: Sequence[Target], reads: Reads) -> "HookedModel":
        """The same, with the answers to what several methods will ask of the explained images, from one forward."""
        model = self.again()
        by_kind: dict[Any, list[Target]] = {}
        for target in targets:
            by_kind.setdefault(target.kind, []).append(target)
        for alike in by_kind.values():
            model._answers = model._answers + list(zip(alike, model._read(model._x, alike, reads), strict=True))
        return model

    def again(self) -> "HookedModel":
        """The same, for another method: knowing what this one knows, with notes of its own."""
        model = copy.copy(self)
        model.notes = []
        return model

    def __call__(self, x: Images) -> Any:
        """What the model returns; differentiable where x is."""
        channels_last = self._learnt.channels_last and x.ndim == 4 and len(x) >= _MANY and x.device.type == "cpu"
        # A clone keeps the images of a user whose model works in place; this layout is the faster one for convolutions.
        images = x.clone(memory_format=torch.channels_last if channels_last else torch.preserve_format)
        try:
            with self.signs.of_forward(x.device):
                return self.module(images)
        except Exception as error:
            error.add_note(f"(raised by the model's own forward, on images of shape {tuple(x.shape)})")
            raise

    def score(self, x: Images, target: Target) -> PerImage:
        """The target's score per image; not differentiable."""
        known = self._known(x, target, Reads())

        def run(part: Tensor, questions: list[Question]) -> list[Tensor]:
            with torch.no_grad():
                return [precise(questions[0](self(part)))]

        return known.score if known else self._in_chunks(run, x, [target])[0]

    def read(self, x: Images, target: Target, reads: Reads) -> Answers:
        """Activations, and gradients of the target's score, of layers and images: by one forward.

        One backward serves all layers and the plain gradient; each rule takes one more over the same graph.
        """
        answers = self._known(x, target, reads) or self._read(x, [target], reads)[0]
        for note in answers.notes(reads):
            self.note(note)
        return answers

    def gradient(self, x: Images, target: Target, rule: Rule | None = None) -> Images:
        """The derivative of each image's score by its own pixels; under a rule at the ReLUs, if one is given."""
        return self.read(x, target, Reads(gradients=(rule,))).gradients[rule]

    def activation_and_gradient(
        self, x: Images, target: Target, layer: str | None = None
    ) -> tuple[LayerMaps, LayerMaps]:
        """A layer's activation and d score / d activation, channels first on the layer's grid, for token models too.

        layer: a dotted name; None is the layer that the model's spec or its first forward justifies.
        """
        return self.read(x, target, Reads(layers=(layer,))).layers[layer]

    def activation(self, x: Images, layer: str | None = None, target: Target | None = None) -> LayerMaps:
        """A layer's activation alone, on its grid, channels first; no graph is recorded.

        layer: as for `activation_and_gradient`. target: only decides which layer None is.
        """
        reads = Reads(layers=(layer,))
        if target is not None and self._known(x, target, reads):
            return self.read(x, target, reads).layers[layer][0]
        asked = self._asked(x, target or Predicted(), layer)

        def run(part: Tensor, _questions: list[Question]) -> list[Tensor]:
            with torch.no_grad():
                _, output, layout = self._run_to_map(part, asked)
            return [precise(layout.to_grid(output.detach()))]

        return self._in_chunks(run, x, [])[0]

    def output(self, x: Images, layer: str | None = None) -> tuple[str, Tensor, Layout]:
        """A layer's name, what it puts out, in the graph of x where x requires a gradient, and how to read that."""
        asked = self._asked(x.detach(), Predicted(), layer)
        _, output, layout = self._run_to_map(x, asked)
        return asked.name, output, layout

    def default_layer(self, x: Images) -> str:
        """The dotted name of the layer that is read where none is named; a note tells why."""
        return self._asked(x, Predicted(), None).name

    def attention_gates(self, x: Images) -> list[Gate]:
        """What the model's maps are multiplied by, as attention modules do; in the order of the forward."""
        found: list[Gate] = []

        def run(part: Tensor, _questions: list[Question]) -> list[Tensor]:
            with torch.no_grad(), gates_watched(self.module, tuple(part.shape), self.spec) as gates:
                self(part)
            found[:] = gates
            return [precise(gate.values) for gate in gates]

        values = self._in_chunks(run, x, [])
        return [Gate(gate.name, gate.kind, each) for gate, each in zip(found, values, strict=True)]

    def scores_with(
        self, x: Images, target: Target, layer: str | None, changes: Sequence[Change]
    ) -> Float[Tensor, "k b"]:
        """The target's score under each of k changes of a layer's output.

        changes: functions of the output, channels on the second axis and prefix tokens included. What comes before the
        layer is computed once for many of them.
        """
        target = self.resolved(target)
        asked = self._asked(x, target, layer)
        each = ((x[i : i + 1], target.part(slice(i, i + 1))) for i in range(len(x)))
        columns = [scores_with(self, asked, image, own, changes) for image, own in tracked(each, "images", len(x))]
        return precise(torch.stack(columns, 1))

    def class_weights(
        self, x: Images, target: Target, layer: str | None = None
    ) -> tuple[LayerMaps, Float[Tensor, "b d"]]:
        """The maps of a layer whose averages the score is a weighted sum of, and the weights.

        Raises UnsupportedModel where the way from the layer to the score is another.
        """
        asked = self._asked(x, target, layer)

        def run(part: Tensor, questions: list[Question]) -> list[Tensor]:
            returned, output, layout = self._run_to_map(part, asked)
            return [precise(tensor) for tensor in class_weights(questions[0](returned), output, layout)]

        maps, weights = self._in_chunks(run, x, [target])
        return maps, weights

    def response_and_gradient(self, x: Images, unit: Target | LayerUnit) -> tuple[PerImage, Images]:
        """How strongly a unit responds to each image, and d response / d x; a target's response is its score."""

        def run(part: Tensor, questions: list[Question]) -> list[Tensor]:
            leaf = part.detach().requires_grad_()
            response = questions[0](self(leaf) if isinstance(unit, Target) else self._channels(leaf, unit.layer))
            return [precise(response.detach()), precise(*gradients_of(response, [leaf], [None], keep=False))]

        target = unit if isinstance(unit, Target) else Scored(unit.response)
        response, gradient = self._in_chunks(run, x, [target])
        return response, gradient

    def attention(
        self, x: Images, target: Target | None = None, fuse: Callable[[Windows], Tensor] = torch.clone
    ) -> AttentionLayers:
        """The layers of attention in execution order, fused kernels too, and where on the image their tokens are.

        fuse: what is kept of each layer's weights (b, windows, heads, queries, keys), at once, so that only that takes
        memory. The weights do not depend on the target, whose predicted classes are remembered in passing.
        """
        followed: list[AttentionFollowed] = []

        def run(part: Tensor, questions: list[Question]) -> list[Tensor]:
            followed[:] = [AttentionFollowed(lambda weights, arranged: (weights, fuse(precise(arranged(weights)))))]
            with torch.no_grad(), followed[0].following(self.module, part):
                returned = self(part)
            for question in questions:
                question(returned)  # so that the predicted classes are known
            return [each.kept for each in followed[0].found]

        windows = self._in_chunks(run, x, [target] if target else [])
        return followed[0].layers(windows)

    def attention_and_gradient(
        self, x: Images, target: Target, fuse: Callable[[Windows, Windows], Tensor]
    ) -> AttentionLayers:
        """As `attention`, of each layer's weights and d score / d weights."""
        followed: list[AttentionFollowed] = []

        def run(part: Tensor, questions: list[Question]) -> list[Tensor]:
            followed[:] = [AttentionFollowed(_as_leaf)]
            with followed[0].following(self.module, part):
                returned = self(part)
            found = followed[0].found
            if not found:
                return []
            weights = [each.kept for each in found]
            gradients = gradients_of(questions[0](returned), weights, [each.name for each in found], keep=False)
            return [
                fuse(precise(each.arrangement(each.kept.detach())), precise(each.arrangement(gradient)))
                for each, gradient in zip(found, gradients, strict=True)
            ]

        windows = self._in_chunks(run, x, [target])
        return followed[0].layers(windows)

    def readers(self, x: Images, target: Target) -> Bool[Tensor, "windows queries"]:
        """The queries whose last attention the score reads: the class token, say, or those that are averaged."""
        key = (tuple(x.shape[2:]), target.kind)
        if key not in self._learnt.readers:
            # d score / d weights is exactly zero in the rows of tokens that the score does not depend on
            first = self.resolved(target).part(slice(0, 1))
            layers = self.attention_and_gradient(x[:1], first, _matters)
            read = layers[-1].windows[0, :, 0, :, 0].ne(0)
            if not bool(read.any()):
                raise UnsupportedModel(
                    "The score's gradient is exactly zero at the last attention, so that no token is read: is the head "
                    "untrained, or the target saturated? Ask for a class's logit."
                )
            self._learnt.readers[key] = read
        return self._learnt.readers[key]

    def scores(self, stream: Iterable[Images], target: Target, total: int | None = None) -> Float[Tensor, "k b"]:
        """The target's score of k perturbed versions of the images, which the stream yields one after the other.

        Several share a forward; memory does not grow with their number. total: k, for the progress bar.
        """
        packs = self._packs(stream, target, total)
        return torch.cat([self.score(torch.cat(group), many).reshape(len(group), -1) for group, many in packs])

    def gradients(self, stream: Iterable[Images], target: Target, total: int | None = None) -> Iterator[Images]:
        """As `gradient`, for each perturbed version of the images that the stream yields; packed like `scores`."""
        for group, many in self._packs(stream, target, total):
            yield from self.gradient(torch.cat(group), many).chunk(len(group))

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
        found = find_layers(self.module, x[:1], self.spec, (target or Predicted()).part(slice(0, 1)))
        if found.refusal:
            raise found.refusal
        return found.layers

    def note(self, text: str) -> None:
        """Leave a remark for the reader of the result; a repetition is dropped."""
        if text not in self.notes:
            self.notes.append(text)

    def resolved(self, target: Target) -> Target:
        """The target, with the predicted classes made explicit if that is what it means."""
        if isinstance(target, Predicted) and len(self._x) and self._predicted is None:
            self.score(self._x, target)
        return self._predicted or target if isinstance(target, Predicted) else target

    def _known(self, x: Tensor, target: Target, reads: Reads) -> Answers | None:
        """What is known beforehand, if it answers this."""
        if x is not self._x:
            return None
        same = (a for t, a in self._answers if t is target or (target is self._predicted and isinstance(t, Predicted)))
        return next((answers for answers in same if reads <= answers.reads), None)

    def _read(self, x: Tensor, targets: Sequence[Target], reads: Reads) -> list[Answers]:
        """The answers about each target, by one forward."""
        model = self.again()
        layers = [model._asked(x, targets[0], layer) for layer in reads.layers]
        reading = Reading(self, layers, reads)
        answers = reading.answers(self._in_chunks(reading, x, targets), len(targets))
        for each in answers:
            each.layer_notes[None] = model.notes + each.layer_notes.get(None, [])
        return answers

    def _run_to_map(self, x: Tensor, asked: ReadLayer) -> tuple[Any, Tensor, Layout]:
        """What the model returns, what the layer put out, at which a graph may start, and how to read it."""
        with captured([(asked.module, asked.run)]) as (outputs,):
            returned = self(x)
        output, layout = map_of(asked, outputs, x)
        for note in ways_of_reading(asked, len(outputs), layout):
            self.note(note)
        return returned, output, layout

    def _channels(self, x: Tensor, name: str) -> LayerMaps:
        """A layer's output as channels on its grid, or as (b, d) where it has no space left; differentiable."""
        asked = self._named(name, name, None)
        with captured([(asked.module, None)]) as (outputs,):
            self(x)
        if outputs and len(outputs[-1]) == len(x) and outputs[-1].shape[:2].numel() == outputs[-1].numel():
            return outputs[-1].flatten(1)
        output, layout = map_of(asked, outputs, x)
        return layout.to_grid(output)

    def _packs(
        self, stream: Iterable[Tensor], target: Target, total: int | None
    ) -> Iterator[tuple[list[Tensor], Target]]:
        """Perturbed batches, as many together as a forward takes well, with the target repeated for each."""
        target = self.resolved(target)
        batches = tracked(stream, "perturbed images", total)
        for first in batches:
            room = self._learnt.batch_size or _PACK.get(first.device.type, _PACK["cuda"])
            more = room // len(first) - 1 if target.repeated(2) is not None else 0
            group = [first, *islice(batches, max(0, more))]
            yield group, target.repeated(len(group)) or target

    def _in_chunks(self, run: Run, x: Tensor, targets: Sequence[Target]) -> list[Tensor]:
        """Put the questions to as many images at a time as fit; remember the classes that the model predicts for x."""
        asked = targets if x is self._x else [self.resolved(target) for target in targets]
        answers, predicted = in_chunks(self._watched(run), x, asked, self._learnt)
        if predicted and x is self._x:
            self._predicted = predicted
        return answers

    def _watched(self, run: Run) -> Run:
        """The same, with an eye on the scores."""

        def watched(part: Tensor, questions: list[Question]) -> list[Tensor]:
            found = run(part, questions)
            for finite in (question.finite for question in questions if question.finite is not None):
                self.signs.of_scores(finite)
            return found

        return watched

    def _asked(self, x: Tensor, target: Target, layer: str | None) -> ReadLayer:
        """A layer by its name; None is the one that the spec names, or that a first forward at this size justifies."""
        if layer is not None:
            return self._named(layer, layer, None)
        name, run, reason = self.spec.layer, None, self.spec.reason
        if not name:
            chosen = self._found(x, target).chosen
            name, run, reason = chosen.name, chosen.run, chosen.reason
        self.note(f"layer={name!r}: {reason}")
        return self._named(None, name, run)

    def _named(self, asked: str | None, name: str, run: int | None) -> ReadLayer:
        return ReadLayer(asked, name, self.layer(name), run, functools.partial(self._layout, name))

    def _layout(self, name: str, run: int, shape: tuple[int, ...], x: Tensor) -> Layout | None:
        """How a layer's output is a map: by its shape where that says all, else by where its elements come from."""
        by_shape = self.spec.layout(shape, tuple(x.shape))
        if by_shape and by_shape.kind != "tokens" and not by_shape.ambiguous:
            return by_shape
        key = next((key for key in self._learnt.layers if key[0] == tuple(x.shape[2:])), None)
        seen = self._learnt.layers[key] if key else self._found(x.detach(), Predicted())
        known = [each.layout for each in seen.layers if (each.name, each.run, each.shape) == (name, run, shape[1:])]
        return known[0] if known and len(x) == shape[0] else None

    def _found(self, x: Tensor, target: Target) -> FoundLayers:
        key = (tuple(x.shape[2:]), target.kind)
        if key not in self._learnt.layers:
            self._learnt.layers[key] = find_layers(self.module, x[:1], self.spec, target.part(slice(0, 1)))
        return self._learnt.layers[key]


def _as_leaf(weights: Weights, _arrangement: Arrangement) -> tuple[Weights, Weights]:
    """Weights with a graph, which starts at the first of them."""
    leaf = weights if weights.requires_grad else weights.detach().requires_grad_()
    return leaf, leaf


def _matters(_weights: Windows, gradient: Windows) -> Float[Tensor, "b windows 1 queries 1"]:
    """For each query, whether the score depends on any of its weights."""
    return gradient.abs().amax((2, 4), keepdim=True)
