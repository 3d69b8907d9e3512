"""Checks that an attribution method must pass."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attribkit.contracts.attribution import Attribution
from attribkit.contracts.method import Method
from attribkit.explainer import Explainer
from attribkit.targets.target import NoTarget
from attribkit.testing.state import (
    assert_described,
    assert_refuses_wrong_options,
    assert_survives,
    changes,
    images,
    model_state,
    predicted_classes,
    tiny_cnn,
)

_TOLERANCE = 1e-5  # of the largest magnitude of the scores
_BETWEEN_PRECISIONS = 1e-4  # of the scores' range, between float32 and double
_HALF_CORRELATION = 0.99  # between the scores of a bfloat16 model and those of the same in float32


def check_method(method: Method, model: nn.Module | None = None, x: Tensor | None = None) -> None:
    """Run every check of METHOD_CHECKS; the first that fails raises an AssertionError that says what is wrong.

    model, x: a model that the method can explain and at least three images for it; None is a small CNN.
    """
    for check in METHOD_CHECKS:
        check(method, model or tiny_cnn(), images() if x is None else x)


def check_describes_itself(method: Method, model: nn.Module, x: Tensor) -> None:
    """A frozen, hashable dataclass with a name, a source and a summary."""
    assert_described(method)


def check_refuses_wrong_options(method: Method, model: nn.Module, x: Tensor) -> None:
    """Each option refuses what is of none of its types."""
    assert_refuses_wrong_options(method)


def check_leaves_model_alone(method: Method, model: nn.Module, x: Tensor) -> None:
    """Nothing of the model, nor of the random number generators, is different afterwards."""
    before = model_state(model)
    Explainer(model).attribute(x, method)
    assert not changes(before, model_state(model)), f"changed: {changes(before, model_state(model))}"


def check_leaves_model_alone_on_error(method: Method, model: nn.Module, x: Tensor) -> None:
    """Nor when the forward raises in its middle, or the user interrupts it."""
    for error in (RuntimeError("raised on purpose"), KeyboardInterrupt()):
        explainer = Explainer(model)
        assert_survives(error, model, lambda: explainer.attribute(x, method))  # noqa: B023  # called at once


def check_leaves_images_alone(method: Method, model: nn.Module, x: Tensor) -> None:
    """The images have the same values afterwards and want no gradient."""
    mine = x.clone()
    Explainer(model).attribute(mine, method)
    assert torch.equal(mine, x), "changed the images"
    assert not mine.requires_grad, "left requires_grad on the images"
    assert mine.grad is None, "left a gradient on the images"


def check_heatmap_fits_images(method: Method, model: nn.Module, x: Tensor) -> None:
    """Finite scores, a number per pixel, on the device and in the precision of the images."""
    attribution = Explainer(model).attribute(x, method)
    heatmap = attribution.heatmap()
    assert heatmap.shape == (len(x), *x.shape[2:]), f"heatmaps of shape {tuple(heatmap.shape)}"
    assert heatmap.dtype == x.dtype, f"heatmaps of {heatmap.dtype}"
    assert heatmap.device == x.device, f"heatmaps on {heatmap.device}"
    assert not heatmap.requires_grad, "heatmaps that want gradients"


def check_target_is_the_prediction(method: Method, model: nn.Module, x: Tensor) -> None:
    """No target means the class that the model scores highest; a method that needs none leaves it out."""
    explainer = Explainer(model)
    if not method.needs_target:
        attribution = explainer.attribute(x, method)
        assert attribution.target == NoTarget(), f"recorded {attribution.target}, and needs no target"
        _assert_close(attribution, explainer.attribute(x, method, target=2), "no target and a class")
        return
    predicted = predicted_classes(model, x)
    attribution = explainer.attribute(x, method)
    assert attribution.target.index == tuple(predicted), f"explained {attribution.target}, predicted {predicted}"  # type: ignore[union-attr]
    _assert_close(
        attribution, explainer.attribute(x, method, target=predicted), "target=None and the predicted classes"
    )


def check_repeats_itself(method: Method, model: nn.Module, x: Tensor) -> None:
    """The same call gives the same scores."""
    explainer = Explainer(model)
    first = explainer.attribute(x, method)
    assert torch.equal(first.scores, explainer.attribute(x, method).scores), "two calls gave different scores"


def check_batch_equals_single_images(method: Method, model: nn.Module, x: Tensor) -> None:
    """An image's scores do not depend on the images beside it."""
    explainer = Explainer(model)
    together = explainer.attribute(x, method, target=2)
    for i in range(len(x)):
        _assert_close(
            together[i], explainer.attribute(x[i : i + 1], method, target=2), f"image {i} alone and in the batch"
        )


def check_chunks_do_not_matter(method: Method, model: nn.Module, x: Tensor) -> None:
    """Nor on how many images are explained at a time, one, three with two left over, or more than there are."""
    five = torch.cat([x, x.flip(0)])[:5]
    whole = Explainer(model).attribute(five, method)
    for size in (1, 3, 32):
        _assert_close(
            whole, Explainer(model, batch_size=size).attribute(five, method), f"batches of {size} and all at once"
        )


def check_memory_layout_does_not_matter(method: Method, model: nn.Module, x: Tensor) -> None:
    """Channels-last images are the same images."""
    if x.ndim == 4:
        other = x.contiguous(memory_format=torch.channels_last)
        explainer = Explainer(model)
        _assert_close(
            explainer.attribute(x, method), explainer.attribute(other, method), "contiguous and channels-last"
        )


def check_double_precision(method: Method, model: nn.Module, x: Tensor) -> None:
    """A double model gives double scores, and they are those of float32 but for its rounding."""
    single, double = _in_two_precisions(method, model, x, torch.float64)
    assert double.dtype == torch.float64, f"a double model gave scores of {double.dtype}"
    gap, extent = float((single - double).abs().max()), float(double.max() - double.min())
    assert gap <= _BETWEEN_PRECISIONS * max(extent, 1e-12), f"scores of float32 miss those of double by {gap:.2g}"


def check_half_precision(method: Method, model: nn.Module, x: Tensor) -> None:
    """A bfloat16 model gives finite float32 scores that agree with those of the same model in float32.

    The images must move the model's scores by more than bfloat16 rounds them, 1 in 256; else there is nothing to find.
    """
    single, half = _in_two_precisions(method, model, x, torch.bfloat16)
    assert half.dtype == torch.float32, f"a bfloat16 model gave scores of {half.dtype}"
    assert bool(half.isfinite().all()), "a bfloat16 model gave scores that are not finite"
    if bool((single != single.flatten()[0]).any()):
        agreement = float(torch.corrcoef(torch.stack([single.flatten(), half.flatten()]))[0, 1])
        assert agreement > _HALF_CORRELATION, f"scores of bfloat16 and float32 correlate by {agreement:.3f}"


METHOD_CHECKS: tuple[Callable[[Method, nn.Module, Tensor], None], ...] = (
    check_describes_itself,
    check_refuses_wrong_options,
    check_leaves_model_alone,
    check_leaves_model_alone_on_error,
    check_leaves_images_alone,
    check_heatmap_fits_images,
    check_target_is_the_prediction,
    check_repeats_itself,
    check_batch_equals_single_images,
    check_chunks_do_not_matter,
    check_memory_layout_does_not_matter,
    check_double_precision,
    check_half_precision,
)


def _in_two_precisions(method: Method, model: nn.Module, x: Tensor, other: torch.dtype) -> tuple[Tensor, Tensor]:
    """Scores of the predicted classes in float32 and in another precision."""
    single = copy.deepcopy(model).float()
    classes = predicted_classes(single, x.float())
    first = Explainer(single).attribute(x.float(), method, target=classes)
    return first.scores, Explainer(single.to(other)).attribute(x.to(other), method, target=classes).scores


def _assert_close(one: Attribution, other: Attribution, what: str) -> None:
    gap = (one.scores - other.scores).abs().max()
    limit = _TOLERANCE * one.scores.abs().max().clamp(min=1e-12)
    assert gap <= limit, f"{what} differ by {float(gap):.2g}, more than {float(limit):.2g}"
