"""The main entry point: attributions, metrics, visualizations and inspection of one model."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from attribkit import registry
from attribkit._contracts.attribution import Attribution, Comparison, FailedAttribution
from attribkit._contracts.method import Method
from attribkit._contracts.metric import Metric
from attribkit._contracts.visualization import Visualization
from attribkit._contracts.visualizer import Visualizer
from attribkit._core.axes import ImageAxes
from attribkit._core.errors import InvalidInput, error_context
from attribkit._core.ground_truth import GroundTruth
from attribkit._core.inputs import Inputs, check_image_name, validate_inputs
from attribkit._core.shapes import AnyImages, Images, Masks, PerImage
from attribkit._core.spec import ModelSpec
from attribkit._display.progress import progress_shown, track
from attribkit._display.representations import repr_with_notes
from attribkit._engine.forward import Requirements
from attribkit._engine.model import HookedModel
from attribkit._inspection.feature_maps import FeatureMaps, Filters, feature_maps, filters
from attribkit._inspection.receptive_field import ReceptiveField, receptive_field
from attribkit._runs.attribution import run_attribution
from attribkit._runs.measurement import MetricResult, MetricSession, check_attributions
from attribkit._runs.preflight import Finding, preflight
from attribkit._runs.validation import check_images, image_axes, unwrap_model
from attribkit._runs.visualization import blank_images, run_visualizer
from attribkit._state.hooks import frozen
from attribkit._targets.binary import LabelOfTwo
from attribkit._targets.resolution import as_target
from attribkit._targets.target import NoTarget, Target, check_class_count
from attribkit._tracing.attention import AttentionLayers
from attribkit._tracing.gates import Gate
from attribkit._tracing.layers import Layer

_NOISE_IMAGES = 8  # noise images for the receptive field if the user does not pass images
Inspection = TypeVar("Inspection")


class Explainer:
    """Attributions, metrics and visualizations of one model, which remains unchanged.

    Each call runs the model in evaluation mode. Afterwards, even after an error, it restores the model's training
    flags, hooks, parameters, gradients and buffers, and the global random number generators. Batches that do not fit
    into memory are split.

    Args:
        model: A module that maps images (b, c, *space) to class scores (b, classes), or to any output that a target can
            score. Wrappers of torch.compile and data parallelism are removed. Traced, scripted, exported and quantised
            models are not supported.
        image: Name of the parameter of the model's forward that takes the images. None means the name that the model's
            family uses, such as "pixel_values" for Hugging Face models, or the first parameter.
        spec: Properties of the architecture. None means the spec of the model's family (timm, torchvision, Hugging
            Face, plugins).
        batch_size: Number of images in one forward; "auto" is as many as fit into memory.
        show_progress: Whether calls that take more than two seconds show their progress: as a bar in notebooks and
            terminals, and otherwise as at most one line in 30 seconds on the standard error stream.

    Raises:
        UnsupportedModel: If the model cannot be explained.
        InvalidInput: If an argument is not valid.

    Example:
        >>> explainer = Explainer(timm.create_model("resnet50", pretrained=True))
        >>> attribution = explainer.attribute(x, "gradcam", target=281)
        >>> attribution.heatmap().shape  # (b, h, w)
        >>> explainer.evaluate(attribution, "deletion")  # (b,)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        image: str | None = None,
        spec: ModelSpec | None = None,
        batch_size: int | Literal["auto"] = "auto",
        show_progress: bool = True,
    ) -> None:
        module = unwrap_model(model)
        if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
            raise InvalidInput(f"batch_size must be 'auto' or a positive integer, got {batch_size!r}.")
        if not isinstance(spec, ModelSpec | None):
            raise InvalidInput(f"spec must be a ModelSpec or None, got {spec!r}: write spec=ModelSpec(layer=...).")
        if not isinstance(show_progress, bool):
            raise InvalidInput(f"show_progress must be True or False, got {show_progress!r}.")
        self.show_progress = show_progress
        self.model = HookedModel(
            module, _resolve_spec(spec, image, module), batch_size=None if batch_size == "auto" else batch_size
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
        """Attribute a score of the model to the pixels of the images.

        Args:
            x: Images, (b, c, *space), preprocessed as the model expects and on its device. For a model with another
                order of axes, such as clips (b, t, c, h, w), use that order; the result's `x` and `scores` have it too.
            method: Name, class or instance of a method; see ``attribkit methods``.
            target: What is explained: a class index or label, a `Target`, a function of the model's outputs that
                returns one score for each image, or a list of these with one for each image. None means the predicted
                class, the single output of a binary model, or the norm of the embedding for a model without classes.
                For methods that do not use a target, None gives ``NoTarget()``.
            inputs: Other arguments of the model's forward by name. Tensors have one row for each image, unless they are
                wrapped in `BroadcastInput`.
            **options: Options of the method, if it is not an instance. A layer can be a dotted name or a module.

        Returns:
            The scores, with the resolved target, the method and notes on how to interpret them. Read
            ``attribution.notes``.

        Raises:
            UnknownName: If the method, option, layer, class or label does not exist.
            InvalidInput: If images, target, options or inputs do not fit the model.
            UnsupportedModel: If the method cannot explain this model.
            OutOfMemory: If a single image does not fit into memory.

        Example:
            >>> explainer.attribute(x, "integrated_gradients", target="tabby", steps=100)
            >>> explainer.attribute(x, "gradcam", layer="layer3")
        """
        with error_context("method", method):
            instance = registry.make(method, Method, **self._layer_names(options))
        with error_context("model", self.model.module), error_context("method", method):
            unbound, checked_inputs = self._target(target, x, instance), self._inputs(inputs, x)
            with self._frozen():
                model, images, note = self._bind(x, checked_inputs)
                return run_attribution(instance, model, images, model.bind_target(unbound), note)

    def compare(
        self,
        x: AnyImages,
        methods: Sequence[str | type[Method] | Method],
        *,
        targets: Sequence[Any] = (None,),
        inputs: Mapping[str, Any] | None = None,
        errors: Literal["raise", "note"] = "raise",
    ) -> Comparison:
        """Explain the same images by several methods, for one or more targets.

        Layers and gradients that several methods and targets read are computed in one forward. Each attribution equals
        the one that `attribute` returns.

        Args:
            x: As for `attribute`.
            methods: Names, classes or instances of methods; an instance can have options.
            targets: Targets, each as for `attribute`, such as one class for all images; (None,) is the predicted class.
            inputs: As for `attribute`.
            errors: "raise" the first error of a method, or "note" it in the result's `failures` and continue. Errors in
                the images, targets, inputs or options are always raised.

        Returns:
            A list with an attribution for each target and method, target by target, without those that failed; its
            `rows` also hold the failures.

        Raises:
            AttribkitError: As for `attribute`.

        Example:
            >>> maps = explainer.compare(x, ["gradcam", "saliency"], targets=[281, 282])
            >>> explainer.measure(maps[:2], ["deletion"])
        """
        if errors not in ("raise", "note"):
            raise InvalidInput(f"errors must be 'raise' or 'note', got {errors!r}.")
        instances = [registry.make(method, Method) for method in _check_list(methods, "methods")]
        with error_context("model", self.model.module):
            with_target = next((method for method in instances if method.uses_target), instances[0])
            unbound = [self._target(target, x, with_target) for target in _check_list(targets, "targets")]
            checked_inputs = self._inputs(inputs, x)
            with self._frozen():
                model, images, note = self._bind(x, checked_inputs)
                bound = [model.bind_target(target) for target in unbound]
                with_cache = _with_shared_results(model, bound, instances)

                def attempt(method: Method, user_target: Any, target: Target) -> Attribution | FailedAttribution:
                    used = target if user_target is not None or method.uses_target else NoTarget()
                    try:
                        return run_attribution(method, with_cache.fork(), images, used, note)
                    except Exception as error:
                        if errors == "raise":
                            raise
                        return FailedAttribution(method, used, error)

                pairs = [(method, *pair) for pair in zip(targets, bound, strict=True) for method in instances]
                results = [attempt(*pair) for pair in track(pairs, "maps")]
                return Comparison([results[i : i + len(instances)] for i in range(0, len(results), len(instances))])

    def visualize(
        self,
        unit: Any,
        visualizer: str | type[Visualizer] | Visualizer = "activation_maximization",
        *,
        size: int | tuple[int, ...] | None = None,
        inputs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Visualization:
        """Generate images to which a unit of the model responds.

        Args:
            unit: What is maximised: a class index or label, a list of these with one image for each, a `Target`, a
                function of the model's outputs, or a `Unit` or `Direction` of a layer.
            visualizer: Name, class or instance of a visualizer.
            size: Size of the images, (c, *space), or one side in pixels; None means the size that the model was made
                for.
            inputs: As for `attribute`, with a row for each unit.
            **options: Options of the visualizer, if it is not an instance.

        Returns:
            The images, with the unit's responses at each step and notes.

        Raises:
            UnknownName: If the visualizer, an option, a layer, a class or a label does not exist.
            InvalidInput: If unit, size, options or inputs do not fit the model.

        Example:
            >>> explainer.visualize("tabby").pictures()
            >>> explainer.visualize(Unit("layer3", 5), size=128, steps=256)
        """
        with error_context("visualizer", visualizer):
            instance = registry.make(visualizer, Visualizer, **options)
        with error_context("model", self.model.module), error_context("visualizer", visualizer):
            target = as_target(unit, self.model.spec.labels)
            if target.needs_outputs and not isinstance(target, LabelOfTwo):
                raise InvalidInput(
                    f"unit must be a class or a unit of a layer, got {unit!r}: a predicted class requires an image."
                )
            with self._frozen():
                blank = blank_images(self.model, target.count or 1, size)
                checked_inputs = self._inputs(inputs, blank)
                image_axes(blank, self.model, checked_inputs)  # raises if the first layer does not accept the size
                model = self.model.bind(blank, checked_inputs)
                return run_visualizer(instance, model, blank, model.bind_target(model.resolve(target)))

    def evaluate(
        self,
        attribution: Attribution,
        metric: str | type[Metric] | Metric,
        *,
        mask: Masks | GroundTruth | None = None,
        inputs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> PerImage:
        """Score an attribution of this model by one metric.

        Args:
            attribution: A result of `attribute` for this model.
            metric: Name, class or instance of a metric; see ``attribkit metrics``.
            mask: Annotation for localization metrics: a bool tensor (b, *space), True on the object, or a
                `GroundTruth`.
            inputs: The inputs that were passed to `attribute`.
            **options: Options of the metric, if it is not an instance; also ``preset="..."``.

        Returns:
            One value for each image, (b,); NaN where the metric is not defined.

        Raises:
            UnknownName: If the metric, an option or a preset does not exist.
            InvalidInput: If attribution, mask, options or inputs do not fit together.

        Example:
            >>> explainer.evaluate(attribution, "insertion", preset="rise")
            >>> explainer.evaluate(attribution, "pointing_game", mask=mask)
        """
        with error_context("metric", metric):
            instance = registry.make(metric, Metric, **options)
        return self.measure([attribution], [instance], mask=mask, inputs=inputs)[0].values[0]

    def measure(
        self,
        attributions: Sequence[Attribution],
        metrics: Sequence[str | type[Metric] | Metric],
        *,
        mask: Masks | GroundTruth | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> list[MetricResult]:
        """Score several attributions of the same images and targets by several metrics.

        Forwards that do not depend on the maps are run once for all attributions and metrics.

        Args:
            attributions: m results of `attribute` for this model, for the same b images and the same target.
            metrics: Names, classes or instances of metrics; an instance can have options.
            mask: As for `evaluate`.
            inputs: As for `evaluate`.

        Returns:
            A result for each metric, with `values` (m, b), `details` such as curves, and notes.

        Raises:
            AttribkitError: As for `evaluate`.

        Example:
            >>> deletion, insertion = explainer.measure([a, b], ["deletion", "insertion"])
            >>> deletion.values.mean(1)  # one number for each attribution
        """
        instances = [registry.make(metric, Metric) for metric in _check_list(metrics, "metrics")]
        with error_context("model", self.model.module):
            check_attributions(attributions)
        session = self.metric_session(attributions[0].x, mask=mask, inputs=inputs)
        with progress_shown(self.show_progress):
            return [session(metric, attributions) for metric in track(instances, "metrics")]

    def metric_session(
        self, x: AnyImages, *, mask: Masks | GroundTruth | None = None, inputs: Mapping[str, Any] | None = None
    ) -> MetricSession:
        """Return a callable that scores attributions of x by one metric at a time.

        It shares the model's results among the metrics, as `measure` does, but an error of one metric does not affect
        the others. Do not change the model while the session is used.

        Args:
            x: As for `attribute`.
            mask: As for `evaluate`.
            inputs: As for `evaluate`.

        Returns:
            A callable that takes a metric instance and a list of attributions, and returns a `MetricResult`.

        Example:
            >>> session = explainer.metric_session(x)
            >>> session(Deletion(), [a, b]).values
        """
        with error_context("model", self.model.module), self._frozen():
            check_images(x, self.model)
            model, images, _ = self._bind(x, self._inputs(inputs, x))
        return MetricSession(model, images, mask, self.show_progress)

    def layers(
        self, x: AnyImages | None = None, target: Any = None, inputs: Mapping[str, Any] | None = None
    ) -> list[Layer]:
        """List the layers whose outputs are maps of the image, in execution order, and which one is the default.

        Args:
            x: Images of the size of interest; None means noise of the size that the model was made for.
            target: As for `attribute`. The default layer can depend on it, for example for a unit of a layer.
            inputs: As for `attribute`.

        Returns:
            The layers with name, grid and, for the default layer, the reason for the choice.

        Raises:
            InvalidInput: If `x` is None and the size of the model's images is not known.
        """
        user_images = self._noise() if x is None else x
        unbound, checked_inputs = self._target(target, user_images), self._inputs(inputs, user_images)
        with self._frozen():
            model, images, _ = self._bind(user_images, checked_inputs)
            return model.layers(images, model.bind_target(unbound))

    def check(
        self, x: AnyImages | None = None, target: Any = None, inputs: Mapping[str, Any] | None = None
    ) -> list[Finding]:
        """Check the model for properties that make its attributions wrong or unreliable.

        It tests for randomness in evaluation mode, scores that depend on the rest of the batch, a gradient that is not
        the derivative of the score, gradients that vanish, and a default layer that the gradient does not reach. Notes
        of later results for images of this size include the first three. Cost: ten forwards of the batch, and up to
        eighty of single images.

        Args:
            x: A few typical images, at least two; None means noise of the size that the model was made for.
            target: As for `attribute`.
            inputs: As for `attribute`.

        Returns:
            The findings; an empty list if nothing was found.
        """
        user_images = self._noise() if x is None else x
        unbound, checked_inputs = self._target(target, user_images), self._inputs(inputs, user_images)
        with self._frozen():
            model, images, note = self._bind(user_images, checked_inputs)
            findings = preflight(model, images, model.bind_target(unbound), checked_inputs)
            return [Finding("note", note), *findings] if note else findings

    def filters(self, layer: str | nn.Module) -> Filters:
        """Return a copy of the kernels of a convolution or patch embedding.

        Args:
            layer: Dotted name of the layer, or the module.

        Returns:
            The kernels, (out, in / groups, *kernel).

        Raises:
            UnknownName: If the model does not have the layer.
            InvalidInput: If the layer does not contain exactly one convolution.
        """
        return filters(self.model.module, self._existing_layer(layer))

    def feature_maps(
        self, x: AnyImages, layer: str | nn.Module | None = None, inputs: Mapping[str, Any] | None = None
    ) -> FeatureMaps:
        """Return the activation of a layer on its grid, including layers of tokens.

        Args:
            x: As for `attribute`.
            layer: Dotted name of the layer, or the module; None means the default layer of the methods.
            inputs: As for `attribute`.

        Returns:
            The activation, (b, d, *grid), with notes.
        """
        return self._inspect(feature_maps, x, layer, inputs)

    def receptive_field(
        self,
        layer: str | nn.Module | None = None,
        x: AnyImages | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> ReceptiveField:
        """Return the receptive field of a layer's units: theoretical, from the operations, and effective, by gradients.

        Args:
            layer: As for `feature_maps`.
            x: Images, (b, c, *space), over which the gradient is averaged, one at a time; None means noise of the size
                that the model was made for.
            inputs: As for `attribute`.

        Returns:
            The receptive field.

        Reference:
            Luo et al., NeurIPS 2016 (effective receptive field).
        """
        return self._inspect(receptive_field, self._noise(_NOISE_IMAGES) if x is None else x, layer, inputs)

    def attention(self, x: AnyImages, inputs: Mapping[str, Any] | None = None) -> AttentionLayers:
        """Return the attention weights of all layers, with the image coordinates of their queries and keys.

        Fused kernels are supported, and windows are stitched together at their coordinates in the image.

        Args:
            x: As for `attribute`.
            inputs: As for `attribute`.

        Returns:
            The layers in execution order. Each has its `name`, `weights` (b, heads, queries, keys), the attention of
            one query and the attention that each key receives, both (b, heads, *grid). `notes` lists what is left out.

        Raises:
            UnsupportedModel: If the model does not compute attention between tokens.
        """
        check_images(x, self.model)
        checked_inputs = self._inputs(inputs, x)
        with self._frozen():
            model, images, _ = self._bind(x, checked_inputs)
            return model.attention(images)

    def attention_gates(self, x: AnyImages, inputs: Mapping[str, Any] | None = None) -> list[Gate]:
        """Return the gates of attention modules such as SE and CBAM.

        A gate is the factor by which a map is multiplied, after a sigmoid or a similar function.

        Args:
            x: As for `attribute`.
            inputs: As for `attribute`.

        Returns:
            The gates in execution order, over channels (b, c), over space (b, *grid) or over both (b, c, *grid); an
            empty list if there are none.
        """
        check_images(x, self.model)
        checked_inputs = self._inputs(inputs, x)
        with self._frozen():
            model, images, _ = self._bind(x, checked_inputs)
            return model.attention_gates(images)

    def __repr__(self) -> str:
        text = f"Explainer({type(self.model.module).__name__}, spec={self.model.spec!r})"
        return repr_with_notes(text, self.model.findings() or ["layer and outputs: determined by the first call"])

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """Freeze the model, with progress as the user chose."""
        with progress_shown(self.show_progress), frozen(self.model.module):
            yield

    def _inspect(
        self,
        inspect: Callable[[HookedModel, Tensor, str | None], Inspection],
        x: Tensor,
        layer: str | nn.Module | None,
        inputs: Mapping[str, Any] | None = None,
    ) -> Inspection:
        check_images(x, self.model)
        checked_inputs = self._inputs(inputs, x)
        name = None if layer is None else self._existing_layer(layer)
        with self._frozen():
            model, images, _ = self._bind(x, checked_inputs)
            return inspect(model, images, name)

    def _existing_layer(self, layer: str | nn.Module) -> str:
        """Return the dotted name of a layer; raise UnknownName if the model does not have it."""
        name: str = self._layer_name(layer)
        self.model.layer(name)
        return name

    def _noise(self, images: int = 2) -> Tensor:
        """Return noise images of the size that the model was made for."""
        if self.model.spec.input_size is None:
            raise InvalidInput("The image size of this model is unknown: pass images as x, of shape (b, c, *space).")
        noise = torch.randn(
            images,
            *self.model.spec.input_size,
            generator=torch.Generator().manual_seed(0),
            dtype=torch.float32,
            device="cpu",
        )
        noise = noise.to(next(self.model.module.parameters()))
        return noise if self.model.spec.axes is None else ImageAxes(self.model.spec.axes).from_channels_first(noise)

    def _bind(self, x: Tensor, inputs: Inputs) -> tuple[HookedModel, Images, str | None]:
        """Return the model bound to x, a channels-first copy of x, and a note if the axes were inferred by a forward.

        The model must be frozen.
        """
        axes = image_axes(x, self.model, inputs)
        images = axes.channels_first(x.detach().clone()).contiguous()  # protects the user's tensor from writes
        model = self.model.bind(images, inputs)
        if axes.is_channels_first or model.spec.axes is not None:
            return model, images, None
        model.spec = replace(model.spec, axes=axes.letters)
        note = (
            f"the axis order of the images was inferred from the first layer with weights: {axes}; if it is "
            "different, pass ModelSpec(axes=...)"
        )
        return model, images, note

    def _target(self, target: Any, x: Any, method: Method | None = None) -> Target:
        """Check target and images, and return the target as a Target; NoTarget where the method does not need one."""
        is_needed = target is not None or method is None or method.uses_target
        checked = (
            as_target(target, self.model.spec.labels, is_embedding_model=self.model.spec.is_embedding_model)
            if is_needed
            else NoTarget()
        )
        check_images(x, self.model)
        check_class_count(checked, len(x))
        return checked

    def _inputs(self, inputs: Mapping[str, Any] | None, x: AnyImages) -> Inputs:
        """Check the other inputs of the model."""
        return validate_inputs(inputs, self.model.module, len(x), self.model.spec.image)

    def _layer_names(self, options: dict[str, Any]) -> dict[str, Any]:
        return {option: self._layer_name(value) for option, value in options.items()}

    def _layer_name(self, value: Any) -> Any:
        """Replace modules among the options by their dotted names, so that the method's repr is complete."""
        if isinstance(value, list | tuple):
            return tuple(self._layer_name(each) for each in value)
        if not isinstance(value, nn.Module):
            return value
        name = next((name for name, module in self.model.module.named_modules() if module is value), None)
        if not name:
            raise InvalidInput(
                f"{type(value).__name__}(...) is not a layer of this model: pass one of the model's submodules, or "
                "its dotted name."
            )
        return name


def _resolve_spec(spec: ModelSpec | None, image: str | None, module: nn.Module) -> ModelSpec:
    """Return the user's spec, or that of the model's family, with the checked name of the explained input."""
    family = registry.model_spec(module)
    chosen = spec or family
    chosen = replace(chosen, image=image or chosen.image or family.image)
    if chosen.image is not None:
        check_image_name(chosen.image, module)
    return chosen


def _with_shared_results(model: HookedModel, targets: Sequence[Target], methods: Sequence[Method]) -> HookedModel:
    """Return the model with the requirements of all methods computed in one forward; unchanged if that fails."""
    scored = [target for target in targets if not isinstance(target, NoTarget)]
    try:
        return model.with_cache(scored, functools.reduce(Requirements.__or__, (method.requires for method in methods)))
    except Exception:
        return model


def _check_list(values: Any, name: str) -> list[Any]:
    """Return a list; raise InvalidInput for an empty list, a string or another object."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise InvalidInput(f"{name} must be a non-empty list, got {values!r}: write {name}=[...].")
    return list(values)
