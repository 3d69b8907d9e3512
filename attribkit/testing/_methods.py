"""Conformance checks for attribution methods."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.method import Method
from attribkit._explainer import Explainer
from attribkit._targets.target import NoTarget
from attribkit.testing._state import (
    assert_described,
    assert_refuses_wrong_options,
    assert_survives,
    changes,
    images,
    model_state,
    predicted_classes,
    tiny_cnn,
)

_SIDES = (24, 40)  # height and width of the images
_PATCH = 8  # pixels; two grid cells of the detector
_MAX_DISTANCE = 8.0  # pixels between the centres of the patch and the map, along each axis


def check_position(method: Method) -> None:
    """Check that the map of a method has its centre at the bright patch that determines the score.

    The model detects brightness, and the images are dark except for the patch, at four positions. The check does not
    apply to methods that do not use the model, such as the baseline methods (controls).

    Args:
        method: An instance of the method.

    Raises:
        AssertionError: If the centre of the map is more than 8 pixels away from the centre of the patch.
    """
    model = bright_patch_detector()
    for position in ((0, 0), (0, 32), (16, 0), (8, 24)):
        image = bright_patch(position)
        centre = centre_of(Explainer(model).attribute(image, method, target=1).heatmap()[0])
        expected = torch.tensor(position, dtype=torch.float32, device="cpu") + (_PATCH - 1) / 2
        distance = float((centre - expected).abs().max())
        assert distance <= _MAX_DISTANCE, (
            f"the centre of the patch is {expected.tolist()} (row, column), that of the map {centre.tolist()}"
        )


def bright_patch_detector() -> nn.Module:
    """Return a small network whose second class responds to bright regions; (b, 3, 24, 40) to 2 classes."""
    with torch.random.fork_rng([]):
        detectors, head = nn.Conv2d(3, 2, 4, stride=4), nn.Linear(2, 2)
    with torch.no_grad():
        detectors.weight.fill_(1 / detectors.weight[0].numel())  # the mean over the pixels of a grid cell
        detectors.bias = nn.Parameter(torch.tensor([-0.5, -0.25], dtype=torch.float32, device="cpu"))
        head.weight.copy_(torch.tensor([[0.0, 0.0], [200.0, 100.0]], dtype=torch.float32, device="cpu"))
        head.bias.copy_(torch.tensor([4.0, 0.0], dtype=torch.float32, device="cpu"))  # first class for a dark image
    return nn.Sequential(detectors, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


def bright_patch(position: tuple[int, int]) -> Tensor:
    """Return a dark image, (1, 3, 24, 40), with a bright patch of 8 by 8 pixels from (row, column) on."""
    image = torch.zeros(1, 3, *_SIDES, dtype=torch.float32, device="cpu")
    row, column = position
    image[..., row : row + _PATCH, column : column + _PATCH] = 1.0
    return image


def centre_of(heatmap: Tensor) -> Tensor:
    """Return the row and column of the centre of mass of the values in the upper third of a map's range."""
    weights = heatmap - heatmap.min()
    weights = weights.where(weights >= weights.max() * 2 / 3, 0)
    coordinates = torch.meshgrid(
        *(torch.arange(float(side), dtype=torch.float32, device="cpu") for side in heatmap.shape), indexing="ij"
    )
    return torch.stack([(weights * each.to(weights)).sum() for each in coordinates]) / weights.sum()


_TOLERANCE = 1e-5  # relative to the largest magnitude of the scores
_DOUBLE_TOLERANCE = 1e-4  # relative to the range of the scores, between float32 and float64
_HALF_CORRELATION = 0.99  # minimum correlation between the scores of a bfloat16 model and its float32 version


def check_method(method: Method, model: nn.Module | None = None, x: Tensor | None = None) -> None:
    """Run all conformance checks (METHOD_CHECKS) on a method.

    Args:
        method: An instance of the method.
        model: A classifier of at least three classes that the method can explain; None means a small convolutional
            network.
        x: At least three images for the model, (b, c, *space); None means noise for the small network.

    Raises:
        AssertionError: If a check fails, with a description of the violation.

    Example:
        >>> def test_my_method():
        ...     check_method(MyMethod(samples=2))
    """
    for check in METHOD_CHECKS:
        check(method, model or tiny_cnn(), images() if x is None else x)


def check_describes_itself(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check for a frozen, hashable dataclass with a name, a source and a docstring."""
    assert_described(method)


def check_refuses_wrong_options(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that each option rejects values of other types."""
    assert_refuses_wrong_options(method)


def check_leaves_model_alone(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that the run leaves the model and the random number generators unchanged."""
    before = model_state(model)
    Explainer(model).attribute(x, method)
    assert not changes(before, model_state(model)), f"changed: {changes(before, model_state(model))}"


def check_leaves_model_alone_on_error(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that the model and the generators are unchanged after an error or a KeyboardInterrupt in the forward."""
    for error in (RuntimeError("raised on purpose"), KeyboardInterrupt()):
        explainer = Explainer(model)
        assert_survives(error, model, lambda: explainer.attribute(x, method))  # noqa: B023  # called at once


def check_leaves_images_alone(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that the images keep their values and do not require a gradient."""
    copy_of_x = x.clone()
    Explainer(model).attribute(copy_of_x, method)
    assert torch.equal(copy_of_x, x), "the images were changed"
    assert not copy_of_x.requires_grad, "requires_grad was set on the images"
    assert copy_of_x.grad is None, "a gradient was left on the images"


def check_heatmap_fits_images(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check the shape, dtype and device of the heatmaps."""
    attribution = Explainer(model).attribute(x, method)
    heatmap = attribution.heatmap()
    assert heatmap.shape == (len(x), *x.shape[2:]), (
        f"heatmaps have shape {tuple(heatmap.shape)}, images {tuple(x.shape)}"
    )
    assert heatmap.dtype == x.dtype, f"heatmaps have dtype {heatmap.dtype}, images {x.dtype}"
    assert heatmap.device == x.device, f"heatmaps are on {heatmap.device}, images on {x.device}"
    assert not heatmap.requires_grad, "heatmaps require gradients"


def check_target_is_the_prediction(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that target=None means the predicted class, or NoTarget() for a method that does not use a target."""
    explainer = Explainer(model)
    if not method.needs_target:
        attribution = explainer.attribute(x, method)
        assert attribution.target == NoTarget(), f"the target is {attribution.target}, expected NoTarget()"
        _assert_close(attribution, explainer.attribute(x, method, target=2), "scores with target=None and target=2")
        return
    predicted = predicted_classes(model, x)
    attribution = explainer.attribute(x, method)
    explained = attribution.target.index  # type: ignore[union-attr]
    assert explained == tuple(predicted), f"the target is {attribution.target}, the prediction {predicted}"
    _assert_close(
        attribution,
        explainer.attribute(x, method, target=predicted),
        "scores with target=None and with the predicted classes",
    )


def check_repeats_itself(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that two equal calls give equal scores."""
    explainer = Explainer(model)
    first = explainer.attribute(x, method)
    assert torch.equal(first.scores, explainer.attribute(x, method).scores), "two equal calls give different scores"


def check_batch_equals_single_images(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that the scores of an image do not depend on the other images of the batch."""
    explainer = Explainer(model)
    together = explainer.attribute(x, method, target=2)
    for i in range(len(x)):
        _assert_close(
            together[i],
            explainer.attribute(x[i : i + 1], method, target=2),
            f"scores of image {i} alone and in the batch",
        )


def check_chunks_do_not_matter(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that the batch size does not change the scores: 1, 3 with a remainder of 2, and more than the images."""
    five = torch.cat([x, x.flip(0)])[:5]
    whole = Explainer(model).attribute(five, method)
    for size in (1, 3, 32):
        _assert_close(
            whole,
            Explainer(model, batch_size=size).attribute(five, method),
            f"scores in batches of {size} and in one batch",
        )


def check_memory_layout_does_not_matter(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that images in channels-last memory format give the same scores."""
    if x.ndim == 4:
        other = x.contiguous(memory_format=torch.channels_last)
        explainer = Explainer(model)
        _assert_close(
            explainer.attribute(x, method),
            explainer.attribute(other, method),
            "scores of contiguous and channels-last images",
        )


def check_double_precision(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that a float64 model gives float64 scores that agree with float32 up to rounding."""
    single, double = _in_two_precisions(method, model, x, torch.float64)
    assert double.dtype == torch.float64, f"a float64 model gives scores of dtype {double.dtype}"
    gap, extent = float((single - double).abs().max()), float(double.max() - double.min())
    assert gap <= _DOUBLE_TOLERANCE * max(extent, 1e-12), f"float32 and float64 scores differ by {gap:.2g}"


def check_half_precision(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that a bfloat16 model gives finite float32 scores that correlate with those of the float32 model.

    The images must change the score of the model by more than the rounding error of bfloat16, 1/256.
    """
    single, half = _in_two_precisions(method, model, x, torch.bfloat16)
    assert half.dtype == torch.float32, f"a bfloat16 model gives scores of dtype {half.dtype}"
    assert bool(half.isfinite().all()), "a bfloat16 model gives scores that are not finite"
    if bool((single != single.flatten()[0]).any()):
        agreement = float(torch.corrcoef(torch.stack([single.flatten(), half.flatten()]))[0, 1])
        assert agreement > _HALF_CORRELATION, f"bfloat16 and float32 scores have a correlation of {agreement:.3f}"


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
    """Return the scores of the predicted classes in float32 and in another dtype."""
    single = copy.deepcopy(model).float()
    classes = predicted_classes(single, x.float())
    first = Explainer(single).attribute(x.float(), method, target=classes)
    return first.scores, Explainer(single.to(other)).attribute(x.to(other), method, target=classes).scores


def _assert_close(one: Attribution, other: Attribution, what: str) -> None:
    gap = (one.scores - other.scores).abs().max()
    limit = _TOLERANCE * one.scores.abs().max().clamp(min=1e-12)
    assert gap <= limit, f"{what} differ by {float(gap):.2g}, more than {float(limit):.2g}"
