"""The front door."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from attribkit import registry
from attribkit.contracts.attribution import Attribution, Comparison, FailedAttribution
from attribkit.contracts.method import Method
from attribkit.contracts.metric import Metric
from attribkit.contracts.visualization import Visualization
from attribkit.contracts.visualizer import Visualizer
from attribkit.core.axes import ImageAxes
from attribkit.core.errors import InvalidInput, error_context
from attribkit.core.ground_truth import GroundTruth
from attribkit.core.inputs import Inputs, check_image_name, read_inputs
from attribkit.core.shapes import AnyImages, Images, Masks, PerImage
from attribkit.core.spec import ModelSpec
from attribkit.engine.forward import Requirements
from attribkit.engine.model import HookedModel
from attribkit.inspection.feature_maps import FeatureMaps, Filters, feature_maps, filters
from attribkit.inspection.receptive_field import ReceptiveField, receptive_field
from attribkit.runs.attribution import run_attribution
from attribkit.runs.measurement import MetricResult, MetricSession, check_attributions
from attribkit.runs.preflight import Finding, preflight
from attribkit.runs.validation import check_images, image_axes, unwrap_model
from attribkit.runs.visualization import blank_images, run_visualizer
from attribkit.state.hooks import frozen
from attribkit.targets.binary import LabelOfTwo
from attribkit.targets.resolution import as_target
from attribkit.targets.target import NoTarget, Target, check_class_count
from attribkit.tracing.attention import AttentionLayers
from attribkit.tracing.gates import Gate
from attribkit.tracing.layers import Layer

_NOISE_IMAGES = 8  # over which a gradient is averaged where no images are given
Seen = TypeVar("Seen")


class Explainer:
    """Explains one model, and leaves it as it was.

    >>> Explainer(model).attribute(x, method="gradcam").heatmap()

    model: any module that turns images (b, c, *space) into class scores (b, classes), or into anything that a target
    can score. image: the parameter of the model's forward that takes the images, by its name; None is the one that the
    model's family names, such as "pixel_values" for Hugging Face's models, or else the first. spec: what the model's
    family does not say of it. batch_size: images at a time; "auto" is as many as fit.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        image: str | None = None,
        spec: ModelSpec | None = None,
        batch_size: int | Literal["auto"] = "auto",
    ) -> None:
        module = unwrap_model(model)
        if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
            raise InvalidInput(f"batch_size={batch_size!r} is neither 'auto' nor a number of images from 1.")
        if not isinstance(spec, ModelSpec | None):
            raise InvalidInput(f"spec={spec!r} is no ModelSpec: write spec=ModelSpec(layer=...).")
        self.model = HookedModel(
            module, _called_as(spec, image, module), batch_size=None if batch_size == "auto" else batch_size
        )

    def attribute(
        self,
        x: AnyImages,
        method: str | type[Method] | Method = "gradcam",
        *,
        target: Any = None,
        inputs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Attribution:
        """Score every pixel of x for a target.

        x: (b, c, *space), or in the model's own order of axes, such as clips (b, t, c, h, w), which the result's x and
        scores then have; preprocessed as the model expects, on its device. method: a name, class or instance; options
        are its fields. target: a class index or label, a Target, a function of the model's outputs, or one of these for
        each image; None is the predicted class, the output of a model that has one, or the norm of the embedding of a
        model that has no classes; methods that need no target leave it out, and the result holds NoTarget(). inputs:
        what else the model's forward takes, by name; tensors have a row for each image, unless they are BroadcastInput. Raises
        an AttribkitError that says what to do where there is no honest answer.
        """
        with error_context("model", self.model.module), error_context("method", method):
            explain = registry.make(method, Method, **self._named_layers(options))
            question, more = self._question(target, x, explain), self._inputs(inputs, x)
            with frozen(self.model.module):
                model, own, note = self._explaining(x, more)
                return run_attribution(explain, model, own, model.bind_target(question), note)

    def compare(
        self,
        x: AnyImages,
        methods: Sequence[str | type[Method] | Method],
        *,
        targets: Sequence[Any] = (None,),
        inputs: Mapping[str, Any] | None = None,
        errors: Literal["raise", "note"] = "raise",
    ) -> Comparison:
        """Explain the same images by several methods, for one or more targets, with one forward for all that it serves.

        x, inputs: as for `attribute`. methods: names, classes or instances with options. targets: each as `attribute`
        takes it, such as a class for all images; (None,) is the predicted one. errors: "raise" the first error of a
        method, or "note" it in the result's `failures` and go on with the others; what is wrong with the images, the
        targets or an option is raised in any case. Gives a list of an attribution for each target and method, target by
        target, without those that failed; each equals what `attribute` gives.
        """
        if errors not in ("raise", "note"):
            raise InvalidInput(f"errors={errors!r} is neither 'raise' nor 'note'.")
        with error_context("model", self.model.module):
            made = [registry.make(method, Method) for method in _several(methods, "methods")]
            asking = next((method for method in made if method.needs_target), made[0])
            questions = [self._question(target, x, asking) for target in _several(targets, "targets")]
            more = self._inputs(inputs, x)
            with frozen(self.model.module):
                model, own, note = self._explaining(x, more)
                questions = [model.bind_target(question) for question in questions]
                with_cache = _knowing(model, questions, made)

                def attempted(explain: Method, target: Any, question: Target) -> Attribution | FailedAttribution:
                    asked = question if target is not None or explain.needs_target else NoTarget()
                    try:
                        return run_attribution(explain, with_cache.fork(), own, asked, note)
                    except Exception as error:
                        if errors == "raise":
                            raise
                        return FailedAttribution(explain, asked, error)

                pairs = list(zip(targets, questions, strict=True))
                return Comparison([[attempted(explain, *pair) for explain in made] for pair in pairs])

    def visualize(
        self,
        unit: Any,
        visualizer: str | type[Visualizer] | Visualizer = "activation_maximization",
        *,
        size: int | tuple[int, ...] | None = None,
        inputs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Visualization:
        """Make images that a unit of the model responds to.

        unit: a class index or label, several of these, a Target, a function of the model's outputs, or a Unit or
        Direction of a layer. visualizer: a name, class or instance; options are its fields. size: (c, *space) of the
        images, or a side in pixels; None is the size that the model was made for. inputs: as for `attribute`, a row for
        each unit. Raises an AttribkitError that says what to do where there is no honest answer.
        """
        with error_context("model", self.model.module), error_context("visualizer", visualizer):
            draw = registry.make(visualizer, Visualizer, **options)
            wanted = as_target(unit, self.model.spec.labels)
            if wanted.needs_outputs and not isinstance(wanted, LabelOfTwo):
                raise InvalidInput(
                    f"unit={unit!r}: nothing is predicted before there is an image; name a class or a layer's unit."
                )
            with frozen(self.model.module):
                blank = blank_images(self.model, wanted.count or 1, size)
                more = self._inputs(inputs, blank)
                image_axes(blank, self.model, more)  # refuses a size that the first layer does not take
                model = self.model.bind(blank, more)
                return run_visualizer(draw, model, blank, model.bind_target(model.resolve(wanted)))

    def evaluate(
        self,
        attribution: Attribution,
        metric: str | type[Metric] | Metric,
        *,
        mask: Masks | GroundTruth | None = None,
        inputs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> PerImage:
        """Score an attribution of this model by a metric, a number per image; NaN where it is not defined.

        metric: a name, class or instance; options are its fields. mask: (b, *space), True on the object, or a GroundTruth,
        for metrics that compare with one. inputs: those that the attribution was made with.
        """
        with error_context("model", self.model.module), error_context("metric", metric):
            made = registry.make(metric, Metric, **options)
        return self.measure([attribution], [made], mask=mask, inputs=inputs)[0].values[0]

    def measure(
        self,
        attributions: Sequence[Attribution],
        metrics: Sequence[str | type[Metric] | Metric],
        *,
        mask: Masks | GroundTruth | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> list[MetricResult]:
        """Score several attributions of the same images and targets by several metrics.

        What does not depend on the maps is asked of the model once for all of them. mask, inputs: as for `evaluate`.
        Gives for each metric its values, (m, b) for m attributions of b images, and details such as curves.
        """
        with error_context("model", self.model.module):
            made = [registry.make(metric, Metric) for metric in _several(metrics, "metrics")]
            check_attributions(attributions)
        metric_session = self.metric_session(attributions[0].x, mask=mask, inputs=inputs)
        return [metric_session(metric, attributions) for metric in made]

    def metric_session(
        self, x: AnyImages, *, mask: Masks | GroundTruth | None = None, inputs: Mapping[str, Any] | None = None
    ) -> MetricSession:
        """What scores attributions of x by one metric after the other, where an error of one must cost no other.

        It is called with a metric and attributions, and remembers what was asked of the model, which must stay as it
        is. mask, inputs: as for `evaluate`.

        >>> measuring = explainer.measuring(x)
        >>> measuring(Deletion(), [a, b]).values
        """
        with error_context("model", self.model.module), frozen(self.model.module):
            check_images(x, self.model)
            model, own, _ = self._explaining(x, self._inputs(inputs, x))
        return MetricSession(model, own, mask)

    def layers(
        self, x: AnyImages | None = None, target: Any = None, inputs: Mapping[str, Any] | None = None
    ) -> list[Layer]:
        """The layers that are maps of the image, in execution order, and why one of them is chosen.

        x: images of the size in question; None is noise of the size that the model was made for. target, inputs: as for
        `attribute`; the choice depends on the target where it is a unit of a layer, say.
        """
        images = self._noise() if x is None else x
        question, more = self._question(target, images), self._inputs(inputs, images)
        with frozen(self.model.module):
            model, own, _ = self._explaining(images, more)
            return model.layers(own, model.bind_target(question))

    def check(
        self, x: AnyImages | None = None, target: Any = None, inputs: Mapping[str, Any] | None = None
    ) -> list[Finding]:
        """Look for what would make an answer wrong for this model; an empty list is good news.

        Later answers about images of this size carry what is found of the model: randomness, scores that depend on the
        rest of the batch, and a gradient that is not the derivative of the score. Costs ten
        forwards, and up to eighty of single images.

        x: a few typical images, at least two; None is noise of the size that the model was made for. target, inputs: as
        for `attribute`.
        """
        images = self._noise() if x is None else x
        question, more = self._question(target, images), self._inputs(inputs, images)
        with frozen(self.model.module):
            model, own, note = self._explaining(images, more)
            findings = preflight(model, own, model.bind_target(question), more)
            return [Finding("note", note), *findings] if note else findings

    def filters(self, layer: str | nn.Module) -> Filters:
        """The kernels of a convolution, or of a patch embedding, (out, in / groups, *kernel); a copy.

        layer: its dotted name, or the module itself.
        """
        return filters(self.model.module, self._known_layer(layer))

    def feature_maps(
        self, x: AnyImages, layer: str | nn.Module | None = None, inputs: Mapping[str, Any] | None = None
    ) -> FeatureMaps:
        """A layer's activations on its grid, channels first, (b, d, *grid); for token models too.

        layer: a dotted name or module; None is the layer that methods read by default. inputs: as for `attribute`.
        """
        return self._inspected(feature_maps, x, layer, inputs)

    def receptive_field(
        self,
        layer: str | nn.Module | None = None,
        x: AnyImages | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> ReceptiveField:
        """How much of the image a unit of a layer sees: what the operations allow, and what the gradient uses.

        layer: as for `feature_maps`. x: images (b, c, *space) over which the gradient is averaged, one at a time; None
        is noise of the size that the model was made for. inputs: as for `attribute`.
        """
        return self._inspected(receptive_field, self._noise(_NOISE_IMAGES) if x is None else x, layer, inputs)

    def attention(self, x: AnyImages, inputs: Mapping[str, Any] | None = None) -> AttentionLayers:
        """The attention weights of every layer, in execution order, and where on the image its queries and keys are.

        Each layer has its `name`, `weights` (b, heads, queries, keys), `of(query)`, where a query looks, and
        `received()`, both (b, heads, *grid). Fused kernels are seen too, windows are put back where they are on the
        image, and `notes` tells what is not shown. inputs: as for `attribute`. Raises UnsupportedModel where there is
        no attention between tokens.
        """
        check_images(x, self.model)
        more = self._inputs(inputs, x)
        with frozen(self.model.module):
            model, own, _ = self._explaining(x, more)
            return model.attention(own)

    def attention_gates(self, x: AnyImages, inputs: Mapping[str, Any] | None = None) -> list[Gate]:
        """The gates of attention modules (SE, CBAM ...) in the order of the forward; an empty list if there are none.

        A gate is what a map is multiplied by, after a sigmoid or the like: over channels (b, c), over space (b, *grid)
        or over both (b, c, *grid). inputs: as for `attribute`.
        """
        check_images(x, self.model)
        more = self._inputs(inputs, x)
        with frozen(self.model.module):
            model, own, _ = self._explaining(x, more)
            return model.attention_gates(own)

    def __repr__(self) -> str:
        return f"Explainer({type(self.model.module).__name__}, spec={self.model.spec})"

    def _inspected(
        self,
        look: Callable[[HookedModel, Tensor, str | None], Seen],
        x: Tensor,
        layer: str | nn.Module | None,
        inputs: Mapping[str, Any] | None = None,
    ) -> Seen:
        check_images(x, self.model)
        more = self._inputs(inputs, x)
        name = None if layer is None else self._known_layer(layer)
        with frozen(self.model.module):
            model, own, _ = self._explaining(x, more)
            return look(model, own, name)

    def _known_layer(self, layer: str | nn.Module) -> str:
        """The dotted name of a layer that the model has."""
        name: str = self._layer_name(layer)
        self.model.layer(name)
        return name

    def _noise(self, images: int = 2) -> Tensor:
        """Images of noise, of the size that the model was made for."""
        if self.model.spec.input_size is None:
            raise InvalidInput("The size of this model's images is not known: pass some, x of shape (b, c, *space).")
        noise = torch.randn(
            images,
            *self.model.spec.input_size,
            generator=torch.Generator().manual_seed(0),
            dtype=torch.float32,
            device="cpu",
        )
        noise = noise.to(next(self.model.module.parameters()))
        return noise if self.model.spec.axes is None else ImageAxes(self.model.spec.axes).restored(noise)

    def _explaining(self, x: Tensor, inputs: Inputs) -> tuple[HookedModel, Images, str | None]:
        """The frozen model, about to explain x; a copy of x, channels first; a note on axes that a forward told."""
        axes = image_axes(x, self.model, inputs)
        own = axes.channels_first(x.detach().clone()).contiguous()  # what one writes into, the other keeps
        model = self.model.bind(own, inputs)
        if axes.is_usual or model.spec.axes is not None:
            return model, own, None
        model.spec = replace(model.spec, axes=axes.letters)
        told = f"the images are read as {axes}, as the first layer with weights takes them; others: ModelSpec(axes=...)"
        return model, own, told

    def _question(self, target: Any, x: Any, method: Method | None = None) -> Target:
        """The target as a Target that fits the images, once both are found in order; NoTarget where none is needed."""
        is_needed = target is not None or method is None or method.needs_target
        question = (
            as_target(target, self.model.spec.labels, is_embedding_model=self.model.spec.is_embedding_model)
            if is_needed
            else NoTarget()
        )
        check_images(x, self.model)
        check_class_count(question, len(x))
        return question

    def _inputs(self, inputs: Mapping[str, Any] | None, x: AnyImages) -> Inputs:
        """What the images go through the model with, checked."""
        return read_inputs(inputs, self.model.module, len(x), self.model.spec.image)

    def _named_layers(self, options: dict[str, Any]) -> dict[str, Any]:
        return {option: self._layer_name(value) for option, value in options.items()}

    def _layer_name(self, value: Any) -> Any:
        """Modules among the options become their dotted names, so that the method's repr tells all."""
        if isinstance(value, list | tuple):
            return tuple(self._layer_name(each) for each in value)
        if not isinstance(value, nn.Module):
            return value
        name = next((name for name, module in self.model.module.named_modules() if module is value), None)
        if not name:
            raise InvalidInput(f"{type(value).__name__}(...) is no layer of this model: give one of its own modules.")
        return name


def _called_as(spec: ModelSpec | None, image: str | None, module: nn.Module) -> ModelSpec:
    """The user's spec, or that of the model's family, with the name of the explained input, which is checked."""
    family = registry.model_spec(module)
    chosen = spec or family
    chosen = replace(chosen, image=image or chosen.image or family.image)
    if chosen.image is not None:
        check_image_name(chosen.image, module)
    return chosen


def _knowing(model: HookedModel, questions: Sequence[Target], methods: Sequence[Method]) -> HookedModel:
    """The model with what all methods read of it, from one forward; where that fails, each method reads for itself."""
    scored = [question for question in questions if not isinstance(question, NoTarget)]
    try:
        return model.with_cache(scored, functools.reduce(Requirements.__or__, (method.requires for method in methods)))
    except Exception:
        return model


def _several(given: Any, what: str) -> list[Any]:
    """A list of at least one; a lone name is no list of names."""
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise InvalidInput(f"{what}={given!r} is no list of {what}: write {what}=[...], with at least one.")
    return list(given)
