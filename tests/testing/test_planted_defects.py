"""Plugin classes with one planted defect each: the check of that name fails, and names what it saw."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from attribkit import Complexity, Explainer, Faithfulness, Imputer, Localization, Method, Seed, Visualizer
from attribkit.testing import ConformanceError, checks_of, report_conformance


def failures(instance, *arguments):
    return [result.check for result in report_conformance(instance, *arguments).failures]


def failing(instance, name):
    """Return the error of one check, which must fail."""
    check = next(check for check in checks_of(instance) if check.name == name)
    with pytest.raises(ConformanceError) as caught:
        check(instance)
    return caught.value


def method(name, **attributes):
    """Return an instance of a method made of functions and class attributes."""
    namespace = {"__doc__": "A map.", "name": "planted", "source": "nobody", **attributes}
    return dataclass(frozen=True)(type(name, (Method,), namespace))()


def good(model, x, target):
    return (x * model.gradient(x, target)).sum(1, keepdim=True)


def cam(model, x, target):
    activation, gradient = model.activation_and_gradient(x, target)
    return (activation * gradient).sum(1, keepdim=True)


def of(change):
    """Return the call of a method that changes a correct map."""
    return lambda self, model, x, target: change(good(model, x, target))


def of_grid(change):
    """Return the same for a map on the grid of a layer."""
    return lambda self, model, x, target: change(cam(model, x, target))


def resized(maps, like):
    return torch.nn.functional.interpolate(maps, size=like.shape[2:], mode="bilinear")


MOVED = {
    "transposed": of(lambda maps: maps.mT),
    "transposed and resized": of(lambda maps: resized(maps.mT, maps)),
    "transposed grid": of_grid(lambda maps: maps.mT),
    "upside down": of(lambda maps: maps.flip(2)),
    "mirrored": of(lambda maps: maps.flip(3)),
    "mirrored grid": of_grid(lambda maps: maps.flip(3)),
    "rotated": of(lambda maps: maps.flip(2, 3)),
    "without two columns at the left": of(lambda maps: resized(maps[..., 2:], maps)),
    "without two columns at the right": of(lambda maps: resized(maps[..., :-2], maps)),
    "without one column at both sides": of(lambda maps: resized(maps[..., 1:-1], maps)),
    "without two rows": of(lambda maps: resized(maps[..., 2:, :], maps)),
    "grid without two columns": of_grid(lambda maps: maps[..., 2:]),
    "rolled by one pixel": of(lambda maps: maps.roll(1, 3)),
    "rolled by half": of(lambda maps: maps.roll(maps.shape[3] // 2, 3)),
    "grid rolled by a cell": of_grid(lambda maps: maps.roll(1, 2)),
    "corners aligned": lambda self, model, x, target: torch.nn.functional.interpolate(
        cam(model, x, target), size=x.shape[2:], mode="bilinear", align_corners=True
    ),
    "reshaped to columns first": of_grid(lambda maps: maps.reshape(len(maps), 1, maps.shape[3], maps.shape[2])),
    "constant": of(torch.zeros_like),
    "mean of the map": of(lambda maps: maps.mean((2, 3), keepdim=True).expand_as(maps)),
}


@pytest.mark.parametrize("call", MOVED.values(), ids=MOVED)
def test_a_map_in_the_wrong_place(call):
    error = failing(method("Moved", __call__=call), "position")
    assert "pixels away" in str(error)


@pytest.mark.parametrize("words", ["upside down", "mirrored", "rotated", "transposed"])
def test_the_error_names_the_transformation(words):
    assert f"the maps are {words}" in str(failing(method("Moved", __call__=MOVED[words]), "position"))


@pytest.mark.parametrize("crop", [2, 4])
def test_a_map_of_pixels_that_misses_the_border(crop):
    error = failing(method("Cropped", __call__=of(lambda maps: maps[..., crop:])), "grid")
    assert f"(96, {160 - crop})" in error.observed


class Calls:
    """Calls of methods with a defect; the name of each is the check that fails."""

    def sign(self, model, x, target):
        return -good(model, x, target)

    def reads_target(self, model, x, target):
        return x

    def images_unchanged(self, model, x, target):
        scores = good(model, x, target)
        x *= 2
        return scores

    def other_inputs(self, model, x, target):
        leaf = x.clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(target(model._wrap_outputs(model.module(leaf), len(x))).sum(), leaf)
        return x * gradient

    def default_target(self, model, x, target):
        return good(model, x, 3) if isinstance(target, int) else x * model.gradient(x, _first(target))

    def function_target(self, model, x, target):
        return good(model, x, target) * (1 + 0 * target.index[0] if hasattr(target, "index") else 2)

    def target_per_image(self, model, x, target):
        first = target.subset(slice(0, 1))
        return torch.cat([good(model.subset(slice(i, i + 1)), x[i : i + 1], first) for i in range(len(x))])

    def repeats(self, model, x, target):
        return good(model, x, target) + torch.rand_like(x[:, :1])

    def batch_equals_single_images(self, model, x, target):
        scores = good(model, x, target)
        return scores / scores.abs().max()

    def fits_images(self, model, x, target):
        return good(model, x, target)[:, 0]

    def double_precision(self, model, x, target):
        return good(model, x, target).float() + x[:, :1].float() % 1e-3

    def half_precision(self, model, x, target):
        return (1000 * x) % 1

    def keeps_no_tensors(self, model, x, target):
        KEPT.append(x.clone())
        return good(model, x, target)

    def model_unchanged(self, model, x, target):
        torch.manual_seed(0)
        np.seterr(over="raise" if np.geterr()["over"] == "warn" else "warn")
        return good(model, x, target)

    def model_unchanged_on_error(self, model, x, target):
        try:
            return good(model, x, target)
        except RuntimeError:
            return torch.zeros_like(x)


KEPT = []


def _first(target):
    from attribkit import ClassLogit

    return ClassLogit(0) if hasattr(target, "index") else target


@pytest.mark.parametrize("name", [name for name in vars(Calls) if not name.startswith("_")])
def test_a_method_with_a_defect(name):
    state = np.geterr()
    instance = method("Defective", __call__=vars(Calls)[name])
    error = failing(instance, name)
    np.seterr(**state)
    assert error.check == name
    assert all((error.observed, error.expected, error.fix))


def test_a_seed_without_effect():
    @dataclass(frozen=True)
    class Seeded(Method):
        """A map."""

        name = "seeded"
        source = "nobody"
        seed: Seed = 0

        def __call__(self, model, x, target):
            return good(model, x, target)

    assert failures(Seeded()) == ["seed"]


def test_a_layer_that_is_not_read():
    @dataclass(frozen=True)
    class Layered(Method):
        """A map."""

        name = "layered"
        source = "nobody"
        layer: str | None = None

        def __call__(self, model, x, target):
            return cam(model, x, target)

    assert failures(Layered()) == ["layer_option"]


def test_a_cache_by_shape_is_seen_between_models_and_images():
    cache = {}

    def call(self, model, x, target):
        key = (*x.shape, repr(target))
        if key not in cache:
            cache[key] = good(model, x, target)
        return cache[key]

    instance = method("Caching", __call__=call)
    assert {"batch_equals_single_images", "reads_model"} <= set(failures(instance))


def test_requirements_that_are_not_what_the_method_reads():
    from attribkit import Requirements

    def call(self, model, x, target):
        results = model._cached_results(x, target, Requirements(gradients=(None,)))
        return good(model, x, target) * (2 if results else 1)

    instance = method("Shared", __call__=call, requires=property(lambda self: Requirements(gradients=(None,))))
    assert "comparison" in failures(instance)


def test_a_good_method_passes():
    instance = method("Good", __call__=lambda self, model, x, target: good(model, x, target))
    report = report_conformance(instance)
    assert not report.failures, report


def test_expected_failures_are_strict():
    negated = method("Negated", __call__=Calls.sign, expected_failures={"sign": "negative evidence, by definition"})
    assert failures(negated) == []
    assert "expected failure: negative evidence" in str(report_conformance(negated))
    listed = method(
        "Listed", __call__=lambda self, model, x, target: good(model, x, target), expected_failures={"sign": "no"}
    )
    assert failures(listed) == ["sign"]
    assert "remove 'sign' from `expected_failures`" in failing(listed, "sign").fix


def test_a_method_that_no_example_supports_fails_once():
    from attribkit._core.errors import UnsupportedModel

    def call(self, model, x, target):
        raise UnsupportedModel("Only for graphs.")

    report = report_conformance(method("Refusing", __call__=call))
    assert [result.check for result in report.results] == ["example"]
    assert "Only for graphs." in report.failures[0].error.observed


# --- metrics ----------------------------------------------------------------------------------------------------------


def metric(base, name, call, **attributes):
    namespace = {"__doc__": "A value.", "name": name, "source": "nobody", "higher_is_better": True, "__call__": call}
    return dataclass(frozen=True, kw_only=True)(type("Planted", (base,), namespace | attributes))()


def mass(self, attribution, truth):
    heatmap = self.heatmap_on(attribution, truth).clamp(min=0)
    total = heatmap.flatten(1).sum(1)
    return torch.where(total > 0, (heatmap * truth.mask).flatten(1).sum(1) / total, torch.nan)


def drop(self, model, attributions):
    rows = []
    for each in attributions:
        heatmap = self.heatmap(each)
        masked = each.x * (heatmap >= heatmap.flatten(1).quantile(0.9, dim=1)[:, None, None])[:, None]
        rows.append(model.score(masked, each.target))
    return torch.stack(rows)


METRICS = {
    "depends_on_map": (Complexity, lambda self, attribution: torch.ones(len(attribution.x))),
    "direction": (Localization, lambda self, attribution, truth: 1 - mass(self, attribution, truth)),
    "reads_annotation": (
        Localization,
        lambda self, attribution, truth: (
            self.heatmap(attribution).flatten(1).amax(1) - self.heatmap(attribution).flatten(1).std(1)
        ),
    ),
    "images_are_independent": (
        Complexity,
        lambda self, attribution: (
            -self.heatmap(attribution).abs().flatten(1).sum(1) / self.heatmap(attribution).abs().sum()
        ),
    ),
    "maps_are_independent": (
        Faithfulness,
        lambda self, model, attributions: drop(self, model, attributions) * len(attributions),
    ),
    "shared_forwards": (
        Faithfulness,
        lambda self, model, attributions: (
            drop(self, model, attributions)
            - torch.stack([model.score(each.x.clone(), each.target) for each in attributions])
        ),
    ),
    "reads_model": (
        Faithfulness,
        lambda self, model, attributions: torch.stack([self.heatmap(each).flatten(1).amax(1) for each in attributions]),
    ),
    "reads_target": (
        Faithfulness,
        lambda self, model, attributions: torch.stack([self.heatmap(each).flatten(1).std(1) for each in attributions]),
    ),
    "repeats": (Complexity, lambda self, attribution: torch.rand(len(attribution.x))),
    "one_value_per_image": (Complexity, lambda self, attribution: attribution.scores),
    "uninformative_maps": (
        Complexity,
        lambda self, attribution: 1 / self.heatmap(attribution).abs().flatten(1).sum(1),
    ),
    "nothing_changed": (
        Complexity,
        lambda self, attribution: attribution.scores.mul_(2).flatten(1).amax(1),
    ),
    "rank_based": (Localization, mass),
}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_with_a_defect(name):
    base, call = METRICS[name]
    attributes = {"rank_based": True} if name == "rank_based" else {}
    error = failing(metric(base, "planted", call, **attributes), name)
    assert error.check == name
    assert error.fix


def test_a_good_metric_passes():
    assert not report_conformance(metric(Localization, "good", mass)).failures


# --- visualizers ------------------------------------------------------------------------------------------------------


def ascend(model, unit, images, sign=1):
    for _ in range(4):
        images = images + sign * model.score_and_gradient(images, unit)[1]
    return images


class Visualizations:
    """Calls of visualizers with a defect; the name of each is the check that fails."""

    def exceeds_blank(self, model, unit, blank):
        return blank, model.score(blank, unit)[None]

    def reads_unit(self, model, unit, blank):
        from attribkit import ClassLogit

        images = ascend(model, ClassLogit(0), blank)
        return images, model.score(images, unit)[None]

    def responses(self, model, unit, blank):
        images = ascend(model, unit, blank)
        return images, model.score(blank, unit)[None]

    def repeats(self, model, unit, blank):
        images = ascend(model, unit, torch.rand_like(blank))
        return images, model.score(images, unit)[None]

    def fits_model(self, model, unit, blank):
        images = ascend(model, unit, blank)
        return images[..., 1:], model.score(images, unit)[None]


@pytest.mark.parametrize("name", [name for name in vars(Visualizations) if not name.startswith("_")])
def test_a_visualizer_with_a_defect(name):
    namespace = {"__doc__": "Images.", "name": "planted", "source": "nobody", "__call__": vars(Visualizations)[name]}
    instance = dataclass(frozen=True)(type("Planted", (Visualizer,), namespace))()
    assert failing(instance, name).check == name


# --- imputers ---------------------------------------------------------------------------------------------------------


def remaining_mean(x, removed):
    kept = (~removed).to(x)
    return (x * kept).sum((2, 3), keepdim=True) / kept.sum((2, 3), keepdim=True).clamp(min=1)


IMPUTERS = {
    "keeps_remaining_pixels": lambda self, x, removed: remaining_mean(x, removed).expand_as(x),
    "fills_removed_pixels": lambda self, x, removed: x.clone(),
    "ignores_removed_values": lambda self, x, removed: torch.where(removed, x.mean((2, 3), keepdim=True), x),
    "images_are_independent": lambda self, x, removed: torch.where(
        removed, remaining_mean(x, removed).mean(0, keepdim=True), x
    ),
    "arguments_unchanged": lambda self, x, removed: x.masked_fill_(removed, 0),
    "repeats": lambda self, x, removed: torch.where(removed, torch.rand_like(x), x),
    "fits_images": lambda self, x, removed: torch.where(
        removed, (x * ~removed).sum((2, 3), keepdim=True) / (~removed).sum((2, 3), keepdim=True), x
    ),
}


@pytest.mark.parametrize("name", IMPUTERS)
def test_an_imputer_with_a_defect(name):
    namespace = {"__doc__": "A filling.", "name": "planted", "source": "nobody", "__call__": IMPUTERS[name]}
    instance = dataclass(frozen=True)(type("Planted", (Imputer,), namespace))()
    assert failing(instance, name).check == name


def test_a_good_imputer_passes():
    @dataclass(frozen=True)
    class Mean(Imputer):
        """The mean of the remaining pixels."""

        name = "remaining_mean"
        source = "nobody"

        def __call__(self, x, removed):
            return torch.where(removed, remaining_mean(x, removed), x)

    report = report_conformance(Mean())
    assert not report.failures, report


def test_an_error_of_the_class_is_a_failure_of_the_check():
    def call(self, model, x, target):
        raise KeyError("missing")

    error = failing(method("Raising", __call__=call), "fits_images")
    assert "KeyError" in error.observed
    assert isinstance(error.__cause__, KeyError)


def test_what_is_checked_is_an_instance():
    from attribkit._core.errors import InvalidInput

    with pytest.raises(InvalidInput, match="Checks exist for instances of Method, Metric"):
        checks_of(Explainer)
