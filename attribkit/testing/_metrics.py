"""Conformance checks for metrics."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.method import Method
from attribkit._contracts.metric import Faithfulness, Localization, Metric, Robustness
from attribkit._engine.model import HookedModel
from attribkit._explainer import Explainer
from attribkit._targets.target import Target
from attribkit.testing._checks import NotApplicable, raise_first_failure, require
from attribkit.testing._examples import (
    BLUE,
    RED,
    SpotCNN,
    exchange_colours,
    images,
    spot_masks,
    spotted_images,
    tiny_cnn,
)
from attribkit.testing._state import (
    advance_generators,
    model_state,
    plugin_checks,
    require_unchanged,
    require_unchanged_on_error,
)

_TOLERANCE = 1e-4  # relative to the largest magnitude, at least 1; the model's scores have rounding errors

METRIC_CHECKS = plugin_checks("metric", lambda _metric: (tiny_cnn(), images()))


def check_metric(metric: Metric, model: nn.Module | None = None, x: Tensor | None = None) -> None:
    """Run all conformance checks (METRIC_CHECKS) on a metric until one fails.

    Some checks use a detector of their own, whose correct maps are known. Checks that do not apply to the metric are
    skipped; `report_conformance` also lists these.

    Args:
        metric: An instance of the metric.
        model: A classifier of at least three classes; None means a small convolutional network.
        x: At least three images for the model, (b, c, *space); None means noise for the small network. Rectangles serve
            as masks.

    Raises:
        ConformanceError: If a check fails, with the name of the check, what it observed and expected, and how to fix
            it.
    """
    raise_first_failure(METRIC_CHECKS, metric, model or tiny_cnn(), images() if x is None else x)


@METRIC_CHECKS.add
def check_metric_higher_is_better(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check for the class attribute `higher_is_better`."""
    direction = getattr(metric, "higher_is_better", "missing")
    require(
        direction in (True, False, None),
        f"higher_is_better is {direction!r}",
        "True, False or None",
        "write `higher_is_better = True` in the class; None if neither direction is better",
    )


@METRIC_CHECKS.add
def check_metric_nothing_changed(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that the run leaves the model, the random number generators, the images and the scores unchanged."""
    explainer, maps = _explained(model, x)
    before, images_before, scores = model_state(model), x.clone(), [each.scores.clone() for each in maps]
    _measured(explainer, metric, maps)
    require_unchanged(before, model, "the metric")
    unchanged = all(torch.equal(each.scores, one) for each, one in zip(maps, scores, strict=True))
    require(
        unchanged and all(torch.equal(each.x, images_before) for each in maps),
        "the images or the scores were changed",
        "images and scores that keep their values",
        "modify copies: attribution.scores.clone()",
    )


@METRIC_CHECKS.add
def check_metric_model_unchanged_on_error(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that the model and the generators are unchanged after an error or a KeyboardInterrupt in the forward."""
    explainer, maps = _explained(model, x)
    require_unchanged_on_error(model, lambda: _measured(explainer, metric, maps))


@METRIC_CHECKS.add
def check_metric_one_value_per_image(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check shape, dtype and device of the values: one for each map and image, finite or NaN, without a graph."""
    explainer, maps = _explained(model, x)
    values = _measured(explainer, metric, maps)
    require(
        values.shape == (len(maps), len(x))
        and values.device == x.device
        and values.dtype in (torch.float32, torch.float64)
        and not values.requires_grad
        and not bool(values.isinf().any()),
        f"values of shape {tuple(values.shape)}, dtype {values.dtype}, device {values.device}, "
        f"requires_grad={values.requires_grad}, infinite: {bool(values.isinf().any())}",
        f"finite values or NaN, shape {(len(maps), len(x))}, float32 or float64, on {x.device}, no graph",
        "return one value for each map and image, (m, b), or (b,) for metrics of one map; NaN where it is not defined",
    )


@METRIC_CHECKS.add
def check_metric_repeats(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that two equal calls give equal values, even if the global random number generators have advanced."""
    explainer, maps = _explained(model, x)
    first = _measured(explainer, metric, maps)
    advance_generators()
    second = _measured(explainer, metric, maps)
    require(
        torch.equal(first.nan_to_num(), second.nan_to_num()),
        "two equal calls give different values",
        "equal values",
        "draw random numbers from torch.Generator().manual_seed(self.seed), with the option `seed: Seed = 0`",
    )


@METRIC_CHECKS.add
def check_metric_maps_are_independent(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that the values of a map do not depend on the other maps of the call."""
    explainer, maps = _explained(model, x)
    together = _measured(explainer, metric, maps)
    alone = torch.cat([_measured(explainer, metric, [each]) for each in maps])
    _require_same(
        together, alone, "of maps scored together and alone", "compute each row of the result from its map only"
    )


@METRIC_CHECKS.add
def check_metric_images_are_independent(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that the value of an image does not depend on the other images, their order or the batch size."""
    explainer, maps = _explained(model, x)
    together = _measured(explainer, metric, maps)
    alone = [_measured(explainer, metric, [m[i] for m in maps], _mask(x)[i : i + 1]) for i in range(len(x))]
    fix = "compute sums and extremes over the pixels of each image: heatmap.flatten(1).sum(1)"
    _require_same(together, torch.cat(alone, 1), "of images scored together and alone", fix)
    reverse = [_reversed(each) for each in maps]
    _require_same(together, _measured(explainer, metric, reverse, _mask(x).flip(0)).flip(1), "in another order", fix)
    parts = _measured(Explainer(model, batch_size=2), metric, maps)
    _require_same(together, parts, "in batches of two and in one batch", fix)


@METRIC_CHECKS.add
def check_metric_uninformative_maps(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that maps of zeros, of one value and of negative values, and empty masks, give finite values or NaN."""
    explainer, (first, *_) = _explained(model, x)
    zeros = torch.zeros_like(first.scores)
    for name, scores in {"zeros": zeros, "ones": zeros + 1, "minus one": zeros - 1}.items():
        values = _measured(explainer, metric, [replace(first, scores=scores)])
        require(
            not bool(values.isinf().any()),
            f"infinite values for a map of {name}",
            "finite values, or NaN where the metric is not defined",
            "return NaN where the denominator is zero: torch.where(total > 0, part / total, torch.nan)",
        )
    if isinstance(metric, Localization):
        _measured(explainer, metric, [first], torch.zeros_like(_mask(x)))


@METRIC_CHECKS.add
def check_metric_shared_forwards(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that forwards that do not depend on the maps run once: two maps do not run the same images."""
    if not isinstance(metric, Faithfulness):
        raise NotApplicable("only faithfulness metrics run the model for several maps")
    explainer, correct = _correct_map(RED, x.device)
    maps = [correct, _noise_like(correct)]
    _measured(explainer, metric, maps)  # runs the steps that are done once per model
    first, second, both = (_images_run(explainer, metric, each) for each in (maps[:1], maps[1:], maps))
    common = first & second  # images that do not depend on the map
    repeated = sum(max(0, both[image] - max(first[image], second[image])) for image in common)
    require(
        repeated < max(len(correct.x), first.total() / 10),
        f"{first.total()} images go through the model for one map, {both.total()} for two maps; {repeated} of them are "
        "run for each map, although they do not depend on it",
        "each image that does not depend on the map runs once",
        "compute what does not depend on the maps, such as the score of the images, with model.cached(key, compute)",
    )


@METRIC_CHECKS.add
def check_metric_depends_on_map(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that a correct map and noise have different values."""
    correct, noise = _values_of_correct_map_and_noise(metric, x.device)
    require(
        not torch.equal(correct.nan_to_num(), noise.nan_to_num()),
        f"the same values for a correct map and for noise: {_rounded(correct)}",
        "values that depend on the map",
        "compute the value from self.heatmap(attribution)",
    )


@METRIC_CHECKS.add
def check_metric_direction(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that a correct map has a better value than noise, in the direction of `higher_is_better`."""
    _require_better(metric, *_values_of_correct_map_and_noise(metric, x.device), "a correct map", "noise")


@METRIC_CHECKS.add
def check_metric_reads_target(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that the target of the attribution is used: a map is better for its own target than for another one."""
    if not isinstance(metric, Faithfulness):
        raise NotApplicable("only faithfulness metrics read the target")
    explainer, red = _correct_map(RED, x.device)
    blue = replace(red, target=_correct_map(BLUE, x.device)[1].target)
    own, other = _measured(explainer, metric, [red]), _measured(explainer, metric, [blue])
    _require_better(metric, own, other, "a map with its own target", "the same map with another target")


@METRIC_CHECKS.add
def check_metric_reads_annotation(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that the annotation is used: a map has a better value for the mask of its object than for another mask."""
    if not isinstance(metric, Localization):
        raise NotApplicable("only localization metrics read an annotation")
    explainer, red = _correct_map(RED, x.device)
    own, other = (_measured(explainer, metric, [red], spot_masks(colour).to(x.device)) for colour in ("red", "blue"))
    _require_better(metric, own, other, "the mask of the object", "the mask of another object")


@METRIC_CHECKS.add
def check_metric_reads_model(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that the model is used: a map has a better value for its model than for one that detects another colour."""
    if not isinstance(metric, Faithfulness):
        raise NotApplicable("only faithfulness metrics compare the map with the model")
    explainer, red = _correct_map(RED, x.device)
    own, other = (
        _measured(each, metric, [red]) for each in (explainer, Explainer(exchange_colours(SpotCNN()).to(x.device)))
    )
    _require_better(metric, own, other, "a map and its model", "the same map and another model")


@METRIC_CHECKS.add
def check_metric_rank_based(metric: Metric, model: nn.Module, x: Tensor) -> None:
    """Check that increasing functions of the scores do not change the values of a metric that is `rank_based`."""
    if not metric.rank_based:
        raise NotApplicable("the metric is not declared as `rank_based`")
    explainer, red = _correct_map(RED, x.device)
    scores = torch.randn(
        red.scores[:, :1].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu"
    ).to(x.device)
    maps = [replace(red, scores=each) for each in (scores, (scores / 2).exp(), scores**3 + 5)]
    first, *others = (_measured(explainer, metric, [each]) for each in maps)
    for other in others:
        _require_same(first, other, "of a map and of an increasing function of it", "use the order of the scores only")


def _explained(model: nn.Module, x: Tensor) -> tuple[Explainer, list[Attribution]]:
    """Return maps with one channel and several, coarse and fine, with ties and without."""
    explainer = Explainer(model)
    return explainer, [explainer.attribute(x, each, target=2) for each in ("gradcam", "input_x_gradient", "saliency")]


@dataclass(frozen=True)
class _UnstableMap(Method):
    """A map that changes completely with small changes of the images, as the opposite of a robust method."""

    name: ClassVar[str] = "unstable_map"
    source: ClassVar[str] = "conformance checks of attribkit"

    def __call__(self, model: HookedModel, x: Tensor, target: Target) -> Tensor:
        column = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)
        return (1000 * x.mean(1, keepdim=True) + 17 * column + 100 * model.score(x, target)[:, None, None, None]).sin()


def _correct_map(target: int, device: torch.device) -> tuple[Explainer, Attribution]:
    """Return the detector of spots and its correct map for a class."""
    explainer = Explainer(SpotCNN().to(device))
    return explainer, explainer.attribute(spotted_images().to(device), "integrated_gradients", target=target)


def _values_of_correct_map_and_noise(metric: Metric, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the values, (1, 4), of correct maps and of noise; for robustness, of a stable and an unstable method."""
    explainer, correct = _correct_map(RED, device)
    if isinstance(metric, Robustness):
        pair = [explainer.attribute(correct.x, each, target=RED) for each in ("gradcam", _UnstableMap())]
    else:
        pair = [correct, _noise_like(correct)]
    good, bad = (_measured(explainer, metric, [each], spot_masks("red").to(device)) for each in pair)
    return good, bad


def _noise_like(attribution: Attribution) -> Attribution:
    """Return an attribution whose scores are noise."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(attribution.scores.shape, generator=generator, dtype=torch.float32, device="cpu")
    return replace(attribution, scores=noise.to(attribution.scores.device))


def _require_better(metric: Metric, better: Tensor, worse: Tensor, good: str, bad: str) -> None:
    if metric.higher_is_better is None:
        raise NotApplicable("the metric declares that neither direction is better")
    gain = (better - worse) * (1 if metric.higher_is_better else -1)
    gain = gain[~worse.isnan()]  # the metric may not be defined for the worse one
    require(
        float(gain.mean()) > 0 if len(gain) else bool(better.isfinite().all()),
        f"{_rounded(better)} for {good} and {_rounded(worse)} for {bad}",
        f"{'higher' if metric.higher_is_better else 'lower'} values for {good}, as higher_is_better="
        f"{metric.higher_is_better} declares",
        "change the sign of `higher_is_better`, or compute the value from all arguments of the call",
    )


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


def _images_run(explainer: Explainer, metric: Metric, maps: Sequence[Attribution]) -> Counter[int]:
    """Return how often each image, identified by a hash, goes through the model in one call."""
    counts: Counter[int] = Counter()

    def record(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        counts.update(hash(image.detach().cpu().numpy().tobytes()) for image in arguments[0])

    with explainer.model.module.register_forward_pre_hook(record):
        _measured(explainer, metric, maps)
    return counts


def _require_same(one: Tensor, other: Tensor, what: str, fix: str) -> None:
    require(torch.equal(one.isnan(), other.isnan()), f"the values {what} are NaN for different images", "equal", fix)
    gap = float((one - other).abs().nan_to_num().max())
    limit = _TOLERANCE * max(1.0, float(one.abs().nan_to_num().max()))
    require(gap <= limit, f"the values {what} differ by {gap:.2g}", f"a difference of at most {limit:.2g}", fix)


def _rounded(values: Any) -> list[float]:
    return [round(value, 4) for value in values.flatten().tolist()]
