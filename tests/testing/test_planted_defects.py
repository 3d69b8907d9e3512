"""Plugin classes with one planted defect each: the check of that name fails, and names what it saw."""

from dataclasses import dataclass, replace
from itertools import count
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from attribkit import (
    ClassLogit,
    Complexity,
    Contrast,
    Counterfactual,
    Direction,
    EmbeddingNorm,
    Explainer,
    Faithfulness,
    Imputer,
    Localization,
    Method,
    ModelSpec,
    MultiLabel,
    NoTarget,
    Probability,
    Seed,
    Target,
    Visualizer,
)
from attribkit.datasets import Dataset, ImageSource, ItemDataset, MaskSource, Sample
from attribkit.testing import ConformanceError, checks_of, report_conformance, tiny_cnn, tiny_transformer


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

    def memory(self, model, x, target):
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
GROWING = {"tensor": torch.zeros(0)}


@pytest.mark.parametrize("keep", ["one tensor that grows", "arrays"])
def test_memory_that_grows_without_a_growing_number_of_tensors(keep):
    def call(self, model, x, target):
        if keep == "arrays":
            KEPT.append(x.numpy().copy())
        else:
            GROWING["tensor"] = torch.cat([GROWING["tensor"], x.flatten()])
        return good(model, x, target)

    assert "bytes of tensors or arrays" in failing(method("Keeping", __call__=call), "memory").observed


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


def test_a_method_that_breaks_on_volumes():
    def call(self, model, x, target):
        return torch.nn.functional.avg_pool2d(good(model, x, target), 3, 1, 1)

    error = failing(method("Flat", __call__=call), "volumes")
    assert "RuntimeError" in error.observed
    assert f"({__file__}, line " in error.observed


def test_the_same_error_of_several_checks_is_printed_once():
    def call(self, model, x, target):
        raise KeyError("missing")

    report = report_conformance(method("Raising", __call__=call))
    assert str(report).count("KeyError") == 1
    assert f": as {report.failures[0].check}" in str(report)


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


# --- model specifications ---------------------------------------------------------------------------------------------


class TwoInputs(torch.nn.Module):
    """A network whose images are the second parameter of the forward, and which returns a dictionary."""

    def __init__(self):
        super().__init__()
        self.network = tiny_cnn()

    def forward(self, age=None, pixels=None):
        return {"logits": self.network(pixels), "age": age}


class LastAxisChannels(torch.nn.Module):
    """A network of images (b, h, w, c)."""

    def __init__(self):
        super().__init__()
        self.network = tiny_cnn()

    def forward(self, x):
        return self.network(x.permute(0, 3, 1, 2))


def probabilities():
    return torch.nn.Sequential(tiny_cnn(), torch.nn.Softmax(1)).eval()


SPEC = {"input_size": (3, 16, 16), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2), "labels": tuple("abcde")}
NOISE = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SPEC_DEFECTS = {
    "parameter that does not exist": ("image", {"image": "pixel_values"}, tiny_cnn, NOISE),
    "probabilities for logits": ("outputs", {"outputs": "probabilities"}, tiny_cnn, NOISE),
    "log-probabilities for logits": ("outputs", {"outputs": "log_probabilities"}, tiny_cnn, NOISE),
    "logits for probabilities": ("outputs", {"outputs": "logits"}, probabilities, NOISE),
    "log-probabilities for probabilities": ("outputs", {"outputs": "log_probabilities"}, probabilities, NOISE),
    "embedding with labels": ("embedding", {"is_embedding_model": True}, tiny_cnn, NOISE),
    "one label too few": ("labels", {"labels": tuple("abcd")}, tiny_cnn, NOISE),
    "labels in one string": ("labels", {"labels": "abcde"}, tiny_cnn, NOISE),
    "labels that are numbers": ("labels", {"labels": (0, 1, 2, 3, 4)}, tiny_cnn, NOISE),
    "labels of a dictionary of outputs": ("labels", {"labels": ("cat",), "image": "pixels"}, TwoInputs, NOISE),
    "size with channels last": ("preprocessing", {"input_size": (16, 16, 3)}, tiny_cnn, NOISE),
    "size without channels": ("preprocessing", {"input_size": (16, 16)}, tiny_cnn, NOISE),
    "size of a grey image": ("preprocessing", {"input_size": (1, 16, 16)}, tiny_cnn, NOISE),
    "size that the model does not accept": ("preprocessing", {"input_size": (3, 24, 24)}, tiny_transformer, NOISE),
    "mean for pixels up to 255": ("preprocessing", {"mean": (123.7, 116.3, 103.5)}, tiny_cnn, NOISE),
    "standard deviation of zero": ("preprocessing", {"std": (0.2, 0.2, 0.0)}, tiny_cnn, NOISE),
    "two means for three channels": ("preprocessing", {"mean": (0.5, 0.5)}, tiny_cnn, NOISE),
    "channels in the wrong place": (
        *("axes", {"axes": "bchw", "input_size": None}),
        *(LastAxisChannels, NOISE.permute(0, 2, 3, 1)),
    ),
    "one axis too many": ("axes", {"axes": "btchw"}, tiny_cnn, NOISE),
    "layer that does not exist": ("layer", {"layer": "blocks.9"}, tiny_cnn, NOISE),
    "layer that is not a map": ("layer", {"layer": "8"}, tiny_cnn, NOISE),
    "no prefix tokens": ("layouts", {"prefix_tokens": 0}, tiny_transformer, NOISE),
    "too many prefix tokens": ("layouts", {"prefix_tokens": 5}, tiny_transformer, NOISE),
    "prefix tokens of a network without tokens": ("layouts", {"prefix_tokens": 1}, tiny_cnn, NOISE),
    "patch of other sides": ("layouts", {"patch": (2, 8)}, tiny_transformer, NOISE),
    "channels last": ("layouts", {"channels_last": True}, tiny_cnn, NOISE),
}


@pytest.mark.parametrize("defect", SPEC_DEFECTS)
def test_a_model_spec_with_a_defect(defect):
    name, changed, make, x = SPEC_DEFECTS[defect]
    assert name in failures(ModelSpec(**SPEC | changed), make().eval(), x), defect


@pytest.mark.parametrize(
    ("changed", "make", "x"),
    [
        ({}, tiny_cnn, NOISE),
        ({"outputs": "logits"}, tiny_cnn, NOISE),
        ({"outputs": "probabilities"}, probabilities, NOISE),
        ({"image": "pixels"}, TwoInputs, NOISE),
        ({"axes": "bhwc"}, LastAxisChannels, NOISE.permute(0, 2, 3, 1)),
        ({"prefix_tokens": 1, "patch": (4, 4)}, tiny_transformer, NOISE),
    ],
)
def test_a_good_model_spec_passes(changed, make, x):
    assert failures(ModelSpec(**SPEC | changed), make().eval(), x) == []


# --- targets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoreOfClass(Target):
    """The score of one class for each image."""

    index: tuple[int, ...] = (0, 1, 2)

    @property
    def count(self):
        return len(self.index)

    def __call__(self, outputs):
        return outputs.gather(1, torch.tensor(self.index)[:, None])[:, 0]

    def subset(self, images):
        return replace(self, index=self.index[images])

    def tile(self, times):
        return replace(self, index=self.index * times)


class TargetDefects:
    """Subclasses with a defect; the name of each is the check that fails."""

    class one_score_per_image(ScoreOfClass):
        def __call__(self, outputs):
            return outputs

    class images_are_independent(ScoreOfClass):
        def __call__(self, outputs):
            return super().__call__(outputs.softmax(0))

    class differentiable(ScoreOfClass):
        def __call__(self, outputs):
            return outputs.argmax(1).float()

    class tile(ScoreOfClass):
        def tile(self, times):
            return replace(self, index=tuple(i for i in self.index for _ in range(times)))

    class count(ScoreOfClass):
        def subset(self, images):
            return self

    class repeats(ScoreOfClass):
        def __call__(self, outputs):
            return super().__call__(outputs) + torch.rand(len(outputs))

    class outputs_unchanged(ScoreOfClass):
        def __call__(self, outputs):
            return super().__call__(outputs.mul_(2))

    class equality(ScoreOfClass):
        def __eq__(self, other):
            return self is other

        __hash__ = object.__hash__


class MoreTargetDefects:
    """The same, where another check has the name."""

    class integers(ScoreOfClass):
        def __call__(self, outputs):
            return (1000 * super().__call__(outputs)).long()

    class infinite(ScoreOfClass):
        def __call__(self, outputs):
            return super().__call__(outputs) / 0

    class mean_of_the_batch(ScoreOfClass):
        def __call__(self, outputs):
            return super().__call__(outputs - outputs.mean(0))

    class without_graph(ScoreOfClass):
        def __call__(self, outputs):
            return super().__call__(outputs.detach())

    class constant(ScoreOfClass):
        def __call__(self, outputs):
            return torch.ones(len(outputs))


MORE_NAMES = {
    "integers": "one_score_per_image",
    "infinite": "one_score_per_image",
    "mean_of_the_batch": "images_are_independent",
    "without_graph": "differentiable",
    "constant": "differentiable",
}


@pytest.mark.parametrize("name", [name for name in vars(TargetDefects) if not name.startswith("_")])
def test_a_target_with_a_defect(name):
    assert name in failures(vars(TargetDefects)[name]())


@pytest.mark.parametrize("name", MORE_NAMES)
def test_a_target_with_another_defect(name):
    assert MORE_NAMES[name] in failures(vars(MoreTargetDefects)[name]())


GOOD_TARGETS = (
    *(ScoreOfClass(), ClassLogit(2), ClassLogit((0, 1, 2)), Probability((2, 1, 0)), Counterfactual(1)),
    *(Contrast(0, (1, 2, 3)), MultiLabel((0, 3)), EmbeddingNorm("3"), NoTarget(), Direction("3", torch.ones(6))),
)


@pytest.mark.parametrize("target", GOOD_TARGETS, ids=lambda target: type(target).__name__)
def test_a_good_target_passes(target):
    assert failures(target) == []


# --- data sets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pixels(ImageSource):
    """An image in memory."""

    name: str
    mode: str = "RGB"
    is_augmented: bool = False

    def read(self):
        seed = None if self.is_augmented else sum(map(ord, self.name))
        array = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        return Image.fromarray(array).convert(self.mode)

    def stamp(self):
        return self.name


@dataclass(frozen=True)
class Rectangle(MaskSource):
    """A mask in memory."""

    size: tuple[int, int] = (30, 40)
    inverted: bool = False
    empty: bool = False
    dtype: type = bool

    def read(self):
        mask = np.zeros(self.size, bool)
        mask[10:26, 6:30] = not self.empty
        return (mask != self.inverted).astype(self.dtype)

    def stamp(self):
        return repr(self)


BOX = np.array([[6.0, 10.0, 30.0, 26.0]])


@dataclass(frozen=True)
class ThreeImages(Dataset):
    """Three images with boxes and masks; `change` changes the fields of a sample."""

    change: object = None

    name: ClassVar[str] = "three_images"

    def read(self):
        for i, name in enumerate(("one", "two", "three")):
            sample = Sample(
                id=name, group=name, image_source=Pixels(name), label=i, boxes=BOX, mask_source=Rectangle()
            )  # fmt: skip
            yield replace(sample, **self.change(sample)) if self.change else sample


DATASET_DEFECTS = {
    "equal ids": ("samples", lambda _: {"id": "same"}),
    "grey images": ("images", lambda sample: {"image_source": Pixels(sample.id, "L")}),
    "images with an alpha channel": ("images", lambda sample: {"image_source": Pixels(sample.id, "RGBA")}),
    "random transforms": ("images", lambda sample: {"image_source": Pixels(sample.id, is_augmented=True)}),
    "one group for all images": ("groups", lambda _: {"group": "all"}),
    "one stamp for all images": ("groups", lambda _: {"image_source": Pixels("same")}),
    "names as labels": ("labels", lambda sample: {"label": sample.id}),
    "negative labels": ("labels", lambda sample: {"label": -1}),
    "mask with axes exchanged": ("masks", lambda _: {"mask_source": Rectangle((40, 30))}),
    "empty mask": ("masks", lambda _: {"mask_source": Rectangle(empty=True)}),
    "mask of bytes": ("masks", lambda _: {"mask_source": Rectangle(dtype=np.uint8)}),
    "inverted mask": ("boxes_contain_masks", lambda _: {"mask_source": Rectangle(inverted=True)}),
    "box of position and size": ("boxes_contain_masks", lambda _: {"boxes": np.array([[6.0, 10.0, 24.0, 16.0]])}),
    "box of rows and columns": ("boxes", lambda _: {"boxes": np.array([[10.0, 6.0, 26.0, 30.0 + 1]])}),
    "box of fractions": ("boxes", lambda _: {"boxes": BOX / (40, 30, 40, 30), "mask_source": None}),
    "box beyond the image": ("boxes", lambda _: {"boxes": BOX * 2}),
    "box without the axis of objects": ("boxes", lambda _: {"boxes": BOX[0]}),
    "no boxes": ("boxes", lambda _: {"boxes": BOX[:0]}),
}


@pytest.mark.parametrize("defect", DATASET_DEFECTS)
def test_a_data_set_with_a_defect(defect):
    name, change = DATASET_DEFECTS[defect]
    assert name in failures(ThreeImages(change)), defect


@pytest.mark.parametrize(
    "change",
    [
        lambda sample: {"boxes": BOX[:0], "mask_source": Rectangle(empty=True)} if sample.label else {},
        lambda sample: {"boxes": BOX[:0]} if sample.label else {},
        lambda sample: {"mask_source": Rectangle(empty=True)} if sample.label else {},
    ],
)
def test_a_sound_data_set_with_images_without_objects(change):
    assert not failures(ThreeImages(change))


def test_a_sound_data_set_of_items_with_functions():
    images = [Image.new("RGB", (40, 30), (50 * i, 0, 0)) for i in range(2)]
    described = [{"image": images[i // 2].copy, "id": f"{i}", "group": f"{i // 2}"} for i in range(4)]
    assert not failures(ItemDataset(described))


def test_a_data_set_in_another_order_each_time():
    class Shuffled(ThreeImages):
        def read(self):
            ORDER.reverse()
            return [sample for _, sample in sorted(zip(ORDER, super().read(), strict=True), key=lambda pair: pair[0])]

    assert "samples" in failures(Shuffled())


ORDER = [0, 1, 2]
STAMPS = count()


def test_a_data_set_without_samples():
    class Empty(ThreeImages):
        def read(self):
            return []

    assert "samples" in failures(Empty())


def test_a_data_set_whose_stamps_change():
    class Changing(Pixels):
        def stamp(self):
            return f"{self.name} {next(STAMPS)}"

    assert "fingerprint" in failures(ThreeImages(lambda sample: {"image_source": Changing(sample.id)}))


@pytest.mark.parametrize("change", [None, lambda _: {"boxes": None}, lambda _: {"mask_source": None, "label": None}])
def test_a_good_data_set_passes(change):
    assert failures(ThreeImages(change)) == []
