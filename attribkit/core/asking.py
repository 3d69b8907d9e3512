"""A model that questions about images are put to: in chunks that fit, of layers that it has reasons to read."""

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from attribkit.core.chunks import Learnt, Question, Run, in_chunks, remarks, settled
from attribkit.core.errors import InvalidInput, UnknownName
from attribkit.core.hooks import captured, layer_returned
from attribkit.core.inputs import Inputs, handed_on
from attribkit.core.layers import FoundLayers, Layer, find_layers
from attribkit.core.layouts import Layout
from attribkit.core.reading import Answers, ReadLayer, Reads, map_of, ways_of_reading
from attribkit.core.shapes import Images, PerImage
from attribkit.core.signs import FirstScore, Signs
from attribkit.core.spec import ModelSpec
from attribkit.core.targets.class_outputs import OutputReader, Returned, probabilities, read_scores
from attribkit.core.targets.logits import Predicted
from attribkit.core.targets.outputs import LayerOutput, embedding, precise
from attribkit.core.targets.target import Target

_MANY = 4  # images from which on the memory layout that convolutions like pays, on a CPU

Model = TypeVar("Model", bound="AskedModel")
Kept = TypeVar("Kept")


class AskedModel:
    """A frozen model, and the batch of images that it is asked about.

    A batch that does not fit into memory is cut into chunks that do, and the size that fits is remembered. Results have
    the model's precision, or float32 where the model computes in half of that. What it is asked about is the explained
    images, or versions of all of them, one whole batch after the other; of some of them, `part` gives the model.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec, *, batch_size: int | None = None) -> None:
        self.module = module
        self.spec = spec
        self.notes: list[str] = []  # what a careful reader of the result should know
        self.signs = Signs()  # what its forwards let see in passing
        self._learnt = Learnt(batch_size, any(isinstance(each, nn.Conv2d) for each in module.modules()))
        self._x: Tensor = torch.empty(0)  # the images that are being explained
        self.inputs = Inputs()  # what they go through the model with
        self._chunk: Inputs | None = None  # what those go with that are being run
        self._meant: list[tuple[Target, Target]] = []  # open targets, and what they mean for x
        self._answers: list[tuple[Target, Answers]] = []  # what is known of x beforehand
        self._kept: dict[Hashable, Any] = {}  # what `remembered` keeps of x
        self._reader = OutputReader(spec.outputs)  # what its class scores are, once some were seen
        self._shown: tuple[Tensor, Inputs] | None = None  # an image of the last forward, and its inputs

    def explaining(self: Model, x: Images, inputs: Inputs | None = None) -> Model:
        """The same model, about to explain x, with notes and predicted classes of its own.

        inputs: what the images go through the model with, a row for each.
        """
        model = self.again()
        model._x, model.inputs, model._meant, model._answers = x, inputs or Inputs(), [], []
        model.signs, model._kept = Signs(), {}
        model._reader = OutputReader(self.spec.outputs)
        return model

    def part(self: Model, images: slice) -> Model:
        """The same model, explaining some of the images; its notes go to the same reader."""
        model = copy.copy(self)
        model._x, model.inputs, model._chunk = self._x[images], self.inputs.part(images), None
        model._meant, model._answers, model._kept = [], [], {}
        return model

    def prepared(self, target: Target) -> Target:
        """The target, once it knows the explained images, and what the model makes of images of its own."""
        return target.prepared(self._x, self._embedded)

    def again(self: Model) -> Model:
        """The same, for another method: knowing what this one knows, with notes of its own."""
        model = copy.copy(self)
        model.notes = []
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
            with self.signs.of_forward(x.device):
                args, keywords = self.spec.arguments(images, inputs.arguments())
                return self.module(*args, **keywords)
        except Exception as error:
            error.add_note(f"(raised by the model's own forward, on images of shape {tuple(x.shape)})")
            raise

    def score(self, x: Images, target: Target) -> PerImage:
        """The target's score per image; not differentiable."""
        known = self._known(x, target, Reads())
        if known:
            self._note_all(known.notes(Reads()))
            return known.score
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
        return self._justified(x, target or Predicted()).layers

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
        self._seen(x)  # how its layers are read, which cannot be told once hooks watch the forward

        def forward(x: Tensor) -> Any:
            with self._standing_for(target, x):
                return self(x)

        return forward

    @contextmanager
    def _standing_for(self, target: Target, x: Tensor, inputs: Inputs | None = None) -> Iterator[None]:
        """Let the module return what the target scores; where inputs are given, whoever calls it with x alone."""
        with ExitStack() as stack:
            if (name := target.read_layer) is not None:
                layer = self._named(name, name, None)
                stack.enter_context(layer_returned(self.module, layer.module, partial(self._layer_output, layer, x)))
            if inputs is not None:
                stack.enter_context(
                    handed_on(self.module, lambda images: self.spec.arguments(images, inputs.arguments()))
                )
            yield

    def _layer_output(self, layer: ReadLayer, x: Tensor, outputs: Sequence[Tensor]) -> LayerOutput:
        """A layer's output as channels on its grid, or as (b, d) where it has no space left."""
        if outputs and outputs[-1].ndim > 1 and outputs[-1].shape[:2].numel() == outputs[-1].numel():
            return LayerOutput(layer.name, outputs[-1].flatten(1), outputs[-1])
        images = x[:1].expand(len(outputs[-1]), *x.shape[1:]) if outputs else x  # as many as were put in its place
        output, layout = map_of(layer, outputs, images)
        return LayerOutput(
            layer.name, layout.to_grid(output), output, tuple(ways_of_reading(layer, len(outputs), layout))
        )

    def _embedded(self, images: Tensor, target: Target) -> Tensor:
        """What the model makes of images that a target holds, (n, d)."""
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
        with captured([(asked.module, asked.run)]) as (outputs,):
            returned = forward(x)
        output, layout = map_of(asked, outputs, x)
        for note in ways_of_reading(asked, len(outputs), layout):
            self.note(note)
        return returned, output, layout

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
        return answers, [remarks(each, images=own) for each in asked]

    def _keep_first_scores(self, pairs: Sequence[tuple[Target, Sequence[Question]]]) -> None:
        for target, (first, *_) in pairs:
            if first.first_score is not None:
                meant = self._meaning(target) or target
                self.signs.first_scores.append(FirstScore(meant, first.first_score, first.images))

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
        """A layer by its name; None is the one that the spec names, or that a first forward at this size justifies."""
        if layer is not None:
            return self._named(layer, layer, None)
        name, run, reason = self.spec.layer, None, self.spec.reason
        if not name:
            chosen = self._justified(x, target).chosen
            name, run, reason = chosen.name, chosen.run, chosen.reason
        self.note(f"layer={name!r}: {reason}")
        return self._named(None, name, run)

    def _named(self, asked: str | None, name: str, run: int | None) -> ReadLayer:
        return ReadLayer(asked, name, self.layer(name), run, partial(self._layout, name))

    def _layout(self, name: str, run: int, shape: tuple[int, ...], x: Tensor) -> Layout | None:
        """How a layer's output is a map: by its shape where that says all, else by where its elements come from."""
        by_shape = self.spec.layout(shape, tuple(x.shape))
        if by_shape and by_shape.kind != "tokens" and not by_shape.ambiguous:
            return by_shape
        seen = self._seen(x).layers
        known = [each.layout for each in seen if (each.name, each.run, each.shape) == (name, run, shape[1:])]
        return known[0] if known and len(x) == shape[0] else None

    def _seen(self, x: Tensor) -> FoundLayers:
        """The layers that are maps of images of this size, whatever is asked about them."""
        key = next((key for key in self._learnt.layers if key[0] == tuple(x.shape[2:])), None)
        return self._learnt.layers[key] if key else self._found(x.detach(), Predicted())

    def _justified(self, x: Tensor, target: Target) -> FoundLayers:
        """The layers, one of them chosen with a reason."""
        found = self._found(x, target)
        if found.refusal:
            self.part(slice(0, 1)).score(x[:1], target.part(slice(0, 1)))  # one that does not fit is the better reason
            raise found.refusal
        return found

    def _found(self, x: Tensor, target: Target) -> FoundLayers:
        """The layers, traced once for images of this size and what is asked about them."""
        key = (tuple(x.shape[2:]), target.kind, self.inputs.kind)
        if key not in self._learnt.layers:
            first = target.part(slice(0, 1))
            if first.read_layer is not None:
                self._seen(x)  # while the model still returns what it does
            with self._standing_for(first, x[:1], self.inputs.part(slice(0, 1))):
                self._learnt.layers[key] = find_layers(self.module, x[:1], self.spec, first)
        return self._learnt.layers[key]
