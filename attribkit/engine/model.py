"""A model as a method sees it: scores, gradients and layers; nothing to set up and nothing to clean up."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import islice

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribkit.core.errors import UnsupportedModel, listed
from attribkit.core.layouts import Layout
from attribkit.core.progress import tracked
from attribkit.core.shapes import Images, LayerMaps, PerImage
from attribkit.engine.backward_rules import Rule
from attribkit.engine.batched_model import AskedModel, LayersDiffer
from attribkit.engine.chunks import Question
from attribkit.engine.forward import Answers, Reading, Reads, gradients_of
from attribkit.engine.interventions import Change, scores_with
from attribkit.engine.linear_head import class_weights
from attribkit.targets.logits import Predicted
from attribkit.targets.outputs import precise, to_result_dtype
from attribkit.targets.target import Target
from attribkit.tracing.attention import AttentionFollowed, AttentionLayers, joined_layers
from attribkit.tracing.attention_grid import Arrangement, Windows
from attribkit.tracing.attention_recorder import Weights
from attribkit.tracing.gates import Gate, gates_watched

_PACK = {"cpu": 16, "cuda": 64}  # images that share a forward, where there are several perturbed ones of each


class HookedModel(AskedModel):
    """The words of the model that a method is handed."""

    def knowing(self, targets: Sequence[Target], reads: Reads) -> "HookedModel":
        """The same, with the answers to what several methods will ask of the explained images, from one forward."""
        model = self.again()
        if self.depends_on_image(targets[0]):
            return model
        by_kind: dict[Hashable, list[Target]] = {}
        for target in targets:
            try:
                by_kind.setdefault(model._alike(target, reads), []).append(target)
            except LayersDiffer:
                continue  # each image is put to the model by itself
        for alike in by_kind.values():
            model._answers = model._answers + list(zip(alike, model._read(model._x, alike, reads), strict=True))
        return model

    def _alike(self, target: Target, reads: Reads) -> Hashable:
        """Equal for targets that one forward serves: they read the same part of the outputs, by the same layers."""
        default = None in reads.layers
        layers = [each.wanted for each in self.again()._asked_together(self._x, target, None)] if default else []
        return target.kind, *layers

    def read(self, x: Images, target: Target, reads: Reads) -> Answers:
        """Activations, and gradients of the target's score, of layers and images: by one forward.

        One backward serves all layers and the plain gradient; each rule takes one more over the same graph.
        """
        known = self._known(x, target, reads)
        answers = known.copied(reads) if known else self._read(x, [target], reads)[0]
        self._note_all(answers.notes(reads))
        self._extents.add(answers.extents, reads.layers)
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
        return self.read(x, target, Reads(layers=(layer,))).layer(layer)

    def activation(self, x: Images, layer: str | None = None, target: Target | None = None) -> LayerMaps:
        """A layer's activation alone, on its grid, channels first; no graph is recorded.

        layer: as for `activation_and_gradient`. target: only decides which layer None is.
        """
        reads = Reads(layers=(layer,))
        if target is not None and self._known(x, target, reads):
            return self.read(x, target, reads).layer(layer)[0]
        try:
            asked = self._asked(x, target or Predicted(), layer)
        except LayersDiffer:
            if not self._is_own(x):
                raise
            return _joined([one.activation(one.images, layer, own) for one, own in self.one_by_one(target)])

        def run(part: Tensor, _questions: list[Question]) -> list[Tensor]:
            with torch.no_grad():
                _, output, layout = self._run_to_map(self, part, asked)
            return [precise(layout.to_grid(output.detach()))]

        return self._in_chunks(run, x, [])[0]

    def output(self, x: Images, layer: str | None = None) -> tuple[str, Tensor, Layout]:
        """A layer's name, what it puts out, in the graph of x where x requires a gradient, and how to read that."""
        asked = self._asked(x.detach(), Predicted(), layer)
        _, output, layout = self._run_to_map(self, x, asked)
        return asked.name, output, layout

    def default_layer(self, x: Images) -> str:
        """The name of the layer that is read where none is named; a note tells why."""
        return self._asked(x[:1], Predicted(), None).name

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
        columns = []
        for images in tracked((slice(i, i + 1) for i in range(len(x))), "images", len(x)):
            own = target.part(images)
            one = self.part(images)
            columns.append(scores_with(one._forward(x[images], own), asked, x[images], own, changes, one._returned))
        return to_result_dtype(torch.stack(columns, 1), x)

    def class_weights(
        self, x: Images, target: Target, layer: str | None = None
    ) -> tuple[LayerMaps, Float[Tensor, "b d"]]:
        """The maps of a layer whose averages the score is a weighted sum of, and the weights.

        Raises UnsupportedModel where the way from the layer to the score is another.
        """
        asked, forward = self._asked(x, target, layer), self._forward(x, target)

        def run(part: Tensor, questions: list[Question]) -> list[Tensor]:
            returned, output, layout = self._run_to_map(forward, part, asked)
            return [precise(tensor) for tensor in class_weights(questions[0](returned), output, layout, asked.name)]

        maps, weights = self._in_chunks(run, x, [target])
        return maps, weights

    def response_and_gradient(self, x: Images, unit: Target) -> tuple[PerImage, Images]:
        """How strongly a unit responds to each image, and d response / d x; a target's response is its score."""
        forward = self._forward(x, unit)

        def run(part: Tensor, questions: list[Question]) -> list[Tensor]:
            leaf = part.detach().requires_grad_()
            response = questions[0](forward(leaf))
            return [precise(response.detach()), precise(*gradients_of(response, [leaf], [None], keep=False))]

        response, gradient = self._in_chunks(run, x, [unit])
        return response, gradient

    def attention(
        self, x: Images, target: Target | None = None, fuse: Callable[[Windows], Tensor] = torch.clone
    ) -> AttentionLayers:
        """The layers of attention in execution order, fused kernels too, and where on the image their tokens are.

        fuse: what is kept of each layer's weights (b, windows, heads, queries, keys), at once, so that only that takes
        memory. target: layers that its score does not depend on are left out, with a note; its predicted classes are
        remembered in passing.
        """
        parts: list[AttentionFollowed] = []
        forward = self._forward(x, target) if target else self

        def run(part: Tensor, questions: list[Question]) -> list[Tensor]:
            followed = AttentionFollowed(lambda weights, arranged: (weights, fuse(precise(arranged(weights)))))
            with torch.no_grad(), followed.following(self.module, part):
                returned = forward(part)
                scores = [question(returned) for question in questions]
            if scores:
                followed.read_by(scores)
            parts.append(followed)
            return followed.taken()

        windows = self._in_chunks(run, x, [target] if target else [])
        return joined_layers(parts, windows)

    def attention_and_gradient(
        self, x: Images, target: Target, fuse: Callable[[Windows, Windows], Tensor]
    ) -> AttentionLayers:
        """As `attention`, of each layer's weights and d score / d weights."""
        parts: list[AttentionFollowed] = []
        forward = self._forward(x, target)

        def run(part: Tensor, questions: list[Question]) -> list[Tensor]:
            followed = AttentionFollowed(_as_leaf)
            with followed.following(self.module, part):
                score = questions[0](forward(part))
            followed.read_by([score])
            weights, found = followed.taken(), followed.found
            gradients = gradients_of(score, weights, [each.name for each in found], keep=False) if found else []
            parts.append(followed)
            return [
                fuse(precise(each.arrangement(w.detach())), precise(each.arrangement(gradient)))
                for each, w, gradient in zip(found, weights, gradients, strict=True)
            ]

        windows = self._in_chunks(run, x, [target])
        return joined_layers(parts, windows)

    def readers(self, x: Images, target: Target) -> Bool[Tensor, "windows queries"]:
        """The queries whose last attention the score reads: the class token, say, or those that are averaged."""
        key = self._size_key(x), self._target_key(x, target)
        if key not in self._learnt.readers:
            # d score / d weights is exactly zero in the rows of tokens that the score does not depend on
            first = self.resolved(target).part(slice(0, 1))
            layers = self.part(slice(0, 1)).attention_and_gradient(x[:1], first, _matters)
            read = layers[-1].windows[0, :, 0, :, 0].ne(0)
            if not bool(read.any()):
                raise UnsupportedModel(
                    "The score's gradient is exactly zero at the last attention, so that no token is read: is the head "
                    "untrained, or the target saturated? Ask for a class's logit."
                )
            if key[1] is None or self.depends_on_image(target):
                return read
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

    def _read(self, x: Tensor, targets: Sequence[Target], reads: Reads) -> list[Answers]:
        """The answers about each target, by one forward."""
        models = {layer: self.again() for layer in reads.layers}  # each with the notes on one layer
        layers = [each for name, model in models.items() for each in model._asked_together(x, targets[0], name)]
        reading = Reading(self._forward(x, targets[0]), layers, reads)
        found, told = self._asked_in_chunks(reading, x, targets)
        answers = reading.answers(found, len(targets))
        for each, notes in zip(answers, told, strict=True):
            for name, model in models.items():
                each.layer_notes[name] = model.notes + each.layer_notes[name]
                each.extents.add(model._extents, [name])
            each.target_notes.extend(notes)
        return answers

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


def _joined(maps: Sequence[Tensor]) -> LayerMaps:
    """The maps of single images as a batch."""
    shapes = dict.fromkeys(tuple(each.shape[1:]) for each in maps)
    if len(shapes) > 1:
        raise UnsupportedModel(
            "The layer to read depends on the image, and here the layers have different shapes "
            f"({listed(map(str, shapes))}): name one by layer=..., or pass one image at a time."
        )
    return torch.cat(list(maps))


def _as_leaf(weights: Weights, _arrangement: Arrangement) -> tuple[Weights, Weights]:
    """Weights with a graph, which starts at the first of them."""
    leaf = weights if weights.requires_grad else weights.detach().requires_grad_()
    return leaf, leaf


def _matters(_weights: Windows, gradient: Windows) -> Float[Tensor, "b windows 1 queries 1"]:
    """For each query, whether the score depends on any of its weights."""
    return gradient.abs().amax((2, 4), keepdim=True)
