"""A model that runs as many images at a time as fit into memory, and reads the layers that a method requires."""

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from attribkit._coordinates.verification import verify_layout
from attribkit._core.axes import ImageAxes
from attribkit._core.errors import OWN_FORWARD, InvalidInput, UnknownName, UnsupportedModel, join_names
from attribkit._core.inputs import Inputs, inject_inputs
from attribkit._core.layouts import Extent, Extents, Layout
from attribkit._core.nested import tensors_in
from attribkit._core.shapes import Images, PerImage
from attribkit._core.spec import ModelSpec
from attribkit._display.progress import Progress
from attribkit._engine.diagnostics import Diagnostics, FirstScore
from attribkit._engine.evaluation import BatchingState, Run, RunsDiffer, TargetEvaluation, free_memory, target_notes
from attribkit._engine.forward import ForwardResults, LayerRequest, Requirements, layout_notes, map_of
from attribkit._state.hooks import CapturedTensor, TensorRequest, capture, return_layer
from attribkit._targets.class_outputs import OutputReader, Returned, class_probabilities, read_scores
from attribkit._targets.logits import Predicted
from attribkit._targets.outputs import LayerOutput, read_embedding, to_full_precision, to_result_dtype
from attribkit._targets.target import Target, check_class_count
from attribkit._tracing.layers import DefaultLayers, Layer, LayerTensor, ModelLayers, find_layers


class LayersDiffer(Exception):  # internal signal to explain the images one by one
    """The layers to read, or the positions of their grid cells, may differ between the images of a batch."""


_CHANNELS_LAST_FROM = 4  # least number of images for which channels-last convolutions are faster on a CPU

Model = TypeVar("Model", bound="BatchedModel")
Cached = TypeVar("Cached")


class BatchedModel:
    """A frozen model, bound to a batch of images.

    A batch that does not fit into memory is split into chunks, and the size that fits is kept for later calls. Results
    have the dtype of the images, or float32 for images of half precision. Methods take the bound images, or perturbed
    versions of the whole batch; `subset` returns the model bound to some of the images.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec, *, batch_size: int | None = None) -> None:
        self.module = module
        self.spec = spec
        self.notes: list[str] = []  # notes of the result
        self.diagnostics = Diagnostics()
        self._batching = BatchingState(batch_size, any(isinstance(each, nn.Conv2d) for each in module.modules()))
        self.usual_axes: set[Hashable] = set()  # image shapes that were found to be (b, c, *space)
        self._x: Tensor = torch.empty(0, dtype=torch.float32, device="cpu")  # the bound images
        self.inputs = Inputs()  # other inputs of the forward, one row per bound image
        self._chunk: Inputs | None = None  # inputs of the current chunk
        self._resolved: list[tuple[Target, Target]] = []  # targets of the bound images, and the resolved ones
        self._results: list[tuple[Target, ForwardResults]] = []  # results of a shared forward of the bound images
        self._cache: dict[Hashable, Any] = {}  # see `cached`
        self._extents = Extents()  # extents of the layers that were read
        self._layers: dict[Hashable, ModelLayers] = {}  # layers found for the bound images only
        self._reader = OutputReader(spec.outputs)  # detects the kind of class scores once
        self._last_input: tuple[Tensor, Inputs] | None = None  # the first image of the last forward, and its inputs
        self._keeps_memory_format = False  # whether images are never converted to channels last

    def bind(self: Model, x: Images, inputs: Inputs | None = None) -> Model:
        """Return the same model for new images, without notes and resolved targets.

        Args:
            x: Images, (b, c, *space).
            inputs: Other inputs of the forward, a row for each image.
        """
        model = self.fork()
        model._x, model.inputs, model._resolved, model._results = x, inputs or Inputs(), [], []
        model.diagnostics, model._cache, model._layers = Diagnostics(), {}, {}
        model._reader = self._batching.reader = OutputReader(self.spec.outputs)
        self._batching.forget_if_changed(self.module)
        return model

    def subset(self: Model, images: slice) -> Model:
        """Return the same model, bound to some of its images; both add to the same notes."""
        model = copy.copy(self)
        model._x, model.inputs, model._chunk = self._x[images], self.inputs.subset(images), None
        model._resolved, model._results, model._cache, model._layers = [], [], {}, {}
        return model

    def one_by_one(self: Model, target: Target | None) -> Iterator[tuple[Model, Any]]:
        """Iterate over the bound images: the model and the target bound to each of them."""
        for i in range(len(self._x)):
            images = slice(i, i + 1)
            yield self.subset(images), target.subset(images) if target else None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.module).__name__}, images {tuple(self._x.shape)})"

    def findings(self) -> list[str]:
        """Return what earlier calls found: the default layer for the last image size, and the kind of outputs."""
        found = []
        for layers in list(self._batching.forwards.values())[-1:]:
            if isinstance(layers.choice, DefaultLayers):
                names = join_names(repr(layers.name_of(each)) for each in layers.choice.joint)
                found.append(f"layer={names}: {layers.choice.reason}")
        reader = self._batching.reader
        return [*found, *([f"outputs: {reader.summary}"] if reader and reader.summary else [])]

    @property
    def images(self) -> Images:
        """The bound images."""
        return self._x

    def depends_on_image(self, target: Target) -> bool:
        """Return whether the path through the model, or the positions of its grid cells, may depend on the image."""
        size = self._size_key(self._x)
        if size not in self._batching.forwards:
            try:
                self._find_cached(self._x, target)
            except LayersDiffer:
                pass
            except Exception:  # the model fails on one of these images; the method's forward raises the error
                return False
        layers = self._batching.forwards.get(size)
        return layers is not None and layers.depends_on_image

    def bind_target(self, target: Target) -> Target:
        """Return the target bound to the images, with the embeddings of its reference images."""
        return target.bind(self._x, self._embed)

    def fork(self: Model) -> Model:
        """Return a copy for another method, which shares the cache and has separate notes."""
        model = copy.copy(self)
        model.notes, model._extents = [], Extents()
        return model

    def with_module(self: Model, module: nn.Module) -> Model:
        """Return a copy for another module of the same architecture, such as one with other weights.

        It shares the layers, the batch size and the `image_count` of this model.
        """
        model = self.fork()
        model.module = module
        model._resolved, model._results, model._cache = [], [], {}
        return model

    def cached(self, key: Hashable, compute: Callable[[], Cached]) -> Cached:
        """Return a value that is computed once for the bound images.

        Args:
            key: Identifies the value among all methods and metrics.
            compute: Called if the value is not cached yet.
        """
        if key not in self._cache:
            self._cache[key] = compute()
        value: Cached = self._cache[key]
        return value

    def extent(self, layer: str | None, grid: Sequence[int] | None = None) -> Extent | None:
        """Return the part of the images that the grid of a layer covers, if it was read; None means all of them.

        Args:
            layer: Name of the layer in the request; None means the default layer.
            grid: Grid of the scores. If it is not the grid of the layer, the scores cover the images.
        """
        return self._extents.of(layer, grid)

    @property
    def image_count(self) -> int:
        """Number of images that went through the model since it was wrapped."""
        return self._batching.images

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Exclude the images of forwards in this context from `image_count`."""
        count = self._batching.images
        try:
            yield
        finally:
            self._batching.images = count

    @property
    def batch_size(self) -> int | None:
        """Number of images that go through the model at a time; None means all of them."""
        return self._batching.batch_size

    @property
    def diagnoses(self) -> dict[Hashable, Any]:
        """Reasons why scores or gradients of the model are unreliable; see `attribkit._runs.diagnosis`."""
        return self._batching.diagnoses

    def __call__(self, x: Images) -> Any:
        """Return the outputs of the model, differentiable if x is."""
        channels_last = self._batching.channels_last and x.ndim == 4 and x.device.type == "cpu"
        channels_last = channels_last and len(x) >= _CHANNELS_LAST_FROM and not self._keeps_memory_format
        # The clone protects the images from in-place operations of the model.
        images = x.clone(memory_format=torch.channels_last if channels_last else torch.preserve_format)
        inputs = (self._chunk or self.inputs).of(len(x))
        self._batching.images += len(x)
        self._last_input = x[:1].detach(), inputs.subset(slice(0, 1))
        try:
            args, keywords = self.spec.arguments(images, inputs.arguments())
            with self.diagnostics.watch_forward(x.device):
                return self.module(*args, **keywords)
        except Exception as error:
            error.add_note(f"({OWN_FORWARD}, on images of shape {tuple(x.shape)})")
            raise

    def score(self, x: Images, target: Target) -> PerImage:
        """Return the score of the target for each image, (b,), without a graph."""
        results = self._cached_results(x, target, Requirements())
        if results is None:
            forward = self._forward(x, target)

            def run(chunk: Tensor, evaluations: list[TargetEvaluation]) -> list[Tensor]:
                with torch.no_grad():
                    return [to_full_precision(evaluations[0](forward(chunk)))]

            (score,), (notes,) = self._run_in_chunks(run, x, [target])
            results = ForwardResults(Requirements(), score, {}, {}, {}, {}, notes)
            if x is self._x and target.needs_outputs:
                self._results.append((target, results))  # the list is shared with the forks of this model
        self._add_notes(results.notes(Requirements()))
        return results.score.clone()

    def probabilities(self, x: Images) -> Tensor:
        """Return the probability of every class, (b, classes), or of the positive side of a single output, (b, 1)."""

        def run(chunk: Tensor, _evaluations: list[TargetEvaluation]) -> list[Tensor]:
            with torch.no_grad():
                return [class_probabilities(read_scores(self._wrap_outputs(self(chunk), len(chunk))))]

        return self._run(run, x, [])[0]

    def layer(self, name: str) -> nn.Module:
        """Return a submodule by its dotted name; raises UnknownName."""
        if not isinstance(name, str):
            raise _not_a_name(name)
        try:
            return self.module.get_submodule(name)
        except AttributeError:
            names = [each for each, _ in self.module.named_modules() if each]
            raise UnknownName("layer", name, names, "Explainer.layers() lists those that have a grid.") from None

    def layers(self, x: Images, target: Target | None = None) -> list[Layer]:
        """Return the layers that are maps of the image, in execution order; runs the first image of x once."""
        return self._default_layers(x[:1], (target or Predicted()).subset(slice(0, 1)))[0].layers

    def note(self, text: str) -> None:
        """Add a note to the result, unless it already contains this note."""
        if text not in self.notes:
            self.notes.append(text)

    def resolve(self, target: Target) -> Target:
        """Return the target with the values that the outputs determine, such as the predicted classes."""
        if not target.needs_outputs or not len(self._x):
            return target
        if self._resolution(target) is None:
            self.score(self._x, target)
        return self._resolution(target) or target

    def _resolution(self, target: Target) -> Target | None:
        """Return the target as resolved by earlier outputs, or None."""
        return next((resolved for each, resolved in self._resolved if each is target or each == target), None)

    def _cached_results(self, x: Tensor, target: Target, requires: Requirements) -> ForwardResults | None:
        """Return the results of a shared forward, if there was one that meets the requirements."""
        if x is not self._x:
            return None
        same = (results for each, results in self._results if each is target or self._resolution(each) is target)
        return next((results for results in same if requires <= results.requires), None)

    def _forward(self, x: Tensor, target: Target) -> Callable[[Tensor], Any]:
        """Return a function that maps images like x to the outputs, of the model or a layer, that the target scores."""
        if target.read_layer is None:
            return self
        layer = self._named_layer(x, target.read_layer)  # must run before the hooks below replace the outputs

        def forward(images: Tensor) -> Any:
            read = partial(self._layer_output, layer, images)
            with return_layer(self.module, layer.request, read):
                return self(images)

        return forward

    @contextmanager
    def _returning_scored_outputs(self, target: Target, x: Tensor, inputs: Inputs) -> Iterator[None]:
        """Make the module return the outputs that the target scores when it is called with x alone."""
        with ExitStack() as stack:
            if target.read_layer is not None:
                layer = self._named_layer(x, target.read_layer)
                stack.enter_context(return_layer(self.module, layer.request, partial(self._layer_output, layer, x)))
            stack.enter_context(
                inject_inputs(self.module, lambda images: self.spec.arguments(images, inputs.arguments()))
            )
            yield

    def _layer_output(self, layer: LayerRequest, x: Tensor, output: Tensor | None) -> LayerOutput:
        """Return a layer's output as channels on its grid, or as (b, d) if it does not have spatial axes."""
        if output is not None and output.ndim > 1 and output.shape[:2].numel() == output.numel():
            return LayerOutput(layer.requested or layer.name, output.flatten(1), output)
        rows = len(x) if output is None else len(output)  # an intervention may change the number of rows
        captured = CapturedTensor(layer.request)
        captured.tensor, captured.runs = output, layer.runs
        output, layout = map_of(layer, captured, x[:1].expand(rows, *x.shape[1:]))
        notes = tuple(layout_notes(layout, layer.name))
        return LayerOutput(layer.requested or layer.name, layout.to_grid(output), output, notes)

    def _embed(self, images: Tensor, target: Target) -> Tensor:
        """Return the embeddings (n, d) of images that a target holds, in the axes of the model."""
        if self.spec.axes is not None and images.ndim == len(self.spec.axes):
            images = ImageAxes(self.spec.axes).channels_first(images).contiguous()
        if images.ndim != self._x.ndim or images.shape[1] != self._x.shape[1]:
            raise InvalidInput(
                f"The images of {target!r} have shape {tuple(images.shape)}, but the images to explain have shape "
                f"{tuple(self._x.shape)}. Pass one image (1, c, *space), or one per image, preprocessed in the same "
                "way."
            )
        images = images.to(self._x)
        forward = self._forward(images, target)

        def run(chunk: Tensor, _evaluations: list[TargetEvaluation]) -> list[Tensor]:
            with torch.no_grad():
                return [to_full_precision(read_embedding(forward(chunk)))]

        return self._run(run, images, [])[0]

    def _run_to_map(
        self, forward: Callable[[Tensor], Any], x: Tensor, layer: LayerRequest
    ) -> tuple[Any, Tensor, Layout]:
        """Return the result of the forward, the layer's output, where a graph may start, and its layout."""
        with capture([layer.request]) as (captured,):
            returned = forward(x)
        return returned, *map_of(layer, captured, x)

    def _run(self, run: Run, x: Tensor, targets: Sequence[Target]) -> list[Tensor]:
        """Run a function on chunks of the images and add the notes on the targets."""
        tensors, notes = self._run_in_chunks(run, x, targets)
        for texts in notes:
            self._add_notes(texts)
        return tensors

    def _run_in_chunks(self, run: Run, x: Tensor, targets: Sequence[Target]) -> tuple[list[Tensor], list[list[str]]]:
        """Run a function on chunks of the images that fit into memory.

        Args:
            run: Maps a chunk of images and the evaluations of the targets on it to tensors with a row for each image.
            x: The bound images, or versions of them.
            targets: Targets of all images. For the bound images, the decisions from the outputs are kept.

        Returns:
            The tensors of all images, and the notes on each target.
        """
        bound = x is self._x
        targets = targets if bound else [self.resolve(target) for target in targets]
        for target in targets:
            check_class_count(target, len(x))
        inputs = self.inputs.of(len(x))
        parts: list[list[Tensor]] = []
        evaluations: list[list[TargetEvaluation]] = [[] for _ in targets]
        start = 0
        with Progress("images", len(x)) as progress:
            while start < len(x):
                images = slice(start, min(len(x), start + (self._batching.batch_size or len(x))))
                chunk = [TargetEvaluation(target, images, self._wrap_outputs) for target in targets]
                self._chunk, failed = inputs.subset(images), False
                try:
                    parts.append(run(x[images], chunk))
                except RunsDiffer:
                    self._batching.batch_size, failed = 1, True
                except RuntimeError as error:
                    if not self._batching.can_retry(error, x[images]):
                        raise
                    failed = True
                finally:
                    self._chunk = None
                if failed:
                    free_memory(x.device)  # after the except clause, since the error references tensors
                    continue
                for earlier, evaluation in zip(evaluations, chunk, strict=True):
                    earlier.append(evaluation)
                    if evaluation.finite is not None:
                        self.diagnostics.add_finite(evaluation.finite)
                progress.update(images.stop - start)
                start = images.stop
        if bound:
            self._keep_decisions(targets, evaluations)
        joined = parts[0] if len(parts) == 1 else [torch.cat(each) for each in zip(*parts, strict=True)]
        notes = [target_notes(each, images=bound) for each in evaluations]
        return [to_result_dtype(each, x) for each in joined], notes

    def _keep_decisions(self, targets: Sequence[Target], evaluations: Sequence[Sequence[TargetEvaluation]]) -> None:
        """Keep the decisions from the outputs for the bound images, and the score of the first image."""
        for target, chunks in zip(targets, evaluations, strict=True):
            if target.needs_outputs and self._resolution(target) is None:
                resolved = target.resolved([each for chunk in chunks for each in chunk.decision])
                self._resolved.append((target, resolved))  # the list is shared with the forks of this model
            first = chunks[0]
            if first.first_score is not None:
                scored = self._resolution(target) or target
                self.diagnostics.first_scores.append(
                    FirstScore(self._x.data_ptr(), scored, first.first_score, first.images)
                )

    def _wrap_outputs(self, outputs: Any, images: int) -> Returned:
        """Return the outputs for a number of images, with the reader of their class scores."""
        run_with_graph = partial(self._run_with_graph, *self._last_input) if self._last_input else None
        return Returned(outputs, images, self._reader, run_with_graph)

    def _run_with_graph(self, image: Tensor, inputs: Inputs) -> Any:
        """Run one image again, and return the outputs with their graph."""
        self._batching.images += 1
        with torch.enable_grad():
            args, keywords = self.spec.arguments(image.clone().requires_grad_(), inputs.arguments())
            return self.module(*args, **keywords)

    def _add_notes(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.note(text)

    def _request(self, x: Tensor, target: Target, layer: str | None) -> LayerRequest:
        """Return the request of one layer; None means the layer of the spec, or the default layer of the target."""
        if layer is not None:
            return self._named_layer(x, layer)
        layers, choice = self._default_layers(x, target)
        if choice.single is None:
            names = tuple(layers.name_of(each) for each in choice.joint)
            raise UnsupportedModel(
                f"The score is computed from several branches, at layers {join_names(names)}, and no single layer "
                "accounts for all of it. Choose one with layer=..., or use a method that averages the maps of "
                "several layers, such as gradcam."
            )
        self.note(f"layer={layers.name_of(choice.single)!r}: {choice.single_reason}")
        return self._request_tensor(x, layers, None, choice.single)

    def _requests(self, x: Tensor, target: Target, layer: str | None) -> list[LayerRequest]:
        """Return the requests of a layer; None means all layers that together determine the score."""
        if layer is not None:
            return [self._named_layer(x, layer)]
        layers, choice = self._default_layers(x, target)
        names = tuple(layers.name_of(each) for each in choice.joint)
        self.note(f"layer={names[0]!r}: {choice.reason}" if len(names) == 1 else f"layer={names!r}: {choice.reason}")
        return [self._request_tensor(x, layers, None, each) for each in choice.joint]

    def _named_layer(self, x: Tensor, name: str) -> LayerRequest:
        """Return the request of a layer by its name."""
        if not isinstance(name, str):
            raise _not_a_name(name)
        layers = self._all_layers(x)
        tensor = layers.named(name, {each for each, _ in self.module.named_modules()})
        self._add_notes(layers.notes_for(name, tensor))
        return self._request_tensor(x, layers, name, tensor)

    def _request_tensor(
        self, x: Tensor, layers: ModelLayers, requested: str | None, tensor: LayerTensor
    ) -> LayerRequest:
        name = layers.name_of(tensor)
        wanted = TensorRequest(self.layer(tensor.module), tensor.run, tensor.path)
        layout = tensor.layout
        if layout is not None and layout.inferred:
            layout = self._verified_layout(x, name, wanted, layout)
        if layout is not None:
            self._add_notes(layout_notes(layout, name))
            self._extents.keep(requested, layout)
        return LayerRequest(requested, name, wanted, layers.runs(tensor.module), layout, tensor.reached)

    def _verified_layout(self, x: Tensor, name: str, request: TensorRequest, layout: Layout) -> Layout:
        """Return a layout that was inferred from the shape, compared with the derivatives of its cells."""
        key = (self._size_key(x), name)
        if key not in self._batching.checked:
            image = x[:1].detach().requires_grad_()
            with torch.enable_grad(), capture([request]) as (captured,):
                self.subset(slice(0, 1))(image)
            tensor = captured.tensor
            self._batching.checked[key] = layout if tensor is None else verify_layout(tensor, image, layout)
        verified = self._batching.checked[key]
        if verified is None:
            raise UnsupportedModel(
                f"The grid of layer {name!r} is not in the spatial order that its shape suggests, and the operations "
                "before the layer cannot be tracked, so its map cannot be computed. Choose an earlier layer, or a "
                "method without a layer, such as input_x_gradient."
            )
        return verified

    def _all_layers(self, x: Tensor) -> ModelLayers:
        """Return the tensors of all layers for images of this size, for any target."""
        layers = self._known_layers(x) or self._find(x.detach(), Predicted())
        if layers.depends_on_image and len(x) > 1:
            raise LayersDiffer
        self._keep_forward(x, layers)
        return layers

    def _known_layers(self, x: Tensor) -> ModelLayers | None:
        """Return the layers that an earlier forward found, if they are valid for these images too."""
        size = self._size_key(x)
        if self._is_bound(x) and size in self._layers:
            return self._layers[size]
        layers = self._batching.forwards.get(size)
        return None if layers is None or layers.depends_on_image else layers

    def _default_layers(self, x: Tensor, target: Target) -> tuple[ModelLayers, DefaultLayers]:
        """Return the layers and the default layers of the methods."""
        layers = self._find_cached(x, target)
        if isinstance(layers.choice, UnsupportedModel):
            first = slice(0, 1)
            self.subset(first).score(x[:1], target.subset(first))  # raises for an unsuitable target
            raise layers.choice
        if len(x) > 1 and (layers.choice.depends_on_values or layers.depends_on_image):
            raise LayersDiffer
        return layers, layers.choice

    def _find_cached(self, x: Tensor, target: Target) -> ModelLayers:
        """Return the layers, which are found once for each model, image size, inputs and target."""
        size = self._size_key(x)
        layers: ModelLayers | None = None
        if size not in self._batching.forwards and target.kind == "classes":
            layers = self._find(x, target)  # uses the class of the first image
            self._keep_forward(x, layers)
        key = (size, self._target_key(x, target))
        cached = self._batching.layers.get(key) or (self._layers.get(key) if self._is_bound(x) else None)
        if cached is not None:
            return cached
        if layers is None:
            layers = self._find(x, target)
            self._keep_forward(x, layers)
        depends = (
            layers.depends_on_image or isinstance(layers.choice, UnsupportedModel) or layers.choice.depends_on_values
        )
        if not depends and key[1] is not None:
            self._batching.layers[key] = layers
        elif self._is_bound(x):
            self._layers[key] = layers
        return layers

    def _find(self, x: Tensor, target: Target) -> ModelLayers:
        """Run one image and find its layers."""
        first, inputs = target.subset(slice(0, 1)), self.inputs.subset(slice(0, 1))
        with self._returning_scored_outputs(first, x[:1], inputs):
            return find_layers(self.module, x[:1], self.spec, first, tensors_in(inputs.values))

    def _keep_forward(self, x: Tensor, layers: ModelLayers) -> None:
        size = self._size_key(x)
        self._batching.forwards.setdefault(size, layers)
        if layers.branching_function:
            self._batching.batch_size = 1  # each image, perturbed or not, may take another branch
        if self._is_bound(x):
            self._layers[size] = layers

    def _target_key(self, x: Tensor, target: Target) -> Hashable:
        """Return a key for what the target contributes to the choice of a layer; None if it cannot be compared."""
        layers = self._batching.forwards.get(self._size_key(x))
        if target.kind == "classes" and (layers is None or layers.has_shared_head):
            return "classes"
        target = self.resolve(target)
        keys = [target.subset(slice(i, i + 1)).layer_key for i in range(len(x) if target.count else 1)]
        if len(keys) > 1 and (None in keys or any(key != keys[0] for key in keys)):
            raise LayersDiffer
        return keys[0]

    def _size_key(self, x: Tensor) -> Hashable:
        return tuple(x.shape[1:]), x.dtype, self.inputs.kind

    def _is_bound(self, x: Tensor) -> bool:
        """Return whether these are the bound images themselves."""
        return x.shape == self._x.shape and x.data_ptr() == self._x.data_ptr()


def _not_a_name(layer: object) -> InvalidInput:
    return InvalidInput(
        f'layer must be the dotted name of a module, such as "layer4", got {type(layer).__name__}. '
        '`Explainer.attribute(x, "gradcam", layer=...)` also accepts a module of the model.'
    )
