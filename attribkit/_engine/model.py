"""The interface of the model that methods and metrics receive: scores, gradients, layers, attention."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import islice

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribkit._core.errors import UnsupportedModel, join_names
from attribkit._core.layouts import Extents, Layout
from attribkit._core.shapes import Images, LayerMaps, PerImage
from attribkit._display.progress import Progress, track
from attribkit._engine.backward_rules import BackwardRule
from attribkit._engine.batched_model import BatchedModel, LayersDiffer
from attribkit._engine.evaluation import ScoringModule, TargetEvaluation, without_inplace
from attribkit._engine.forward import ForwardPass, ForwardResults, Requirements, gradients_of
from attribkit._engine.interventions import Change, scores_with
from attribkit._engine.linear_head import class_weights
from attribkit._targets.logits import Predicted
from attribkit._targets.outputs import to_full_precision, to_result_dtype
from attribkit._targets.target import Target
from attribkit._tracing.attention import AttentionLayers, AttentionTracker, join_attention_layers
from attribkit._tracing.attention_grid import Arrangement, Windows
from attribkit._tracing.attention_recorder import AttentionWeights
from attribkit._tracing.gates import Gate, record_gates

_PACK = {"cpu": 16, "cuda": 64}  # images per forward, if there are several perturbed versions of each


class HookedModel(BatchedModel):
    """A model bound to images, as methods and metrics receive it.

    Nothing has to be set up or cleaned up: the model is in evaluation mode, its parameters do not require gradients,
    and hooks are removed after each call. Costs below are in forward passes (F) and backward passes (B) per image.
    """

    def with_cache(self, targets: Sequence[Target], requires: Requirements) -> "HookedModel":
        """Return a fork that holds the results of several methods for the bound images.

        Costs one F for all targets that read the same outputs and layers, and one B for each target and rule.

        Args:
            targets: Targets of the bound images.
            requires: Requirements of all methods together.
        """
        model = self.fork()
        if self.depends_on_image(targets[0]):
            return model
        by_kind: dict[Hashable, list[Target]] = {}
        for target in targets:
            try:
                by_kind.setdefault(model._forward_key(target, requires), []).append(target)
            except LayersDiffer:
                continue  # the images are then run one by one
        for alike in by_kind.values():
            forward_pass = model._forward_pass(model._x, alike[0], requires)
            results = forward_pass.results(*model._run_in_chunks(forward_pass, model._x, alike))
            model._results = model._results + list(zip(alike, results, strict=True))
        return model

    def _forward_key(self, target: Target, requires: Requirements) -> Hashable:
        """Return a key that is equal for targets that can share a forward: same outputs, same layers."""
        default = None in requires.layers
        layers = [each.request for each in self.fork()._requests(self._x, target, None)] if default else []
        return target.kind, *layers

    def _forward_pass(self, x: Tensor, target: Target, requires: Requirements) -> ForwardPass:
        forks = {layer: self.fork() for layer in requires.layers}  # each fork collects the notes on one layer
        layers = [each for name, fork in forks.items() for each in fork._requests(x, target, name)]
        extents = Extents()
        for name, fork in forks.items():
            extents.add(fork._extents, [name])
        notes = {name: fork.notes for name, fork in forks.items()}
        return ForwardPass(self._forward(x, target), layers, requires, notes, extents)

    def read(self, x: Images, target: Target, requires: Requirements) -> ForwardResults:
        """Return activations and gradients of layers, and gradients for the images, from one forward pass.

        Costs 1 F, 1 B for all layers and the plain gradient, and 1 B for each rule.

        Args:
            x: The bound images, or versions of them, (b, c, *space).
            target: The target to score.
            requires: The layers and gradients to return.
        """
        results = self._cached_results(x, target, requires)
        if results:
            results = results.copied(requires)
        else:
            forward_pass = self._forward_pass(x, target, requires)
            (results,) = forward_pass.results(*self._run_in_chunks(forward_pass, x, [target]))
        self._add_notes(results.notes(requires))
        self._extents.add(results.extents, requires.layers)
        return results

    def gradient(self, x: Images, target: Target, rule: BackwardRule | None = None) -> Images:
        """Return d score / d x, (b, c, *space), under a backward rule if one is given; 1 F, 1 B."""
        return self.read(x, target, Requirements(gradients=(rule,))).gradients[rule]

    def differentiate(
        self, x: Images, target: Target, derive: Callable[[Callable[[Images], PerImage], Images], Tensor]
    ) -> Tensor:
        """Return what a function of the method derives from the score as a differentiable function of the images.

        For methods with a backward pass of their own. Costs 1 F for each call of the score, and what `derive` costs.

        Args:
            x: Images, (b, c, *space).
            target: The target to score.
            derive: Called for each chunk of images that fits into memory, with the score, a function that maps images
                to (b,) in their graph, and the chunk, (b, c, *space), without a graph. Returns a tensor with a row for
                each image of the chunk.
        """
        forward = self._forward(x, target)

        def run(chunk: Tensor, evaluations: list[TargetEvaluation]) -> list[Tensor]:
            return [to_full_precision(derive(lambda images: evaluations[0](forward(images)), chunk.detach()))]

        return self._run(run, x, [target])[0]

    def activation_and_gradient(
        self, x: Images, target: Target, layer: str | None = None
    ) -> tuple[LayerMaps, LayerMaps]:
        """Return a layer's activation and d score / d activation, (b, d, *grid); 1 F, 1 B.

        Args:
            x: Images, (b, c, *space).
            target: The target to score.
            layer: Dotted name; None means the layer of the model's spec, or the default layer of the target.
        """
        return self.read(x, target, Requirements(layers=(layer,))).layer(layer)

    def activation(self, x: Images, layer: str | None = None, target: Target | None = None) -> LayerMaps:
        """Return a layer's activation, (b, d, *grid), without a graph; 1 F.

        Args:
            x: Images, (b, c, *space).
            layer: As for `activation_and_gradient`.
            target: Determines the default layer if `layer` is None.
        """
        requires = Requirements(layers=(layer,))
        if target is not None and self._cached_results(x, target, requires):
            return self.read(x, target, requires).layer(layer)[0]
        try:
            request = self._request(x, target or Predicted(), layer)
        except LayersDiffer:
            if not self._is_bound(x):
                raise
            return _stack_maps([one.activation(one.images, layer, own) for one, own in self.one_by_one(target)])

        def run(chunk: Tensor, _evaluations: list[TargetEvaluation]) -> list[Tensor]:
            with torch.no_grad():
                _, output, layout = self._run_to_map(self, chunk, request)
            return [to_full_precision(layout.to_grid(output.detach()))]

        return self._run(run, x, [])[0]

    def output(self, x: Images, layer: str | None = None) -> tuple[str, Tensor, Layout]:
        """Return a layer's name, its output, in the graph of x if x requires a gradient, and its layout; 1 F."""
        request = self._request(x.detach(), Predicted(), layer)
        _, output, layout = self._run_to_map(self, x, request)
        return request.name, output, layout

    def default_layer(self, x: Images) -> str:
        """Return the name of the default layer; a note gives the reason."""
        return self._request(x[:1], Predicted(), None).name

    def attention_gates(self, x: Images) -> list[Gate]:
        """Return the gates that maps are multiplied by in attention modules, in the order of the forward; 1 F."""
        found: list[Gate] = []

        def run(chunk: Tensor, _evaluations: list[TargetEvaluation]) -> list[Tensor]:
            with torch.no_grad(), record_gates(self.module, tuple(chunk.shape), self.spec) as gates:
                self(chunk)
            found[:] = gates
            return [to_full_precision(gate.values) for gate in gates]

        values = self._run(run, x, [])
        return [Gate(gate.name, gate.kind, each) for gate, each in zip(found, values, strict=True)]

    def scores_with(
        self, x: Images, target: Target, layer: str | None, changes: Sequence[Change]
    ) -> Float[Tensor, "k b"]:
        """Return the score under each of k changes of a layer's output, (k, b).

        The part of the model before the layer runs once for each image.

        Args:
            x: The bound images.
            target: The target to score.
            layer: As for `activation_and_gradient`.
            changes: Functions of the layer's output, with channels on the second axis and prefix tokens included.
        """
        target = self.resolve(target)
        request = self._request(x, target, layer)
        columns = []
        for images in track((slice(i, i + 1) for i in range(len(x))), "images", len(x)):
            own = target.subset(images)
            one = self.subset(images)
            columns.append(
                scores_with(one._forward(x[images], own), request, x[images], own, changes, one._wrap_outputs)
            )
        return to_result_dtype(torch.stack(columns, 1), x)

    def class_weights(
        self, x: Images, target: Target, layer: str | None = None
    ) -> tuple[LayerMaps, Float[Tensor, "b d"]]:
        """Return the maps of a layer, (b, d, *grid), and the weights, (b, d), of which the score is a weighted sum.

        Raises:
            UnsupportedModel: The score is not a weighted sum of spatial averages of the layer.
        """
        request, forward = self._request(x, target, layer), self._forward(x, target)

        def run(chunk: Tensor, evaluations: list[TargetEvaluation]) -> list[Tensor]:
            returned, output, layout = self._run_to_map(forward, chunk, request)
            return [
                to_full_precision(tensor)
                for tensor in class_weights(evaluations[0](returned), output, layout, request.name)
            ]

        maps, weights = self._run(run, x, [target])
        return maps, weights

    def score_and_gradient(self, x: Images, unit: Target) -> tuple[PerImage, Images]:
        """Return the response of a unit, or score of a target, to each image, and d response / d x; 1 F, 1 B."""
        forward = self._forward(x, unit)

        def run(chunk: Tensor, evaluations: list[TargetEvaluation]) -> list[Tensor]:
            leaf = chunk.detach().requires_grad_()
            response = evaluations[0](forward(leaf))
            return [
                to_full_precision(response.detach()),
                to_full_precision(*gradients_of(response, [leaf], [None], keep=False)),
            ]

        response, gradient = self._run(run, x, [unit])
        return response, gradient

    def scoring_module(self, target: Target) -> ScoringModule:
        """Return the bound model as a module that maps images to the target's score of each, (n,); 1 F for each call.

        The scores keep their graph. The module accepts the bound images, repeated as a whole any number of times, in
        changed versions: other inputs and targets of each image are repeated in the same way.

        Args:
            target: The target of the bound images.

        Returns:
            The module, which contains the model as `module`.

        Example:
            >>> shap = captum.attr.GradientShap(model.scoring_module(target))
        """
        target = self.resolve(target)
        model = self.fork()
        model._keeps_memory_format = True  # a forward that fails in channels last cannot be repeated: it may have hooks

        def score(images: Images) -> PerImage:
            own = target.tile(len(images) // max(1, len(model._x))) or target
            evaluation = TargetEvaluation(own, slice(0, len(images)), model._wrap_outputs)
            return evaluation(model._forward(images, own)(images))

        return ScoringModule(self.module, score)

    def copy_without_inplace(self) -> "HookedModel":
        """Return the same bound model with a deep copy of its modules, none of which works in place; made once."""
        return self.cached("copy without in-place modules", lambda: self.with_module(without_inplace(self.module)))

    def attention(
        self, x: Images, target: Target | None = None, fuse: Callable[[Windows], Tensor] = torch.clone
    ) -> AttentionLayers:
        """Return the attention layers in execution order, with the positions of their tokens on the image; 1 F.

        Weights of fused kernels are computed too.

        Args:
            x: Images, (b, c, *space).
            target: Layers that its score does not depend on are left out, with a note.
            fuse: Reduces each layer's weights (b, windows, heads, queries, keys). It is applied immediately, so only
                its result is kept in memory.
        """
        parts: list[AttentionTracker] = []
        forward = self._forward(x, target) if target else self

        def run(chunk: Tensor, evaluations: list[TargetEvaluation]) -> list[Tensor]:
            tracker = AttentionTracker(lambda weights, arranged: (weights, fuse(to_full_precision(arranged(weights)))))
            with torch.no_grad(), tracker.track(self.module, chunk):
                returned = forward(chunk)
                scores = [evaluation(returned) for evaluation in evaluations]
            if scores:
                tracker.keep_used_by(scores)
            parts.append(tracker)
            return tracker.take_kept()

        windows = self._run(run, x, [target] if target else [])
        return join_attention_layers(parts, windows)

    def attention_and_gradient(
        self, x: Images, target: Target, fuse: Callable[[Windows, Windows], Tensor]
    ) -> AttentionLayers:
        """Return the same as `attention`, computed from each layer's weights and d score / d weights; 1 F, 1 B."""
        parts: list[AttentionTracker] = []
        forward = self._forward(x, target)

        def run(chunk: Tensor, evaluations: list[TargetEvaluation]) -> list[Tensor]:
            tracker = AttentionTracker(_as_leaf)
            with tracker.track(self.module, chunk):
                score = evaluations[0](forward(chunk))
            tracker.keep_used_by([score])
            weights, layers = tracker.take_kept(), tracker.found
            gradients = gradients_of(score, weights, [each.name for each in layers], keep=False) if layers else []
            parts.append(tracker)
            return [
                fuse(to_full_precision(each.arrangement(w.detach())), to_full_precision(each.arrangement(gradient)))
                for each, w, gradient in zip(layers, weights, gradients, strict=True)
            ]

        windows = self._run(run, x, [target])
        return join_attention_layers(parts, windows)

    def query_tokens(self, x: Images, target: Target) -> Bool[Tensor, "windows queries"]:
        """Return which queries of the last attention the score reads, such as the class token; 1 F, 1 B once."""
        key = self._size_key(x), self._target_key(x, target)
        if key not in self._batching.query_tokens:
            # d score / d weights is exactly zero in the rows of tokens that the score does not depend on
            first = self.resolve(target).subset(slice(0, 1))
            layers = self.subset(slice(0, 1)).attention_and_gradient(x[:1], first, _has_gradient)
            read = layers[-1].windows[0, :, 0, :, 0].ne(0)
            if not bool(read.any()):
                raise UnsupportedModel(
                    "The gradient of the score is exactly zero at the last attention layer, so the tokens that the "
                    "score depends on cannot be determined. The head may be untrained, or the target saturated; use "
                    "the logit of a class."
                )
            if key[1] is None or self.depends_on_image(target):
                return read
            self._batching.query_tokens[key] = read
        return self._batching.query_tokens[key]

    def scores(self, stream: Iterable[Images], target: Target, total: int | None = None) -> Float[Tensor, "k b"]:
        """Return the score of k perturbed versions of the images, (k, b); k F.

        Several versions share a forward. Memory does not grow with their number.

        Args:
            stream: Yields the versions, each (b, c, *space).
            target: The target to score.
            total: k, for the progress.
        """
        scores = []
        for group, many in self._packs(stream, target, total):
            scores.append(self.score(torch.cat(group), many).reshape(len(group), -1))
        return torch.cat(scores)

    def gradients(self, stream: Iterable[Images], target: Target, total: int | None = None) -> Iterator[Images]:
        """Yield `gradient` of each perturbed version of the images in a stream, as for `scores`; k F, k B."""
        for group, many in self._packs(stream, target, total):
            yield from self.gradient(torch.cat(group), many).chunk(len(group))

    def _packs(
        self, stream: Iterable[Tensor], target: Target, total: int | None
    ) -> Iterator[tuple[list[Tensor], Target]]:
        """Yield groups of perturbed batches that share a forward, with the target repeated for each batch."""
        target = self.resolve(target)
        batches = iter(stream)
        with Progress("perturbed images", total) as progress:
            for first in batches:
                room = self._batching.batch_size or _PACK.get(first.device.type, _PACK["cuda"])
                more = room // len(first) - 1 if target.tile(2) is not None else 0
                group = [first, *islice(batches, max(0, more))]
                yield group, target.tile(len(group)) or target
                progress.update(len(group))


def _stack_maps(maps: Sequence[Tensor]) -> LayerMaps:
    """Return the maps of single images as a batch."""
    shapes = dict.fromkeys(tuple(each.shape[1:]) for each in maps)
    if len(shapes) > 1:
        raise UnsupportedModel(
            "The default layer depends on the image, and the layers of these images have different shapes "
            f"({join_names(map(str, shapes))}). Choose one with layer=..., or pass one image at a time."
        )
    return torch.cat(list(maps))


def _as_leaf(weights: AttentionWeights, _arrangement: Arrangement) -> tuple[AttentionWeights, AttentionWeights]:
    """Return weights with a graph, which starts at the first of them."""
    leaf = weights if weights.requires_grad else weights.detach().requires_grad_()
    return leaf, leaf


def _has_gradient(_weights: Windows, gradient: Windows) -> Float[Tensor, "b windows 1 queries 1"]:
    """Return, for each query, whether the score depends on any of its weights."""
    return gradient.abs().amax((2, 4), keepdim=True)
