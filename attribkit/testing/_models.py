"""Conformance checks for model specifications and for targets."""

import copy
import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attribkit._coordinates.verification import verify_layout
from attribkit._core.annotations import describe
from attribkit._core.axes import ImageAxes
from attribkit._core.errors import InvalidInput, UnsupportedModel
from attribkit._core.nested import tensors_in
from attribkit._core.spec import ModelSpec, output_kind_by_values
from attribkit._explainer import Explainer
from attribkit._state.hooks import frozen
from attribkit._targets.outputs import class_scores
from attribkit._targets.target import Target
from attribkit._tracing.first_layer import first_layer
from attribkit._tracing.layers import Layer
from attribkit.testing._checks import CheckList, NotApplicable, raise_first_failure, require
from attribkit.testing._examples import images, tiny_cnn
from attribkit.testing._state import advance_generators

_TOLERANCE = 1e-4  # of scores, relative to the largest magnitude

MODEL_SPEC_CHECKS = CheckList("model_spec", lambda _spec: (tiny_cnn(), images()))
TARGET_CHECKS = CheckList("target", lambda _target: (tiny_cnn(), images()))


def check_model_spec(spec: ModelSpec, model: nn.Module, x: Tensor) -> None:
    """Run all conformance checks (MODEL_SPEC_CHECKS) on the specification of a model until one fails.

    Args:
        spec: The specification, as returned by the hook `attribkit_model_spec` or passed to `Explainer`.
        model: The model that it describes.
        x: Images for the model, in the axes of its forward, at least one.

    Raises:
        ConformanceError: If a check fails, with the name of the check, what it observed and expected, and how to fix
            it.
    """
    raise_first_failure(MODEL_SPEC_CHECKS, spec, model, x)


@MODEL_SPEC_CHECKS.add
def check_model_spec_image(spec: ModelSpec, model: nn.Module, x: Tensor) -> None:
    """Check that the forward has the parameter `image`."""
    parameters = list(inspect.signature(model.forward).parameters)
    require(
        spec.image in (None, *parameters),
        f"image={spec.image!r}; the parameters of the forward are {parameters}",
        "the parameter that receives the images, or None for the first",
        "change `image`",
    )


@MODEL_SPEC_CHECKS.add
def check_model_spec_outputs(spec: ModelSpec, model: nn.Module, x: Tensor) -> None:
    """Check that the values of the class scores are of the declared kind."""
    scores = _class_scores(model, x, spec)
    if spec.outputs is None or scores is None:
        raise NotApplicable("`outputs` is not declared, or the model does not return class scores")
    kind, sums_to_one = output_kind_by_values(scores)
    is_possible = spec.outputs == kind or (spec.outputs == "logits" and not sums_to_one)
    require(
        is_possible,
        f"scores from {float(scores.min()):.3g} to {float(scores.max()):.3g}"
        + (" that are normalised over the classes" if sums_to_one else ""),
        f"values that can be {spec.outputs}",
        f"declare outputs={kind!r}, or None, which detects the kind",
    )


@MODEL_SPEC_CHECKS.add
def check_model_spec_embedding(spec: ModelSpec, model: nn.Module, x: Tensor) -> None:
    """Check that a model with class labels is not declared as an embedding model."""
    require(
        not (spec.is_embedding_model and (spec.labels is not None or spec.outputs is not None)),
        "is_embedding_model=True, with labels or a kind of class scores",
        "a classifier or an embedding model",
        "remove `is_embedding_model`, or `labels` and `outputs`",
    )


@MODEL_SPEC_CHECKS.add
def check_model_spec_labels(spec: ModelSpec, model: nn.Module, x: Tensor) -> None:
    """Check that there is one label, a string, for each class."""
    labels = spec.labels() if callable(spec.labels) else spec.labels
    scores = _class_scores(model, x, spec)
    if labels is None or scores is None:
        raise NotApplicable("`labels` is not declared, or the model does not return class scores")
    require(
        not isinstance(labels, str) and len(labels) == scores.shape[1],
        f"{len(labels)} labels for {scores.shape[1]} classes",
        "a sequence of one label for each class, in order",
        "change `labels`",
    )
    wrong = next((label for label in labels if not isinstance(label, str) or not label.strip()), None)
    require(wrong is None, f"the label {wrong!r}", "labels that are non-empty strings", "change `labels`")


@MODEL_SPEC_CHECKS.add
def check_model_spec_axes(spec: ModelSpec, model: nn.Module, x: Tensor) -> None:
    """Check that `axes` names each axis of the images, as the model reads them."""
    if spec.axes is None:
        raise NotApplicable("`axes` is not declared")
    require(
        len(spec.axes) == x.ndim,
        f"axes={spec.axes!r} for images of shape {tuple(x.shape)}",
        "one letter for each axis",
        "change `axes`",
    )
    with frozen(model):
        first = first_layer(lambda images: _forward(model, images, spec), x[:2])
    mixed = first.mixed() if first else []
    require(
        len(mixed) != 1 or mixed[0] == ImageAxes(spec.axes).channels,
        f"axes={spec.axes!r}; the first layer of the model mixes axis {mixed} of the images",
        "the letter c for the axis that the first layer mixes",
        "change `axes`",
    )


@MODEL_SPEC_CHECKS.add
def check_model_spec_preprocessing(spec: ModelSpec, model: nn.Module, x: Tensor) -> None:
    """Check that the model accepts images of `input_size`, and that `mean` and `std` have a value per channel."""
    channels = x.shape[1] if spec.axes is None else x.shape[spec.axes.index("c")]
    if spec.input_size is not None:
        require(
            len(spec.input_size) == x.ndim - 1 and spec.input_size[0] == channels,
            f"input_size={spec.input_size} for images of {channels} channels and shape {tuple(x.shape)}",
            "the channels and the sides of one image, (c, *space)",
            "change `input_size`",
        )
        blank = torch.zeros(1, *spec.input_size, dtype=x.dtype, device=x.device)
        with frozen(model):
            _forward(model, spec.to_model_axes(blank), spec)
    for name, values in {"mean": spec.mean, "std": spec.std}.items():
        require(
            values is None or (len(values) == channels and all(_in_pixel_range(name, value) for value in values)),
            f"{name}={values} for images of {channels} channels",
            "one value per channel, for pixels between 0 and 1: means from 0 to 1, standard deviations above 0 to 1",
            f"change `{name}`; divide values for pixels between 0 and 255 by 255",
        )


def _in_pixel_range(name: str, value: float) -> bool:
    return (value > 0 if name == "std" else value >= 0) and value <= 1


@MODEL_SPEC_CHECKS.add
def check_model_spec_layer(spec: ModelSpec, model: nn.Module, x: Tensor) -> None:
    """Check that the default layer is a map of the image, and that its cells are where their derivatives are."""
    names = [layer.name for layer in _layers(spec, model, x)]
    require(
        spec.layer is None or spec.layer in names,
        f"layer={spec.layer!r} is not among the layers that are maps of the image",
        f"one of {names}",
        "change `layer`; Explainer.layers() lists the layers",
    )
    explainer = Explainer(model, spec=spec)
    with torch.enable_grad():
        bound, channels_first, _ = explainer._bind(x[:1], explainer._inputs(None, x[:1]))
        image = channels_first.detach().requires_grad_()
        name, output, layout = bound.output(image, spec.layer)
        verified = verify_layout(output, image, layout)
    require(
        verified is not None,
        f"the cells of layer {name!r}, read as {layout.kind}, do not depend on the pixels at their positions",
        "cells whose derivatives with respect to the image are centred at their positions",
        "change `prefix_tokens`, `patch` or `channels_last`, or choose another layer",
    )


@MODEL_SPEC_CHECKS.add
def check_model_spec_layouts(spec: ModelSpec, model: nn.Module, x: Tensor) -> None:
    """Check that a layer has the declared prefix tokens, patch size or channels on the last axis."""
    layers = _layers(spec, model, x)
    tokens = [layer.layout for layer in layers if layer.layout.kind == "tokens"]
    sides = tuple(ImageAxes(spec.axes or ImageAxes.of(x.ndim).letters).channels_first(x).shape[2:])
    grids = {layout.grid for layout in tokens}
    observed: dict[str, tuple[object, set[Any]]] = {
        "prefix_tokens": (spec.prefix_tokens, {layout.prefix for layout in tokens}),
        "patch": (spec.patch, {tuple(s // g for s, g in zip(sides, grid, strict=True)) for grid in grids}),
        "channels_last": (spec.channels_last or None, {layer.layout.kind == "channels last" for layer in layers}),
    }
    for name, (declared, values) in observed.items():
        require(
            declared is None or declared in values,
            f"{name}={declared}; the layers have {sorted(values) or 'no tokens'}",
            "the value of at least one layer",
            f"change `{name}`, or remove it: it is detected from a forward pass",
        )


def _layers(spec: ModelSpec, model: nn.Module, x: Tensor) -> list[Layer]:
    """Return the layers that are maps of the image; raises NotApplicable if the head is untrained."""
    try:
        return Explainer(model, spec=spec).layers(x)
    except UnsupportedModel as error:
        if spec.layer is None:
            raise NotApplicable(str(error)) from error
        raise


def _class_scores(model: nn.Module, x: Tensor, spec: ModelSpec) -> Tensor | None:
    """Return the class scores, (b, classes), or None if the model does not return such."""
    with frozen(model):
        outputs = _forward(model, x, spec)
    try:
        scores = class_scores(outputs, len(x)).detach()
    except InvalidInput:
        return None
    return scores if scores.ndim == 2 else None


def _forward(model: nn.Module, images: Tensor, spec: ModelSpec) -> Any:
    """Run a frozen model on images in the order of axes of its forward."""
    arguments, keywords = replace(spec, axes=None).arguments(images, {})
    return model(*arguments, **keywords)


def check_target(target: Target, model: nn.Module | None = None, x: Tensor | None = None) -> None:
    """Run all conformance checks (TARGET_CHECKS) on a target until one fails.

    Args:
        target: An instance of the target.
        model: A model whose outputs the target scores; None means a small convolutional network of five classes.
        x: At least two images for the model, (b, c, *space); None means noise for the small network.

    Raises:
        ConformanceError: If a check fails, with the name of the check, what it observed and expected, and how to fix
            it.
    """
    raise_first_failure(TARGET_CHECKS, target, model or tiny_cnn(), images() if x is None else x)


@TARGET_CHECKS.add
def check_target_one_score_per_image(target: Target, model: nn.Module, x: Tensor) -> None:
    """Check that the scores are finite floating-point numbers, (b,)."""
    scores = _scores(target, model, x)
    is_finite = isinstance(scores, Tensor) and bool(scores.isfinite().all())
    require(
        is_finite and scores.shape == (len(x),) and scores.is_floating_point(),
        f"{describe(scores)} of {'finite' if is_finite else 'non-finite'} values, {getattr(scores, 'dtype', '')}, for "
        f"{len(x)} images",
        f"finite scores of shape ({len(x)},) and a floating-point dtype",
        "reduce over all axes but the first: outputs.flatten(1).sum(1)",
    )


@TARGET_CHECKS.add
def check_target_repeats(target: Target, model: nn.Module, x: Tensor) -> None:
    """Check that the same images have the same scores at each call."""
    first = _scores(target, model, x)
    advance_generators()
    second = _scores(target, model, x)
    require(
        first.equal(second),
        f"the scores of two calls differ by {float((first - second).abs().max()):.2g}",
        "equal scores",
        "use no random numbers, and change no attributes in a call",
    )


@TARGET_CHECKS.add
def check_target_outputs_unchanged(target: Target, model: nn.Module, x: Tensor) -> None:
    """Check that the target does not write into the outputs of the model."""
    before: list[Tensor] = []
    after: list[Tensor] = []

    def keep(_module: nn.Module, _arguments: Any, outputs: Any) -> None:
        before[:] = [tensor.detach().clone() for tensor in tensors_in(outputs)]
        after[:] = [tensor.detach() for tensor in tensors_in(outputs)]

    handle = model.register_forward_hook(keep)
    try:
        _scores(target, model, x)
    finally:
        handle.remove()
    require(
        all(torch.equal(old.nan_to_num(), new.nan_to_num()) for old, new in zip(before, after, strict=True)),
        "the outputs of the model differ after the call of the target",
        "unchanged outputs",
        "write into a copy, outputs.clone(), or use operations that return a new tensor",
    )


@TARGET_CHECKS.add
def check_target_images_are_independent(target: Target, model: nn.Module, x: Tensor) -> None:
    """Check that the score of an image does not depend on the other images of the batch."""
    together = _scores(target, model, x)
    limit = _TOLERANCE * float(together.abs().max().clamp(min=1e-12))
    for i in range(len(x)):
        alone = _scores(target.subset(slice(i, i + 1)), model, x[i : i + 1])
        gap = float((together[i] - alone[0]).abs())
        require(
            gap <= limit,
            f"the scores of image {i} alone and in the batch differ by {gap:.2g}",
            f"a difference of at most {limit:.2g}",
            "compute each score from the outputs of its image; return the part for a slice of images from `subset`",
        )


@TARGET_CHECKS.add
def check_target_differentiable(target: Target, model: nn.Module, x: Tensor) -> None:
    """Check that the score has a gradient with respect to each image."""
    gradient = Explainer(model).attribute(x, "saliency", target=target).scores
    require(
        bool(gradient.flatten(1).abs().amax(1).gt(0).all()),
        "the gradient of the score with respect to an image is zero",
        "a score that depends on the image",
        "compute the score with differentiable operations: no argmax, detach() or NumPy",
    )


@TARGET_CHECKS.add
def check_target_count(target: Target, model: nn.Module, x: Tensor) -> None:
    """Check that `count` is None or the number of images, also of the results of `subset` and `tile`."""
    tiled = target.tile(2)
    counts = {
        "count": (target.count, len(x)),
        "subset(slice(0, 1)).count": (target.subset(slice(0, 1)).count, 1),
        "tile(2).count": (None if tiled is None else tiled.count, 2 * len(x)),
    }
    for name, (count, expected) in counts.items():
        require(
            count in (None, expected),
            f"{name} is {count} for {len(x)} images",
            f"{expected}, or None for any number of images",
            "return from `subset` and `tile` a target with one value per image",
        )


@TARGET_CHECKS.add
def check_target_tile(target: Target, model: nn.Module, x: Tensor) -> None:
    """Check that `tile` returns the target for the images repeated as a whole, or None."""
    tiled = target.tile(2)
    if tiled is None:
        raise NotApplicable("`tile` returns None: perturbed versions of the images run one by one")
    once, twice = _scores(target, model, x), _scores(tiled, model, torch.cat([x, x]))
    gap = float((torch.cat([once, once]) - twice).abs().max())
    limit = _TOLERANCE * float(once.abs().max().clamp(min=1e-12))
    require(
        gap <= limit,
        f"the scores of the images repeated twice differ by {gap:.2g}",
        f"a difference of at most {limit:.2g}",
        "repeat the values per image as torch.cat([values] * times), or return None",
    )


@TARGET_CHECKS.add
def check_target_equality(target: Target, model: nn.Module, x: Tensor) -> None:
    """Check that a copy with the same options is equal, and that the key for the choice of a layer has a hash."""
    copied = copy.copy(target)
    if hasattr(target, "__dataclass_fields__"):
        require(
            bool(copied == target),
            "a copy with the same options is not equal to the target",
            "equality by options",
            "use @dataclass(frozen=True), with options that are compared by their values",
        )
    hash(target.layer_key)


def _scores(target: Target, model: nn.Module, x: Tensor) -> Tensor:
    """Return the scores that the model interface computes for a target."""
    explainer = Explainer(model)
    bound, channels_first, _ = explainer._bind(x, explainer._inputs(None, x))
    with frozen(model):
        return bound.score(channels_first, bound.bind_target(target))
