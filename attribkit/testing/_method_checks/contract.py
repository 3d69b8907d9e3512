"""Conformance checks for attribution methods: the contract of the call."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.method import Method
from attribkit._core.errors import AttribkitError, InvalidInput, UnsupportedModel, join_names, one_line
from attribkit._explainer import Explainer
from attribkit._targets.logits import Probability
from attribkit._targets.target import NoTarget
from attribkit.registry import SUBSTRATES, options_of
from attribkit.testing._checks import NotApplicable, raise_first_failure, require
from attribkit.testing._examples import example_of, images, tiny_volume_cnn
from attribkit.testing._state import (
    advance_generators,
    memory_growth,
    model_state,
    plugin_checks,
    predicted_classes,
    require_unchanged,
    require_unchanged_on_error,
)

_TOLERANCE = 1e-5  # relative to the largest magnitude of the scores
_DOUBLE_TOLERANCE = 1e-4  # relative to the range of the scores, between float32 and float64

METHOD_CHECKS = plugin_checks("method", example_of)


def check_method(method: Method, model: nn.Module | None = None, x: Tensor | None = None) -> None:
    """Run all conformance checks (METHOD_CHECKS) on a method until one fails.

    Some checks use detectors of their own, whose correct maps are known. Checks that do not apply to the method are
    skipped; `report_conformance` also lists these.

    Args:
        method: An instance of the method.
        model: A classifier of at least three classes that the method can explain; None means a small convolutional
            network or vision transformer.
        x: At least three images for the model, (b, c, *space); None means noise for the small network.

    Raises:
        ConformanceError: If a check fails, with the name of the check, what it observed and expected, and how to fix
            it.

    Example:
        >>> from attribkit.methods import Saliency
        >>> from attribkit.testing import check_method
        >>> check_method(Saliency())
    """
    raise_first_failure(METHOD_CHECKS, method, *_subject(method, model, x))


def _subject(method: Method, model: nn.Module | None, x: Tensor | None) -> tuple[Any, ...]:
    if model is None:
        return () if x is None else (example_of(method)[0], x)
    return model, images() if x is None else x


@METHOD_CHECKS.add
def check_method_images_unchanged(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that the images keep their values and do not require a gradient."""
    copy_of_x = x.clone()
    try:
        Explainer(model).attribute(copy_of_x, method)
    except AttribkitError as error:
        require("modified" not in str(error), str(error), _UNCHANGED_IMAGES, _COPY_IMAGES)
        raise
    require(torch.equal(copy_of_x, x), "the images were changed", _UNCHANGED_IMAGES, _COPY_IMAGES)
    require(
        not copy_of_x.requires_grad and copy_of_x.grad is None,
        "requires_grad was set on the images",
        "no gradient on the images",
        "use model.gradient(x, target), or a detached copy of the images",
    )


_UNCHANGED_IMAGES = "images that keep their values"
_COPY_IMAGES = "modify a copy: x.clone()"


@METHOD_CHECKS.add
def check_method_fits_images(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check the shape, dtype and device of the heatmaps."""
    heatmap = Explainer(model).attribute(x, method).heatmap()
    expected = f"shape {(len(x), *x.shape[2:])}, dtype {x.dtype}, device {x.device}, no graph"
    require(
        heatmap.shape == (len(x), *x.shape[2:])
        and (heatmap.dtype, heatmap.device, heatmap.requires_grad) == (x.dtype, x.device, False),
        f"heatmaps of shape {tuple(heatmap.shape)}, dtype {heatmap.dtype}, device {heatmap.device}, "
        f"requires_grad={heatmap.requires_grad}",
        expected,
        "return scores (b, k, *grid) in the dtype and on the device of x",
    )


@METHOD_CHECKS.add
def check_method_model_unchanged(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that the run leaves the model, the random number generators and global settings unchanged."""
    before = model_state(model)
    Explainer(model).attribute(x, method)
    require_unchanged(before, model, "the method")


@METHOD_CHECKS.add
def check_method_model_unchanged_on_error(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that the model and the generators are unchanged after an error or a KeyboardInterrupt in the forward."""
    explainer = Explainer(model)
    # Controls do not run the model: the error then concerns only how the images are batched.
    require_unchanged_on_error(model, lambda: explainer.attribute(x, method, target=2), must_raise=method.uses_target)


@METHOD_CHECKS.add
def check_method_memory(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that the memory of tensors and NumPy arrays does not grow with every call."""
    explainer = Explainer(model)
    grown = memory_growth(lambda: explainer.attribute(x + 0, method))
    require(
        min(grown) <= 0,
        f"{len(grown)} calls left {join_names(map(str, grown))} bytes of tensors or arrays allocated",
        "no growth from call to call",
        "keep no tensors and arrays in attributes or global variables; model.cached(key, compute) shares values of one "
        "call",
    )


@METHOD_CHECKS.add
def check_method_default_target(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that target=None means the predicted class, or NoTarget() for a method that does not use a target."""
    explainer = Explainer(model)
    attribution = explainer.attribute(x, method)
    if not method.uses_target:
        require(attribution.target == NoTarget(), f"the target {attribution.target}", "NoTarget()", _USES_TARGET)
        other = explainer.attribute(x, method, target=2)
        require_close(attribution, other, "with target=None and with target=2", _USES_TARGET)
        return
    predicted = predicted_classes(model, x)
    require(
        getattr(attribution.target, "index", None) == tuple(predicted),
        f"the target {attribution.target}",
        f"the predicted classes {predicted}",
        "pass `target` to the calls of the model, which resolve it",
    )
    other = explainer.attribute(x, method, target=predicted)
    require_close(attribution, other, "with target=None and with the predicted classes", _PASS_TARGET)


_USES_TARGET = "set `uses_target: ClassVar[bool] = True` if the scores depend on the target"
_PASS_TARGET = "use the argument `target` only, and pass it to every call of the model"


@METHOD_CHECKS.add
def check_method_function_target(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that a function of the outputs is explained as the class score, or the probability, that it returns."""
    require_target(method)
    explainer = Explainer(model)
    as_logit = explainer.attribute(x, method, target=2), explainer.attribute(x, method, target=_logit)
    if _difference(*as_logit) <= _limit(as_logit[0]):
        return
    # a method may explain the probability of a class in place of its logit
    require_close(
        explainer.attribute(x, method, target=Probability(2)),
        explainer.attribute(x, method, target=_probability),
        "with target=Probability(2) and with target=lambda outputs: outputs.softmax(1)[:, 2]",
        "do not read attributes of the target, such as a class index: pass it to the calls of the model",
    )


def _logit(outputs: Tensor) -> Tensor:
    return outputs[:, 2]


def _probability(outputs: Tensor) -> Tensor:
    return outputs.softmax(1)[:, 2]


@METHOD_CHECKS.add
def check_method_target_per_image(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that one target per image gives the same scores as each image by itself."""
    require_target(method)
    explainer, targets = Explainer(model), [i % 3 for i in range(len(x))]
    together = explainer.attribute(x, method, target=targets)
    for i, target in enumerate(targets):
        require_close(
            together[i],
            explainer.attribute(x[i : i + 1], method, target=target),
            f"of image {i} alone and in a batch with one target per image",
            "pass `target` to the calls of the model together with the whole batch; use target.subset(slice) for a "
            "part of the batch",
        )


@METHOD_CHECKS.add
def check_method_repeats(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that two equal calls give equal scores, also if the global random number generators have advanced."""
    explainer, options = Explainer(model), repr(method)
    first = explainer.attribute(x, method)
    advance_generators()
    second = explainer.attribute(x, method)
    require(
        torch.equal(first.scores, second.scores),
        f"the scores of two equal calls differ by {float((first.scores - second.scores).abs().max()):.2g}",
        "equal scores",
        "draw random numbers from torch.Generator().manual_seed(self.seed), with the option `seed: Seed = 0`",
    )
    require(repr(method) == options, f"the call changed {options} to {method!r}", "unchanged options", _NO_STATE)


_NO_STATE = "keep no state in the instance, the class or global variables"


@METHOD_CHECKS.add
def check_method_seed(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that another seed gives other scores, with the options as they are or with noise as the baseline."""
    if "seed" not in options_of(type(method)):
        raise NotApplicable("the method does not have the option `seed`")
    candidates = [method]
    for option in set(SUBSTRATES) & set(options_of(type(method))):
        candidates.append(replace(method, **{option: "noise"}))  # type: ignore[type-var]
    explainer = Explainer(model)
    changed = any(
        not torch.equal(
            explainer.attribute(x, each).scores,
            explainer.attribute(x, replace(each, seed=each.seed + 1)).scores,  # type: ignore[attr-defined,call-arg,type-var]
        )
        for each in candidates
    )
    require(
        changed,
        "the same scores for two seeds",
        "other scores for another seed",
        "seed a generator with self.seed, or remove the option",
    )


@METHOD_CHECKS.add
def check_method_layer_option(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that the option `layer` is read: a layer that does not exist is an error."""
    if "layer" not in options_of(type(method)):
        raise NotApplicable("the method does not have the option `layer`")
    try:
        Explainer(model).attribute(x, replace(method, layer="no.such.layer"))  # type: ignore[call-arg,type-var]
    except AttribkitError:
        return
    require(
        False,
        "scores for layer='no.such.layer', which does not exist",
        "an UnknownName error",
        "pass self.layer to the call of the model that reads the layer",
    )


@METHOD_CHECKS.add
def check_method_batch_equals_single_images(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that the scores of an image do not depend on the other images of the batch, or on earlier calls."""
    explainer = Explainer(model)
    together = explainer.attribute(x, method, target=2)
    for i in range(len(x)):
        alone = explainer.attribute(x[i : i + 1], method, target=2)
        require_close(together[i], alone, f"of image {i} alone and in the batch", _PER_IMAGE)


_PER_IMAGE = "compute statistics for each image, such as scores.flatten(1).amax(1), not for the batch; keep no state"


@METHOD_CHECKS.add
def check_method_batch_size(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that the batch size does not change the scores: 1, 3 with a remainder of 2, and more than the images."""
    five = torch.cat([x, x.flip(0)])[:5]
    whole = Explainer(model).attribute(five, method)
    for size in (1, 3, 32):
        parts = Explainer(model, batch_size=size).attribute(five, method)
        require_close(whole, parts, f"in batches of {size} and in one batch", _PER_IMAGE)


@METHOD_CHECKS.add
def check_method_image_sizes(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that images of another size do not change later results."""
    explainer = Explainer(model)
    first = explainer.attribute(x, method)
    try:
        explainer.attribute(x.repeat_interleave(2, -1), method)
    except Exception as error:
        raise NotApplicable("the model does not accept images of another size") from error
    require_close(first, explainer.attribute(x, method), "before and after images of another size", _NO_STATE)


@METHOD_CHECKS.add
def check_method_volumes(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that volumes get finite scores with three spatial axes, or raise InvalidInput or UnsupportedModel."""
    dimming = torch.linspace(0.5, 1, 6, dtype=torch.float32)[:, None, None]
    volumes = images()[:2, :, None].repeat(1, 1, 6, 1, 1) * dimming
    try:
        scores = Explainer(tiny_volume_cnn()).attribute(volumes, method).scores
    except (UnsupportedModel, InvalidInput) as error:
        raise NotApplicable(f"refused for volumes: {one_line(str(error))}") from error
    require(
        scores.ndim == volumes.ndim and len(scores) == len(volumes),
        f"scores of shape {tuple(scores.shape)} for images of shape {tuple(volumes.shape)}",
        "scores (b, k, *grid) with a side for each spatial axis",
        "reduce over the channels, axis 1, and use x.shape[2:] as the sides; or raise UnsupportedModel if x.ndim != 4",
    )


@METHOD_CHECKS.add
def check_method_comparison(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that a comparison with other methods, which shares their forward, gives the same scores."""
    explainer = Explainer(model)
    (together, _) = explainer.compare(x, [method, "saliency"])
    require_close(
        explainer.attribute(x, method),
        together,
        "alone and in a comparison with another method",
        "list in `requires` exactly the layers and gradients that the method reads for the unperturbed images",
    )


@METHOD_CHECKS.add
def check_method_memory_format(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that images in channels-last memory format give the same scores."""
    if x.ndim != 4:
        raise NotApplicable("the images do not have two spatial axes")
    explainer = Explainer(model)
    require_close(
        explainer.attribute(x, method),
        explainer.attribute(x.contiguous(memory_format=torch.channels_last), method),
        "of contiguous and channels-last images",
        "use reshape, flatten and movedim in place of view and strides",
    )


@METHOD_CHECKS.add
def check_method_double_precision(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that a float64 model gives float64 scores that agree with float32 up to rounding."""
    single, double = _in_two_precisions(method, model, x, torch.float64)
    gap, extent = float((single - double).abs().max()), float(double.max() - double.min())
    require(
        double.dtype == torch.float64 and gap <= _DOUBLE_TOLERANCE * max(extent, 1e-12),
        f"scores of dtype {double.dtype}; float32 and float64 scores differ by {gap:.2g}",
        f"float64 scores that differ by at most {_DOUBLE_TOLERANCE * extent:.2g}",
        "create tensors in the dtype of x (x.new_tensor), and draw random numbers in float32 before converting them",
    )


@METHOD_CHECKS.add
def check_method_half_precision(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that a bfloat16 model gives finite float32 scores that correlate with those of the float32 model.

    The images must change the score of the model by more than the rounding error of bfloat16, 1/256. A method whose
    scores are more sensitive to rounding declares a lower `min_half_precision_correlation`.
    """
    single, half = _in_two_precisions(method, model, x, torch.bfloat16)
    least = method.min_half_precision_correlation
    correlation = 1.0
    if bool((single != single.flatten()[0]).any()):
        correlation = float(torch.corrcoef(torch.stack([single.flatten(), half.flatten().to(single)]))[0, 1])
    require(
        half.dtype == torch.float32 and correlation > least,
        f"scores of dtype {half.dtype}; bfloat16 and float32 scores have a correlation of {correlation:.3f}",
        f"float32 scores with a correlation of more than {least}",
        "compute sums and differences in float32; if rounding changes the scores by design, declare "
        "`min_half_precision_correlation: ClassVar[float] = ...` in the class",
    )


def require_target(method: Method) -> None:
    """Raise NotApplicable for a method that does not use a target."""
    if not method.uses_target:
        raise NotApplicable("the method does not use a target")


def _in_two_precisions(method: Method, model: nn.Module, x: Tensor, other: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the scores of the predicted classes in float32 and in another dtype."""
    single = copy.deepcopy(model).float()
    classes = predicted_classes(single, x.float())
    first = Explainer(single).attribute(x.float(), method, target=classes)
    try:
        return first.scores, Explainer(single.to(other)).attribute(x.to(other), method, target=classes).scores
    except UnsupportedModel as error:
        raise NotApplicable(f"the method refuses the model in {other}: {error}") from error


def require_close(one: Attribution, other: Attribution, what: str, fix: str) -> None:
    """Require that the scores of two attributions are equal up to rounding."""
    if one.scores.shape != other.scores.shape:
        shapes = f"{tuple(one.scores.shape)} and {tuple(other.scores.shape)}"
        require(False, f"the scores {what} have shapes {shapes}", "equal shapes", fix)
    gap, limit = _difference(one, other), _limit(one)
    require(gap <= limit, f"the scores {what} differ by {gap:.2g}", f"a difference of at most {limit:.2g}", fix)


def _difference(one: Attribution, other: Attribution) -> float:
    return float((one.scores - other.scores).abs().max())


def _limit(attribution: Attribution) -> float:
    """Return the largest difference of scores that rounding explains."""
    return float(_TOLERANCE * attribution.scores.abs().max().clamp(min=1e-12))
