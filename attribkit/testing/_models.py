"""Conformance checks for model specifications and for targets."""

import inspect

import torch
from torch import Tensor, nn

from attribkit._coordinates.verification import verify_layout
from attribkit._core.spec import ModelSpec
from attribkit._explainer import Explainer
from attribkit._state.hooks import frozen
from attribkit._targets.target import Target
from attribkit.testing._checks import CheckList, NotApplicable, raise_first_failure, require
from attribkit.testing._examples import images, tiny_cnn
from attribkit.testing._state import outputs_of

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
    """Check that the outputs are in the range of the declared kind."""
    outputs = outputs_of(model, x)
    if spec.outputs is None or not isinstance(outputs, Tensor):
        raise NotApplicable("`outputs` is not declared, or the model does not return a tensor")
    low, high = float(outputs.min()), float(outputs.max())
    ranges = {"probabilities": (0, 1), "log_probabilities": (-torch.inf, 0), "logits": (-torch.inf, torch.inf)}
    least, most = ranges[spec.outputs]
    require(
        least - 1e-4 <= low and high <= most + 1e-4,
        f"outputs from {low:.3g} to {high:.3g}, declared as {spec.outputs}",
        f"values from {least} to {most}",
        "change `outputs`",
    )


@MODEL_SPEC_CHECKS.add
def check_model_spec_labels(spec: ModelSpec, model: nn.Module, x: Tensor) -> None:
    """Check that there is one label for each class."""
    labels = spec.labels() if callable(spec.labels) else spec.labels
    outputs = outputs_of(model, x)
    if labels is None or not isinstance(outputs, Tensor):
        raise NotApplicable("`labels` is not declared, or the model does not return a tensor")
    require(
        len(labels) == outputs.shape[1],
        f"{len(labels)} labels for {outputs.shape[1]} classes",
        "one label for each class, in order",
        "change `labels`",
    )


@MODEL_SPEC_CHECKS.add
def check_model_spec_preprocessing(spec: ModelSpec, model: nn.Module, x: Tensor) -> None:
    """Check that the model accepts images of `input_size`, and that `mean` and `std` have a value per channel."""
    if spec.input_size is not None:
        outputs_of(model, spec.to_model_axes(torch.zeros(1, *spec.input_size, dtype=x.dtype, device=x.device)))
    channels = x.shape[1] if spec.axes is None else x.shape[spec.axes.index("c")]
    for name, values in {"mean": spec.mean, "std": spec.std}.items():
        require(
            values is None or (len(values) == channels and (name == "mean" or min(values) > 0)),
            f"{name}={values} for images of {channels} channels",
            "one value per channel; positive standard deviations",
            f"change `{name}`",
        )


@MODEL_SPEC_CHECKS.add
def check_model_spec_layer(spec: ModelSpec, model: nn.Module, x: Tensor) -> None:
    """Check that the default layer is a map of the image, and that its cells are where their derivatives are."""
    explainer = Explainer(model, spec=spec)
    layers = {layer.name: layer for layer in explainer.layers(x)}
    require(
        spec.layer is None or spec.layer in layers,
        f"layer={spec.layer!r} is not among the layers that are maps of the image",
        f"one of {list(layers)}",
        "change `layer`; Explainer.layers() lists the layers",
    )
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
    """Check that the scores are finite, (b,)."""
    scores = _scores(target, model, x)
    require(
        isinstance(scores, Tensor) and scores.shape == (len(x),) and bool(scores.isfinite().all()),
        f"{tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__} for {len(x)} images",
        f"finite scores of shape ({len(x)},)",
        "reduce over all axes but the first: outputs.flatten(1).sum(1)",
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
    """Check that the score has a gradient with respect to the images, and depends on each image's own pixels only."""
    gradient = Explainer(model).attribute(x, "saliency", target=target).scores
    require(
        bool(gradient.flatten(1).abs().amax(1).gt(0).all()),
        "the gradient of the score with respect to an image is zero",
        "a score that depends on the image",
        "compute the score with differentiable operations: no argmax, detach() or NumPy",
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
    """Check that the target equals itself, and has a hash if it defines a key for the choice of a layer."""
    require(target == target, "the target does not equal itself", "equality", "use @dataclass(frozen=True)")
    if target.layer_key is not None:
        hash(target.layer_key)


def _scores(target: Target, model: nn.Module, x: Tensor) -> Tensor:
    """Return the scores that the model interface computes for a target."""
    explainer = Explainer(model)
    bound, channels_first, _ = explainer._bind(x, explainer._inputs(None, x))
    with frozen(model):
        return bound.score(channels_first, bound.bind_target(target))
