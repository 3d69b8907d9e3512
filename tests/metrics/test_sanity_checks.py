"""Sanity checks: maps that ignore the model are caught, and the user's model is not touched."""

import threading
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import nn

from attribkit import AttribkitError, Contrast, Explainer, Probability, load_model, registry, zoo
from attribkit._contracts.metric import Robustness
from attribkit.metrics._sanity import (
    ClassRandomisation,
    ParameterRandomisation,
    RandomCopy,
    randomisation_stages,
    similarity,
)
from attribkit.testing import changes, model_state, tiny_cnn
from tests.maps import NAN, check_precision, check_that_images_do_not_meet, same
from tests.metrics.test_robustness import Gradient

EVERY = [
    ParameterRandomisation(stages=2),
    ParameterRandomisation(order="independent", similarity="cosine", magnitudes=True),
    ClassRandomisation(),
]


class Tangled(nn.Module):
    """Registered in another order than it runs, with tensors of its own and shared weights."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.position = nn.Parameter(torch.randn(1, 3, 8, 8))
        self.aside = nn.ModuleDict({"inner": Inner()})
        self.norm = nn.BatchNorm2d(4)
        nn.init.uniform_(self.norm.get_buffer("running_var"), 0.5, 2.0)
        self.register_buffer("table", torch.randn(3))
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.again = nn.Conv2d(3, 4, 3, padding=1)
        self.again.weight = self.stem.weight

    def forward(self, x):
        x = x + self.position
        x = self.stem(x) - self.again(2 * x)
        return self.head(self.aside["inner"](self.norm(x).relu()).mean((2, 3)))


class Inner(nn.Module):
    """Reads the weights of its child past the child's forward."""

    def __init__(self):
        super().__init__()
        self.child = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x):
        return torch.einsum("bchw,dc->bdhw", x, self.child.weight) * self.scale[:, None, None]


def images(*shape):
    return torch.randn(*shape)


def joined(stages):
    return list(chain(*stages))


def hooked(model, x):
    return Explainer(model).model.bind(x)


def test_stages_go_from_the_output_to_the_input():
    stages = randomisation_stages(hooked(Tangled().eval(), x := images(2, 3, 8, 8)), x, None)
    assert [set(names) for names in stages] == [
        {"head.weight", "head.bias"},
        {"aside.inner.scale", "aside.inner.child.weight", "aside.inner.child.bias"},
        {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"},
        {"again.weight", "again.bias"},  # the shared weight once, where it is nearest to the output
        {"stem.bias"},
        {"position"},
    ]


@pytest.mark.parametrize("most", [1, 2, 4, 6, 50])
def test_stages_can_be_few(most):
    model = hooked(Tangled().eval(), x := images(2, 3, 8, 8))
    stages, every = randomisation_stages(model, x, most), randomisation_stages(model, x, None)
    assert joined(stages) == joined(every)
    assert len(stages) == min(most, 6)


def test_all_that_was_learnt_becomes_random_and_can_be_what_it_was():
    model = hooked(module := Tangled().eval(), x := images(1, 3, 8, 8))
    copy = RandomCopy(model, seed=3)
    names = joined(randomisation_stages(model, x, None))
    copy.randomise(names)
    mine, own = copy.model.module.state_dict(), module.state_dict()
    same_as_before = {name for name in own if torch.equal(mine[name], own[name])}
    constant = {"norm.weight", "norm.bias", "norm.running_mean", "norm.num_batches_tracked"}
    assert same_as_before == {"table", *constant}  # a table is no statistic of a normalisation
    assert mine["stem.weight"] is mine["again.weight"] or torch.equal(mine["stem.weight"], mine["again.weight"])
    assert torch.equal(mine["norm.running_var"].sort().values, own["norm.running_var"].sort().values)
    copy.restore(names)
    assert all(torch.equal(value, own[name]) for name, value in copy.model.module.state_dict().items())


def test_layers_of_one_shape_get_numbers_of_their_own():
    module = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Flatten(), nn.LazyLinear(2)).eval()
    module(x := images(1, 3, 8, 8))
    first, again, other, draw = (RandomCopy(hooked(module, x), seed) for seed in (0, 0, 1, 0))
    for copy, number in ((first, 0), (again, 0), (other, 0), (draw, 1)):
        copy.randomise(["0.weight", "1.weight"], number)
    weights = [copy.model.module.get_parameter("0.weight").detach() for copy in (first, again, other, draw)]
    assert torch.equal(weights[0], weights[1])
    different = [*weights[1:], first.model.module.get_parameter("1.weight").detach()]
    assert all(abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 0.5
               for i, a in enumerate(different) for b in different[:i])  # fmt: skip


def test_noise_is_as_strong_as_the_weights():
    module = nn.Sequential(nn.Conv2d(3, 64, 5), nn.Flatten(), nn.Linear(64 * 16, 2)).eval()
    nn.init.constant_(module[0].weight, 0.3)  # a constant has a strength too
    copy = RandomCopy(hooked(module, images(1, 3, 8, 8)), 0)
    copy.randomise(["0.weight"])
    weight = copy.model.module[0].weight
    assert weight.square().mean().sqrt().item() == pytest.approx(0.3, rel=0.05)
    assert abs(weight.mean().item()) < 0.02


@pytest.mark.parametrize("kind", ["spearman", "cosine", "ssim", "hog"])
@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_a_map_that_does_not_read_the_model_is_caught(kind, order, cnn):
    explainer, x = Explainer(cnn), images(2, 3, 64, 64)
    attribution = explainer.attribute(x, "edges", target=[1, 2])
    metrics = [ParameterRandomisation(order=order, similarity=kind, stages=2), ClassRandomisation(similarity=kind)]
    for found in explainer.measure([attribution], metrics):
        assert found.values.tolist() == [[1, 1]]
        assert all((each == 1).all() for each in found.details.values())


@pytest.mark.parametrize("name", ["cnn", "vit"])
@pytest.mark.parametrize(("method", "most"), [("gradcam", 0.5), ("input_x_gradient", 0.1)])
def test_maps_that_read_a_trained_model_are_far_off(name, method, most, request):
    model, preprocess = request.getfixturevalue(name), load_model(f"zoo:{name}").preprocessing
    x = torch.stack([preprocess(Image.fromarray(scene.image)) for scene in zoo.scenes(4)])
    explainer = Explainer(model)
    attribution = explainer.attribute(x, method)
    found = explainer.measure([attribution], [ParameterRandomisation(stages=3)])[0]
    assert found.values.nanmean().abs() < most  # a Grad-CAM of a random model may be zero: not to be compared
    assert found.details["similarity"].shape == (1, 4, 3)
    same(found.details["similarity"][..., -1], found.values)
    assert found.details["floor"].shape == (1, 4)
    assert explainer.evaluate(attribution, "class_randomisation", similarity="cosine").nanmean() < 0.5


def test_the_similarity_is_that_to_a_random_model():
    """A linear model's gradient is its weights: the maps of random models are known."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 4)).double().eval()
    explainer, x = Explainer(module), torch.randn(2, 1, 6, 6, dtype=torch.float64)
    attribution = explainer.attribute(x, Gradient(), target=2)
    found = explainer.measure([attribution], [ParameterRandomisation(seed=7)])[0]
    copy, rows = RandomCopy(hooked(module, x), seed=7), []
    for draw in range(2):
        copy.randomise(["1.weight"], draw)
        rows.append(copy.model.module[1].weight[2].detach().numpy().copy())
    expected = spearmanr(module[1].weight[2].detach(), rows[0]).statistic
    same(found.values[0], [expected, expected], 1e-9)
    same(found.details["floor"][0], [spearmanr(*rows).statistic] * 2, 1e-9)


def test_the_mean_over_independent_layers():
    """Of two linear layers, one random at a time."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Linear(5, 4)).double().eval()
    explainer, x = Explainer(module), torch.randn(1, 1, 6, 6, dtype=torch.float64)
    attribution = explainer.attribute(x, Gradient(), target=2)
    found = explainer.measure([attribution], [ParameterRandomisation(order="independent", similarity="cosine")])[0]
    first, second = module[1].weight.detach(), module[2].weight.detach()
    copy = RandomCopy(hooked(module, x), seed=0)
    copy.randomise(["1.weight", "2.weight"])
    maps = [copy.model.module[2].weight[2] @ first, second[2] @ copy.model.module[1].weight]
    expected = [torch.cosine_similarity(each, second[2] @ first, dim=0).item() for each in maps]
    same(found.details["similarity"][0, 0], expected, 1e-9)
    same(found.values[0], [np.mean(expected)], 1e-9)
    mean = explainer.measure([attribution], [ParameterRandomisation(value="mean")])[0]
    same(mean.values, mean.details["similarity"].mean(2))


def test_classes_with_orthogonal_weights_have_maps_that_are_not_alike():
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 5)).double().eval()
    nn.init.orthogonal_(module[1].weight)
    explainer, x = Explainer(module), torch.randn(3, 1, 4, 4, dtype=torch.float64)
    attribution = explainer.attribute(x, Gradient(), target=[0, 4, 2])
    found = explainer.measure([attribution], [ClassRandomisation(similarity="cosine")])[0]
    same(found.values, torch.zeros(1, 3), 1e-12)
    same(found.details["floor"], torch.zeros(1, 3), 1e-12)


def test_the_other_class_depends_on_the_class_alone_and_may_be_any():
    model = hooked(nn.Sequential(nn.Flatten(), nn.Linear(16, 5)).eval(), x := images(4, 1, 4, 4))
    asked = set()
    for seed in range(40):
        metric = ClassRandomisation(seed=seed)
        first, second = (metric._other_target(Probability((3, 0, 3, 1)), model, x, which).index for which in (0, 1))
        assert first[0] == first[2] == metric._other_target(Probability(3), model, x, 0).index
        assert all(len({a, b, c}) == 3 for a, b, c in zip((3, 0, 3, 1), first, second, strict=True))
        asked.add(first[0])
    assert asked == {0, 1, 2, 4}


def test_two_classes_have_no_third():
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    explainer, x = Explainer(module), images(2, 1, 4, 4)
    found = explainer.measure([explainer.attribute(x, Gradient())], [ClassRandomisation()])[0]
    assert found.values.isfinite().all()
    assert found.details["floor"].isnan().all()


def test_one_logit_has_the_opposite_map():
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 1)).eval()
    explainer = Explainer(module)
    attribution = explainer.attribute(images(2, 1, 4, 4), Gradient(), target=0)
    same(explainer.evaluate(attribution, "class_randomisation", similarity="cosine"), [-1, -1], 1e-12)
    same(explainer.evaluate(attribution, "class_randomisation", magnitudes=True), [1, 1])


def test_what_is_no_class_is_refused():
    explainer = Explainer(tiny_cnn())
    attribution = explainer.attribute(images(2, 3, 16, 16), "gradcam", target=Contrast(1, 2))
    with pytest.raises(AttribkitError, match=r"'class_randomisation' requires a class target, .* got Contrast\("):
        explainer.evaluate(attribution, "class_randomisation")


@pytest.mark.parametrize("metric", EVERY, ids=repr)
def test_the_users_model_is_left_as_it_was(metric):
    module = tiny_cnn()
    explainer, x = Explainer(module), images(2, 3, 16, 16)
    before = model_state(module)
    explainer.evaluate(explainer.attribute(x, "gradcam"), metric)
    assert not changes(before, model_state(module))


def test_a_model_that_cannot_be_copied_is_refused():
    module = tiny_cnn()
    module.lock = threading.Lock()
    explainer = Explainer(module)
    attribution = explainer.attribute(images(1, 3, 16, 16), "gradcam")
    with pytest.raises(AttribkitError, match=r"Sequential cannot be copied.*deepcopy"):
        explainer.evaluate(attribution, "parameter_randomisation")


def test_a_model_that_has_nothing_to_randomise_is_refused():
    module = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    explainer = Explainer(module)
    attribution = explainer.attribute(images(2, 3, 8, 8), Gradient(), target=0)
    with pytest.raises(AttribkitError, match="are constant"):
        explainer.evaluate(attribution, "parameter_randomisation")


@pytest.mark.parametrize(("order", "floor"), [("cascading", 1), ("independent", 2)])
def test_images_of_the_copies_are_counted_and_the_layer_is_that_of_the_model(order, floor):
    explainer = Explainer(tiny_cnn())
    attribution = explainer.attribute(images(2, 3, 16, 16), "gradcam")
    before = explainer.model.image_count
    explainer.evaluate(attribution, ParameterRandomisation(stages=3, order=order))
    assert explainer.model.image_count - before == 1 + (3 + floor) * 2  # the order of the layers, stages and a floor


@pytest.mark.parametrize("metric", EVERY, ids=repr)
def test_images_do_not_meet(metric):
    check_that_images_do_not_meet(metric)


@pytest.mark.parametrize("metric", EVERY, ids=repr)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)], ids=str)
def test_other_precisions_have_the_numbers_of_double(metric, dtype, tolerance):
    check_precision(metric, dtype, tolerance, tolerance)  # similarities are between -1 and 1


def test_similarities_are_those_of_scipy_and_skimage():
    first, second = torch.randn(2, 50, 60).round(decimals=1), torch.randn(2, 50, 60).round(decimals=1)
    stretched = [[(a - a.min()) / (a.max() - a.min()) for a in each.double().numpy()] for each in (first, second)]
    pairs = list(zip(*stretched, strict=True))
    cells = {"pixels_per_cell": (16, 16), "cells_per_block": (3, 3)}
    for kind, expected in (
        ("spearman", [spearmanr(a.ravel(), b.ravel()).statistic for a, b in pairs]),
        ("ssim", [structural_similarity(a, b, data_range=1, gaussian_weights=True, sigma=1.5,
                                        use_sample_covariance=False) for a, b in pairs]),
        ("hog", [np.corrcoef(hog(a, **cells), hog(b, **cells))[0, 1] for a, b in pairs]),
        ("cosine", torch.cosine_similarity(first.double().flatten(1), second.double().flatten(1)).tolist()),
    ):  # fmt: skip
        same(similarity(kind, first, second), expected, 1e-9)
        same(similarity(kind, first, first * 3), [1, 1], 1e-9)


def test_constant_maps_cannot_be_compared():
    constant, other = torch.full((1, 50, 50), 0.1), torch.randn(1, 50, 50)
    for kind in ("spearman", "ssim", "hog"):
        same(similarity(kind, constant, other), [NAN])
    same(similarity("cosine", 0 * constant, other), [NAN])


def test_maps_that_a_similarity_cannot_read_are_refused():
    small, volume = torch.randn(1, 9, 9), torch.randn(1, 50, 50, 50)
    with pytest.raises(AttribkitError, match="needs maps of at least 11 pixels"):
        similarity("ssim", small, small)
    for maps in (small, volume):
        with pytest.raises(AttribkitError, match="'hog' requires maps with two spatial axes of at least 48 pixels"):
            similarity("hog", maps, maps)


def test_options_that_make_no_sense_are_refused(as_users_run):
    for name, options in (
        ("parameter_randomisation", {"similarity": "sim"}),
        ("parameter_randomisation", {"order": "upwards"}),
        ("parameter_randomisation", {"order": "independent", "value": "last"}),
        ("parameter_randomisation", {"stages": 0}),
        ("class_randomisation", {"seed": -1}),
    ):
        with pytest.raises(AttribkitError, match=next(iter(options))):
            registry.make(name, Robustness, **options)


def test_a_stage_that_cannot_change_is_none():
    """Constant tensors have no other order: a map that reads all weights would still get 1 for them."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 14 * 14, 3)).eval()
    assert [
        sorted(names) for names in randomisation_stages(hooked(model, images(1, 3, 16, 16)), images(1, 3, 16, 16), None)
    ] == [
        ["3.bias", "3.weight"],
        ["0.bias", "0.weight"],
    ]


class Normalize(nn.Module):
    """The preprocessing, in the model."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1))

    def forward(self, x):
        return (x - self.mean) / self.std


class Fused(nn.Module):
    """A normalisation by another name, with what it has learnt in buffers and parameters."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4))
        self.register_buffer("running_mean", torch.randn(4))
        self.register_buffer("running_var", torch.rand(4))

    def forward(self, x):
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight)


def test_statistics_are_random_and_preprocessing_is_not():
    model = nn.Sequential(Normalize(), nn.Conv2d(3, 4, 3), Fused(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3)).eval()
    x = images(1, 3, 16, 16)
    names = set(joined(randomisation_stages(hooked(model, x), x, None)))
    assert {"2.weight", "2.running_mean", "2.running_var"} < names
    assert not {"0.mean", "0.std"} & names
