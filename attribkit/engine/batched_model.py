"""A model that questions about images are put to: in chunks that fit, of layers that it has reasons to read."""

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from attribkit.coordinates.verification import checked
from attribkit.core.axes import ImageAxes
from attribkit.core.errors import OWN_FORWARD, InvalidInput, UnknownName, UnsupportedModel, listed
from attribkit.core.inputs import Inputs, handed_on
from attribkit.core.layouts import Extent, Extents, Layout
from attribkit.core.nested import tensors_in
from attribkit.core.shapes import Images, PerImage
from attribkit.core.spec import ModelSpec
from attribkit.engine.chunks import Learnt, Question, Run, in_chunks, remarks, settled
from attribkit.engine.diagnostics import FirstScore, Signs
from attribkit.engine.forward import Answers, ReadLayer, Reads, map_of, ways_of_reading
from attribkit.state.hooks import Captured, Wanted, captured, layer_returned
from attribkit.targets.class_outputs import OutputReader, Returned, probabilities, read_scores
from attribkit.targets.logits import Predicted
from attribkit.targets.outputs import LayerOutput, embedding, precise, to_result_dtype
from attribkit.targets.target import Target
from attribkit.tracing.layers import ChosenLayers, FoundLayers, Layer, LayerTensor, find_layers


class LayersDiffer(Exception):  # no error: the images are to be explained one by one
    """The layers to read, or where their cells lie, may differ between the images of a batch."""


_MANY = 4  # images from which on the memory layout that convolutions like pays, on a CPU

Model = TypeVar("Model", bound="AskedModel")
Kept = TypeVar("Kept")


class AskedModel:
    """A frozen model, and the batch of images that it is asked about.

    A batch that does not fit into memory is cut into chunks that do, and the size that fits is remembered. Results have
    the dtype of the images, and float32 for images of half precision. Inputs are the explained images, or perturbed
    versions of the whole batch; `part` gives the model for a subset of the images.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec, *, batch_size: int | None = None) -> None:
        self.module = module
        self.spec = spec
        self.notes: list[str] = []  # what a careful reader of the result should know
        self.signs = Signs()  # what its forwards let see in passing
        self._learnt = Learnt(batch_size, any(isinstance(each, nn.Conv2d) for each in module.modules()))
        self.usual_axes: set[Hashable] = set()  # shapes of images that a forward takes as (b, c, *space)
        self._x: Tensor = torch.empty(0, dtype=torch.float32, device="cpu")  # the images that are being explained
        self.inputs = Inputs()  # what they go through the model with
        self._chunk: Inputs | None = None  # what those go with that are being run
        self._meant: list[tuple[Target, Target]] = []  # open targets, and what they mean for x
        self._answers: list[tuple[Target, Answers]] = []  # what is known of x beforehand
        self._kept: dict[Hashable, Any] = {}  # what `remembered` keeps of x
        self._extents = Extents()  # of the layers that were read
        self._layers: dict[Hashable, FoundLayers] = {}  # that were found for x and hold for no other images
        self._reader = OutputReader(spec.outputs)  # what its class scores are, once some were seen
        self._shown: tuple[Tensor, Inputs] | None = None  # an image of the last forward, and its inputs

    def explaining(self: Model, x: Images, inputs: Inputs | None = None) -> Model:
        """The same model, about to explain x, with notes and predicted classes of its own.

        inputs: what the images go through the model with, a row for each.
        """
        model = self.again()
        model._x, model.inputs, model._meant, model._answers = x, inputs or Inputs(), [], []
        model.signs, model._kept, model._layers = Signs(), {}, {}
        model._reader = OutputReader(self.spec.outputs)
        self._learnt.forget_if_changed(self.module)
        return model

    def part(self: Model, images: slice) -> Model:
        """The same model, explaining some of the images; its notes go to the same reader."""
        model = copy.copy(self)
        model._x, model.inputs, model._chunk = self._x[images], self.inputs.part(images), None
        model._meant, model._answers, model._kept, model._layers = [], [], {}, {}
        return model

    def one_by_one(self: Model, target: Target | None) -> Iterator[tuple[Model, Any]]:
        """For each of the explained images, the same model explaining it alone, and what of the target is its own."""
        for i in range(len(self._x)):
            own = slice(i, i + 1)
            yield self.part(own), target.part(own) if target else None

    @property
    def images(self) -> Images:
        """The images that are explained."""
        return self._x

    def depends_on_image(self, target: Target) -> bool:
        """Whether another image may take another way through the model, or have the same cells elsewhere."""
        size = self._size_key(self._x)
        if size not in self._learnt.forwards:
            try:
                self._found(self._x, target)
            except LayersDiffer:
                pass
            except Exception:  # a model that cannot run one image of these: its own error will tell
                return False
        found = self._learnt.forwards.get(size)
        return found is not None and found.depends_on_image

    def prepared(self, target: Target) -> Target:
        """The target, once it knows the explained images, and what the model makes of images of its own."""
        return target.prepared(self._x, self._embedded)

    def again(self: Model) -> Model:
        """The same, for another method: knowing what this one knows, with notes of its own."""
        model = copy.copy(self)
        model.notes, model._extents = [], Extents()
        return model

    def on(self: Model, module: nn.Module) -> Model:
        """The same for another module of the same architecture, such as a copy with other weights.

        It has the same layers and takes as many images at a time, and its images are counted as this one's.
        """
        model = self.again()
        model.module = module
        model._meant, model._answers, model._kept = [], [], {}
        return model

    def remembered(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """What `make` gives, made once for the images that are being explained, whoever asks for it by this key."""
        if key not in self._kept:
            self._kept[key] = make()
        kept: Kept = self._kept[key]
        return kept

    def extent(self, layer: str | None, grid: Sequence[int] | None = None) -> Extent | None:
        """Where on the images the cells of a layer lie that was read; None is all over them.

        grid: that of the scores; where it is not the layer's own, they are on the images.
        """
        return self._extents.of(layer, grid)

    @property
    def images_seen(self) -> int:
        """How many images went through the model since it was wrapped."""
        return self._learnt.images

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Let images go through the model that do not count as seen."""
        seen = self._learnt.images
        try:
            yield
        finally:
            self._learnt.images = seen

    @property
    def batch_size(self) -> int | None:
        """How many images go through the model at a time; None is all of them."""
        return self._learnt.batch_size

    @property
    def diagnoses(self) -> dict[Hashable, Any]:
        """What was found to make scores or gradients of the model unreliable; see `core.diagnosis`."""
        return self._learnt.diagnoses

    def __call__(self, x: Images) -> Any:
        """What the model returns; differentiable where x is."""
        channels_last = self._learnt.channels_last and x.ndim == 4 and len(x) >= _MANY and x.device.type == "cpu"
        # A clone keeps the images of a user whose model works in place; this layout is the faster one for convolutions.
        images = x.clone(memory_format=torch.channels_last if channels_last else torch.preserve_format)
        inputs = (self._chunk or self.inputs).of(len(x))
        self._learnt.images += len(x)
        self._shown = x[:1].detach(), inputs.part(slice(0, 1))
        try:
            args, keywords = self.spec.arguments(images, inputs.arguments())
            with self.signs.of_forward(x.device):
                return self.module(*args, **keywords)
        except Exception as error:
            error.add_note(f"({OWN_FORWARD}, on images of shape {tuple(x.shape)})")
            raise

    def score(self, x: Images, target: Target) -> PerImage:
        """The target's score per image; not differentiable."""
        known = self._known(x, target, Reads())
        if known:
            self._note_all(known.notes(Reads()))
            return known.score.clone()
        forward = self._forward(x, target)

        def run(part: Tensor, questions: list[Question]) -> list[Tensor]:
            with torch.no_grad():
                return [precise(questions[0](forward(part)))]

        return self._in_chunks(run, x, [target])[0]

    def probabilities(self, x: Images) -> Tensor:
        """The probability of every class, (b, classes); of a single output that of its positive side, (b, 1)."""

        def run(part: Tensor, _questions: list[Question]) -> list[Tensor]:
            with torch.no_grad():
                return [probabilities(read_scores(self._returned(self(part), len(part))))]

        return self._in_chunks(run, x, [])[0]

    def layer(self, name: str) -> nn.Module:
        """A submodule by its dotted name."""
        if not isinstance(name, str):
            raise _no_name(name)
        try:
            return self.module.get_submodule(name)
        except AttributeError:
            known = [each for each, _ in self.module.named_modules() if each]
            raise UnknownName("layer", name, known, "Explainer.layers() tells which have a grid.") from None

    def layers(self, x: Images, target: Target | None = None) -> list[Layer]:
        """The layers that are maps of the image, in execution order; the first image of x is run once."""
        return self._justified(x[:1], (target or Predicted()).part(slice(0, 1)))[0].layers

    def note(self, text: str) -> None:
        """Leave a remark for the reader of the result; a repetition is dropped."""
        if text not in self.notes:
            self.notes.append(text)

    def resolved(self, target: Target) -> Target:
        """The target, with the predicted classes made explicit, or what else the explained images decide."""
        if not target.is_open or not len(self._x):
            return target
        if self._meaning(target) is None:
            self.score(self._x, target)
        return self._meaning(target) or target

    def _meaning(self, target: Target) -> Target | None:
        """What an open target is known to mean."""
        return next((meant for asked, meant in self._meant if asked is target or asked == target), None)

    def _known(self, x: Tensor, target: Target, reads: Reads) -> Answers | None:
        """What is known beforehand, if it answers this."""
        if x is not self._x:
            return None
        same = (answers for asked, answers in self._answers if asked is target or self._meaning(asked) is target)
        return next((answers for answers in same if reads <= answers.reads), None)

    def _forward(self, x: Tensor, target: Target) -> Callable[[Tensor], Any]:
        """Images like x to what the target scores: what the model returns, or what a layer puts out."""
        if target.read_layer is None:
            return self
        layer = self._named(x, target.read_layer)  # how it is read, which hooks that exchange outputs would hide

        def forward(images: Tensor) -> Any:
            read = partial(self._layer_output, layer, images)
            with layer_returned(self.module, layer.wanted, read):
                return self(images)

        return forward

    @contextmanager
    def _standing_for(self, target: Target, x: Tensor, inputs: Inputs | None = None) -> Iterator[None]:
        """Let the module return what the target scores; where inputs are given, whoever calls it with x alone."""
        with ExitStack() as stack:
            if target.read_layer is not None:
                layer = self._named(x, target.read_layer)
                stack.enter_context(layer_returned(self.module, layer.wanted, partial(self._layer_output, layer, x)))
            if inputs is not None:
                stack.enter_context(
                    handed_on(self.module, lambda images: self.spec.arguments(images, inputs.arguments()))
                )
            yield

    def _layer_output(self, layer: ReadLayer, x: Tensor, output: Tensor | None) -> LayerOutput:
        """A layer's output as channels on its grid, or as (b, d) where it has no space left."""
        if output is not None and output.ndim > 1 and output.shape[:2].numel() == output.numel():
            return LayerOutput(layer.asked or layer.name, output.flatten(1), output)
        rows = len(x) if output is None else len(output)  # as many as were put in its place
        kept = Captured(layer.wanted)
        kept.tensor, kept.runs = output, layer.runs
        output, layout = map_of(layer, kept, x[:1].expand(rows, *x.shape[1:]))
        notes = tuple(ways_of_reading(layout, layer.name))
        return LayerOutput(layer.asked or layer.name, layout.to_grid(output), output, notes)

    def _embedded(self, images: Tensor, target: Target) -> Tensor:
        """What the model makes of images that a target holds, in the model's own axes, (n, d)."""
        if self.spec.axes is not None and images.ndim == len(self.spec.axes):
            images = ImageAxes(self.spec.axes).channels_first(images).contiguous()
        if images.ndim != self._x.ndim or images.shape[1] != self._x.shape[1]:
            raise InvalidInput(
                f"The images of {target!r} are {tuple(images.shape)}, and those to explain {tuple(self._x.shape)}: "
                "give (1, c, *space), or one for each, preprocessed as the model expects."
            )
        images = images.to(self._x)
        forward = self._forward(images, target)

        def run(part: Tensor, _questions: list[Question]) -> list[Tensor]:
            with torch.no_grad():
                return [precise(embedding(forward(part)))]

        return self._in_chunks(run, images, [])[0]

    def _run_to_map(self, forward: Callable[[Tensor], Any], x: Tensor, asked: ReadLayer) -> tuple[Any, Tensor, Layout]:
        """What the forward returns, what the layer put out, at which a graph may start, and how to read it."""
        with captured([asked.wanted]) as (kept,):
            returned = forward(x)
        return returned, *map_of(asked, kept, x)

    def _in_chunks(self, run: Run, x: Tensor, targets: Sequence[Target]) -> list[Tensor]:
        """Put the questions to as many images at a time as fit, and note what is told of the targets."""
        answers, told = self._asked_in_chunks(run, x, targets)
        for notes in told:
            self._note_all(notes)
        return answers

    def _asked_in_chunks(self, run: Run, x: Tensor, targets: Sequence[Target]) -> tuple[list[Tensor], list[list[str]]]:
        """The answers, and what is to be told of each target; what open ones mean for the explained images is kept."""
        own = x is self._x
        put = targets if own else [self.resolved(target) for target in targets]
        answers, asked = in_chunks(self._watched(run), x, put, self._learnt, self._given(len(x)), self._returned)
        if own:
            pairs = list(zip(put, asked, strict=True))
            self._meant += [(t, settled(t, each)) for t, each in pairs if t.is_open and self._meaning(t) is None]
            self._keep_first_scores(pairs)
        answers = [to_result_dtype(each, x) for each in answers]
        return answers, [remarks(each, images=own) for each in asked]

    def _keep_first_scores(self, pairs: Sequence[tuple[Target, Sequence[Question]]]) -> None:
        for target, (first, *_) in pairs:
            if first.first_score is not None:
                meant = self._meaning(target) or target
                first_score = FirstScore(self._x.data_ptr(), meant, first.first_score, first.images)
                self.signs.first_scores.append(first_score)

    def _returned(self, outputs: Any, images: int) -> Returned:
        """What the model returned for so many images, with what is known of its class scores."""
        return Returned(outputs, images, self._reader, self._with_graph if self._shown else None)

    def _with_graph(self) -> Any:
        """What the model returns for an image of its last forward, with the graph that leads to it."""
        assert self._shown is not None
        image, inputs = self._shown
        self._learnt.images += 1
        with torch.enable_grad():
            args, keywords = self.spec.arguments(image.clone().requires_grad_(), inputs.arguments())
            return self.module(*args, **keywords)

    def _given(self, count: int) -> Callable[[slice], AbstractContextManager[None]]:
        """What lets some of so many images go through the model with the inputs that belong to them."""
        inputs = self.inputs.of(count)

        @contextmanager
        def given(images: slice) -> Iterator[None]:
            self._chunk = inputs.part(images)
            try:
                yield
            finally:
                self._chunk = None

        return given

    def _watched(self, run: Run) -> Run:
        """The same, with an eye on the scores."""

        def watched(part: Tensor, questions: list[Question]) -> list[Tensor]:
            found = run(part, questions)
            for finite in (question.finite for question in questions if question.finite is not None):
                self.signs.of_scores(finite)
            return found

        return watched

    def _note_all(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.note(text)

    def _asked(self, x: Tensor, target: Target, layer: str | None) -> ReadLayer:
        """One layer by its name; None is the one that the spec names, or that a forward of an image justifies."""
        if layer is not None:
            return self._named(x, layer)
        found, choice = self._justified(x, target)
        if choice.single is None:
            names = tuple(found.name_of(each) for each in choice.together)
            raise UnsupportedModel(
                f"The score is made of several branches, at layers {listed(names)}, and no one layer stands for it: "
                "name one by layer=..., or use a method that averages the maps of several, such as gradcam."
            )
        self.note(f"layer={found.name_of(choice.single)!r}: {choice.single_reason}")
        return self._read_layer(x, found, None, choice.single)

    def _asked_together(self, x: Tensor, target: Target, layer: str | None) -> list[ReadLayer]:
        """The same; None is all the layers that carry the score between them."""
        if layer is not None:
            return [self._named(x, layer)]
        found, choice = self._justified(x, target)
        names = tuple(found.name_of(each) for each in choice.together)
        self.note(f"layer={names[0]!r}: {choice.reason}" if len(names) == 1 else f"layer={names!r}: {choice.reason}")
        return [self._read_layer(x, found, None, each) for each in choice.together]

    def _named(self, x: Tensor, name: str) -> ReadLayer:
        """A layer by its name."""
        if not isinstance(name, str):
            raise _no_name(name)
        found = self._seen(x)
        tensor = found.named(name, {each for each, _ in self.module.named_modules()})
        self._note_all(found.notes_on(name, tensor))
        return self._read_layer(x, found, name, tensor)

    def _read_layer(self, x: Tensor, found: FoundLayers, asked: str | None, tensor: LayerTensor) -> ReadLayer:
        name = found.name_of(tensor)
        wanted = Wanted(self.layer(tensor.module), tensor.run, tensor.path)
        layout = tensor.layout
        if layout is not None and layout.inferred:
            layout = self._checked(x, name, wanted, layout)
        if layout is not None:
            self._note_all(ways_of_reading(layout, name))
            self._extents.keep(asked, layout)
        return ReadLayer(asked, name, wanted, found.runs(tensor.module), layout, tensor.reached)

    def _checked(self, x: Tensor, name: str, wanted: Wanted, layout: Layout) -> Layout:
        """A layout that the shape suggests, after a look at where the derivatives of its cells are."""
        key = (self._size_key(x), name)
        if key not in self._learnt.checked:
            image = x[:1].detach().requires_grad_()
            with torch.enable_grad(), captured([wanted]) as (kept,):
                self.part(slice(0, 1))(image)
            self._learnt.checked[key] = layout if kept.tensor is None else checked(kept.tensor, image, layout)
        found = self._learnt.checked[key]
        if found is None:
            raise UnsupportedModel(
                f"The cells of layer {name!r} do not lie on the image as its shape suggests, and the operations before "
                "it could not be followed: no map of it can be drawn. Choose an earlier layer, or a method without "
                "one, such as input_x_gradient."
            )
        return found

    def _seen(self, x: Tensor) -> FoundLayers:
        """The tensors of layers for images of this size, whatever is asked about them."""
        found = self._known_layers(x) or self._find(x.detach(), Predicted())
        if found.depends_on_image and len(x) > 1:
            raise LayersDiffer
        self._keep_forward(x, found)
        return found

    def _known_layers(self, x: Tensor) -> FoundLayers | None:
        """Those that an earlier forward found, where they hold for these images too."""
        size = self._size_key(x)
        if self._is_own(x) and size in self._layers:
            return self._layers[size]
        found = self._learnt.forwards.get(size)
        return None if found is None or found.depends_on_image else found

    def _justified(self, x: Tensor, target: Target) -> tuple[FoundLayers, ChosenLayers]:
        """The layers, and those of them that are chosen with a reason."""
        found = self._found(x, target)
        if isinstance(found.choice, UnsupportedModel):
            self.part(slice(0, 1)).score(x[:1], target.part(slice(0, 1)))  # one that does not fit is the better reason
            raise found.choice
        if len(x) > 1 and (found.choice.by_value or found.depends_on_image):
            raise LayersDiffer
        return found, found.choice

    def _found(self, x: Tensor, target: Target) -> FoundLayers:
        """The layers, found once for all that they depend on: the model, the size, the inputs and the target."""
        size = self._size_key(x)
        found: FoundLayers | None = None
        if size not in self._learnt.forwards and target.kind == "classes":
            found = self._find(x, target)  # of the first image's class, as it is
            self._keep_forward(x, found)
        key = (size, self._target_key(x, target))
        kept = self._learnt.layers.get(key) or (self._layers.get(key) if self._is_own(x) else None)
        if kept is not None:
            return kept
        if found is None:
            found = self._find(x, target)
            self._keep_forward(x, found)
        depends = found.depends_on_image or isinstance(found.choice, UnsupportedModel) or found.choice.by_value
        if not depends and key[1] is not None:
            self._learnt.layers[key] = found
        elif self._is_own(x):
            self._layers[key] = found
        return found

    def _find(self, x: Tensor, target: Target) -> FoundLayers:
        """Run one image, and find its layers."""
        first, inputs = target.part(slice(0, 1)), self.inputs.part(slice(0, 1))
        with self._standing_for(first, x[:1], inputs):
            return find_layers(self.module, x[:1], self.spec, first, tensors_in(inputs.values))

    def _keep_forward(self, x: Tensor, found: FoundLayers) -> None:
        size = self._size_key(x)
        self._learnt.forwards.setdefault(size, found)
        if found.branches:
            self._learnt.batch_size = 1  # several images, or versions of one, may not go the way of each
        if self._is_own(x):
            self._layers[size] = found

    def _target_key(self, x: Tensor, target: Target) -> Hashable:
        """What the choice of a layer depends on beside the images; None where that is not known."""
        forward = self._learnt.forwards.get(self._size_key(x))
        if target.kind == "classes" and (forward is None or forward.one_head):
            return "classes"
        target = self.resolved(target)
        keys = [target.part(slice(i, i + 1)).layer_key for i in range(len(x) if target.count else 1)]
        if len(keys) > 1 and (None in keys or any(key != keys[0] for key in keys)):
            raise LayersDiffer
        return keys[0]

    def _size_key(self, x: Tensor) -> Hashable:
        return tuple(x.shape[1:]), x.dtype, self.inputs.kind

    def _is_own(self, x: Tensor) -> bool:
        """Whether these are the explained images themselves."""
        return x.shape == self._x.shape and x.data_ptr() == self._x.data_ptr()


def _no_name(given: object) -> InvalidInput:
    return InvalidInput(
        f'A layer is given by its name, such as "layer4", got {type(given).__name__}; `attribute(x, "gradcam", '
        "layer=...)` takes a module of the model too."
    )
