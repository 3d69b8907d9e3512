"""Conformance checks for metrics."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.metric import Faithfulness, Localization, Metric
from attribkit._explainer import Explainer
from attribkit.testing._state import (
    assert_described,
    assert_refuses_wrong_options,
    assert_survives,
    changes,
    images,
    model_state,
    tiny_cnn,
)

_TOLERANCE = 1e-4  # relative to the largest magnitude, at least 1; the model's scores have rounding errors


def check_metric(metric: Metric, model: nn.Module | None = None, x: Tensor | None = None) -> None:
    """Run all conformance checks (METRIC_CHECKS) on a metric.

    Args:
        metric: An instance of the metric.
        model: A classifier of at least three classes; None means a small convolutional network.
        x: At least three images for the model, (b, c, *space); None means noise for the small network. Rectangles serve
            as masks.

    Raises:
        AssertionError: If a check fails, with a description of the violation.
    """
    for check in METRIC_CHECKS:
        check(metric, model or tiny_cnn(), images() if x is None else x)


def check_metric_describes_itself(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check for a frozen, hashable dataclass with a name, a source, a docstring and `higher_is_better`."""
    assert_described(metric)
    direction = getattr(metric, "higher_is_better", "missing")
    assert direction in (True, False, None), f"higher_is_better must be True, False or None, got {direction!r}"


def check_metric_refuses_wrong_options(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that each option rejects values of other types."""
    assert_refuses_wrong_options(metric)


def check_metric_leaves_everything_alone(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that the run leaves the model, the random number generators, the images and the scores unchanged."""
    explainer, maps = _explained(model, x)
    before, scores = model_state(model), [each.scores.clone() for each in maps]
    _measured(explainer, metric, maps)
    assert not changes(before, model_state(model)), f"changed: {changes(before, model_state(model))}"
    assert all(torch.equal(each.x, x) for each in maps), "the images were changed"
    assert all(torch.equal(each.scores, one) for each, one in zip(maps, scores, strict=True)), "the scores were changed"


def check_metric_leaves_model_alone_on_error(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that the model and the generators are unchanged after an error or a KeyboardInterrupt in the forward."""
    explainer, maps = _explained(model, x)
    for error in (RuntimeError("raised on purpose"), KeyboardInterrupt()):
        assert_survives(error, model, lambda: _measured(explainer, metric, maps))


def check_metric_gives_a_number_per_image(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check shape, dtype and device of the values: one for each map and image, finite or NaN, without a graph."""
    explainer, maps = _explained(model, x)
    values = _measured(explainer, metric, maps)
    assert values.shape == (len(maps), len(x)), (
        f"values have shape {tuple(values.shape)}, expected {(len(maps), len(x))}"
    )
    assert values.device == x.device, f"values are on {values.device}, images on {x.device}"
    assert values.dtype in (torch.float32, torch.float64), (
        f"values have dtype {values.dtype}, expected float32 or float64"
    )
    assert not values.requires_grad, "values require gradients"
    assert not bool(values.isinf().any()), "values are infinite"


def check_metric_repeats_itself(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that two equal calls give equal values, even if the global random number generators have advanced."""
    explainer, maps = _explained(model, x)
    first = _measured(explainer, metric, maps)
    torch.rand(1, dtype=torch.float32, device="cpu")
    np.random.rand()  # noqa: NPY002  # advances the global generator on purpose
    second = _measured(explainer, metric, maps)
    assert torch.equal(first.nan_to_num(), second.nan_to_num()), "two equal calls give different values"


def check_metric_measures_maps_one_by_one(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that the values of a map do not depend on the other maps of the call."""
    explainer, maps = _explained(model, x)
    together = _measured(explainer, metric, maps)
    alone = torch.cat([_measured(explainer, metric, [each]) for each in maps])
    _assert_same(together, alone, "values of maps scored together and one by one")


def check_metric_of_an_image_alone(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that the value of an image does not depend on the other images, their order or the batch size."""
    explainer, maps = _explained(model, x)
    together = _measured(explainer, metric, maps)
    alone = [_measured(explainer, metric, [m[i] for m in maps], _mask(x)[i : i + 1]) for i in range(len(x))]
    _assert_same(together, torch.cat(alone, 1), "values of images scored together and alone")
    reverse = [_reversed(each) for each in maps]
    _assert_same(together, _measured(explainer, metric, reverse, _mask(x).flip(0)).flip(1), "values in another order")
    _assert_same(
        together, _measured(Explainer(model, batch_size=2), metric, maps), "values in batches of two and in one batch"
    )


def check_metric_of_uninformative_maps(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that maps of zeros, of one value and of negative values, and empty masks, give finite values or NaN."""
    explainer, (first, *_) = _explained(model, x)
    zeros = torch.zeros_like(first.scores)
    for scores in (zeros, zeros + 1, zeros - 1, -first.scores.abs()):
        values = _measured(explainer, metric, [replace(first, scores=scores)])
        assert not bool(values.isinf().any()), "values are infinite for a map without information"
    if isinstance(metric, Localization):
        _measured(explainer, metric, [first], torch.zeros_like(_mask(x)))


def check_metric_counts_forwards(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that forwards that do not depend on the maps run once: two maps cost less than twice as many images."""
    if isinstance(metric, Faithfulness):
        explainer, maps = _explained(model, x)
        _measured(explainer, metric, maps)
        one, two = (_forwards(explainer, metric, each) for each in (maps[:1], maps[:2]))
        assert one == 0 or two < 2 * one, f"one map needs {one} images through the model, two maps need {two}"


METRIC_CHECKS: tuple[Callable[[Metric, nn.Module, Tensor], None], ...] = (
    check_metric_describes_itself,
    check_metric_refuses_wrong_options,
    check_metric_leaves_everything_alone,
    check_metric_leaves_model_alone_on_error,
    check_metric_gives_a_number_per_image,
    check_metric_repeats_itself,
    check_metric_measures_maps_one_by_one,
    check_metric_of_an_image_alone,
    check_metric_of_uninformative_maps,
    check_metric_counts_forwards,
)


def _explained(model: nn.Module, x: Tensor) -> tuple[Explainer, list[Attribution]]:
    """Return maps with one channel and several, coarse and fine, with ties and without."""
    explainer = Explainer(model)
    return explainer, [explainer.attribute(x, each, target=2) for each in ("gradcam", "input_x_gradient", "saliency")]


def _measured(explainer: Explainer, metric: Metric, maps: Sequence[Attribution], mask: Tensor | None = None) -> Tensor:
    return explainer.measure(maps, [metric], mask=_mask(maps[0].x) if mask is None else mask)[0].values


def _mask(x: Tensor) -> Tensor:
    """Return masks with a rectangle that differs from image to image."""
    mask = torch.zeros(len(x), *x.shape[2:], dtype=torch.bool, device=x.device)
    for i, image in enumerate(mask):
        image[tuple(slice(n // 4 - i % 2, n // 2 + i % 3) for n in image.shape)] = True
    return mask


def _reversed(attribution: Attribution) -> Attribution:
    """Return the attribution with the images in reverse order."""
    return replace(attribution, x=attribution.x.flip(0), scores=attribution.scores.flip(0))


def _forwards(explainer: Explainer, metric: Metric, maps: Sequence[Attribution]) -> int:
    before = explainer.model.image_count
    _measured(explainer, metric, maps)
    return explainer.model.image_count - before


def _assert_same(one: Tensor, other: Tensor, what: str) -> None:
    assert torch.equal(one.isnan(), other.isnan()), f"{what} are NaN for different images"
    gap = float((one - other).abs().nan_to_num().max())
    limit = _TOLERANCE * max(1.0, float(one.abs().nan_to_num().max()))
    assert gap <= limit, f"{what} differ by {gap:.2g}, more than {limit:.2g}"
