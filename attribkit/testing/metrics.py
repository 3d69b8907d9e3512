"""Checks that a metric must pass."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from attribkit.contracts.attribution import Attribution
from attribkit.contracts.metric import Faithfulness, Localization, Metric
from attribkit.explainer import Explainer
from attribkit.testing.state import (
    assert_described,
    assert_refuses_wrong_options,
    assert_survives,
    changes,
    images,
    model_state,
    tiny_cnn,
)

_TOLERANCE = 1e-4  # of the largest magnitude, or of one; a score of the model is rounded before it is compared


def check_metric(metric: Metric, model: nn.Module | None = None, x: Tensor | None = None) -> None:
    """Run every check of METRIC_CHECKS; the first that fails raises an AssertionError that says what is wrong.

    model, x: a classifier and at least three images for it; None is a small CNN. Masks are rectangles.
    """
    for check in METRIC_CHECKS:
        check(metric, model or tiny_cnn(), images() if x is None else x)


def check_metric_describes_itself(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """A frozen, hashable dataclass with a name, a source, a summary and a direction."""
    assert_described(metric)
    direction = getattr(metric, "higher_is_better", "missing")
    assert direction in (True, False, None), f"higher_is_better must be True, False or None, and is {direction!r}"


def check_metric_refuses_wrong_options(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Each option refuses what is of none of its types."""
    assert_refuses_wrong_options(metric)


def check_metric_leaves_everything_alone(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """The model, the random number generators, the images and the scores are what they were."""
    explainer, maps = _explained(model, x)
    before, scores = model_state(model), [each.scores.clone() for each in maps]
    _measured(explainer, metric, maps)
    assert not changes(before, model_state(model)), f"changed: {changes(before, model_state(model))}"
    assert all(torch.equal(each.x, x) for each in maps), "changed the images"
    assert all(torch.equal(each.scores, one) for each, one in zip(maps, scores, strict=True)), "changed the scores"


def check_metric_leaves_model_alone_on_error(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Nor when the forward raises in its middle, or the user interrupts it."""
    explainer, maps = _explained(model, x)
    for error in (RuntimeError("raised on purpose"), KeyboardInterrupt()):
        assert_survives(error, model, lambda: _measured(explainer, metric, maps))


def check_metric_gives_a_number_per_image(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """For each map and image, on their device, of at least float32, without a graph; NaN where it is not defined."""
    explainer, maps = _explained(model, x)
    values = _measured(explainer, metric, maps)
    assert values.shape == (len(maps), len(x)), f"values of shape {tuple(values.shape)}"
    assert values.device == x.device, f"values on {values.device}"
    assert values.dtype in (torch.float32, torch.float64), f"values of {values.dtype}"
    assert not values.requires_grad, "values that want gradients"
    assert not bool(values.isinf().any()), "infinite values"


def check_metric_repeats_itself(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """The same call gives the same numbers, whatever was drawn from the global random number generators before."""
    explainer, maps = _explained(model, x)
    first = _measured(explainer, metric, maps)
    torch.rand(1, dtype=torch.float32, device="cpu")
    np.random.rand()  # noqa: NPY002  # the global state is what must not matter
    again = _measured(explainer, metric, maps)
    assert torch.equal(first.nan_to_num(), again.nan_to_num()), "two calls gave different numbers"


def check_metric_measures_maps_one_by_one(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """A map's numbers do not depend on the maps that are measured with it."""
    explainer, maps = _explained(model, x)
    together = _measured(explainer, metric, maps)
    alone = torch.cat([_measured(explainer, metric, [each]) for each in maps])
    _assert_same(together, alone, "maps measured together and one by one")


def check_metric_of_an_image_alone(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """An image's number does not depend on the images beside it, their order, or how many are asked about at a time."""
    explainer, maps = _explained(model, x)
    together = _measured(explainer, metric, maps)
    alone = [_measured(explainer, metric, [m[i] for m in maps], _mask(x)[i : i + 1]) for i in range(len(x))]
    _assert_same(together, torch.cat(alone, 1), "images measured together and alone")
    turned = [_reversed(each) for each in maps]
    _assert_same(together, _measured(explainer, metric, turned, _mask(x).flip(0)).flip(1), "images in another order")
    _assert_same(together, _measured(Explainer(model, batch_size=2), metric, maps), "batches of two and all at once")


def check_metric_of_maps_that_say_nothing(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Maps of zeros, of one value or of negative values are scored, or NaN; so is a map against an empty mask."""
    explainer, (first, *_) = _explained(model, x)
    nothing = torch.zeros_like(first.scores)
    for scores in (nothing, nothing + 1, nothing - 1, -first.scores.abs()):
        values = _measured(explainer, metric, [replace(first, scores=scores)])
        assert not bool(values.isinf().any()), "infinite values for a map that says nothing"
    if isinstance(metric, Localization):
        _measured(explainer, metric, [first], torch.zeros_like(_mask(x)))


def check_metric_counts_forwards(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """What does not depend on the maps is asked of the model once: twice the maps cost less than twice as much."""
    if isinstance(metric, Faithfulness):
        explainer, maps = _explained(model, x)
        _measured(explainer, metric, maps)
        one, two = (_forwards(explainer, metric, each) for each in (maps[:1], maps[:2]))
        assert one == 0 or two < 2 * one, f"one map took {one} images through the model, two took {two}"


METRIC_CHECKS: tuple[Callable[[Metric, nn.Module, Tensor], None], ...] = (
    check_metric_describes_itself,
    check_metric_refuses_wrong_options,
    check_metric_leaves_everything_alone,
    check_metric_leaves_model_alone_on_error,
    check_metric_gives_a_number_per_image,
    check_metric_repeats_itself,
    check_metric_measures_maps_one_by_one,
    check_metric_of_an_image_alone,
    check_metric_of_maps_that_say_nothing,
    check_metric_counts_forwards,
)


def _explained(model: nn.Module, x: Tensor) -> tuple[Explainer, list[Attribution]]:
    """Maps of one channel and of several, coarse and fine, with ties and without."""
    explainer = Explainer(model)
    return explainer, [explainer.attribute(x, each, target=2) for each in ("gradcam", "input_x_gradient", "saliency")]


def _measured(explainer: Explainer, metric: Metric, maps: Sequence[Attribution], mask: Tensor | None = None) -> Tensor:
    return explainer.measure(maps, [metric], mask=_mask(maps[0].x) if mask is None else mask)[0].values


def _mask(x: Tensor) -> Tensor:
    """Rectangles that differ from image to image."""
    mask = torch.zeros(len(x), *x.shape[2:], dtype=torch.bool, device=x.device)
    for i, image in enumerate(mask):
        image[tuple(slice(n // 4 - i % 2, n // 2 + i % 3) for n in image.shape)] = True
    return mask


def _reversed(attribution: Attribution) -> Attribution:
    """The images in the reverse order."""
    return replace(attribution, x=attribution.x.flip(0), scores=attribution.scores.flip(0))


def _forwards(explainer: Explainer, metric: Metric, maps: Sequence[Attribution]) -> int:
    before = explainer.model.image_count
    _measured(explainer, metric, maps)
    return explainer.model.image_count - before


def _assert_same(one: Tensor, other: Tensor, what: str) -> None:
    assert torch.equal(one.isnan(), other.isnan()), f"{what}: NaN in other places"
    gap = float((one - other).abs().nan_to_num().max())
    limit = _TOLERANCE * max(1.0, float(one.abs().nan_to_num().max()))
    assert gap <= limit, f"{what} differ by {gap:.2g}, more than {limit:.2g}"
