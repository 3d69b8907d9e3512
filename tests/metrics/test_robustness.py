"""Metrics of robustness against closed forms and captum."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from attribkit import AttribkitError, Attribution, Explainer, Method, registry
from attribkit._contracts.metric import Robustness
from attribkit.metrics._robustness import AverageSensitivity, LocalLipschitz, MaxSensitivity
from attribkit.testing import tiny_cnn
from tests.maps import NAN, check_precision, check_that_images_do_not_meet, same

EVERY = [MaxSensitivity(samples=3), AverageSensitivity(samples=3), LocalLipschitz(samples=3)]


@dataclass(frozen=True)
class Gradient(Method):
    """The plain gradient."""

    name: ClassVar[str] = "plain_gradient"
    source: ClassVar[str] = "a test"

    def __call__(self, model, x, target):
        return model.gradient(x, target)


class Linear(nn.Module):
    """Two classes: w x and its negation."""

    def __init__(self, channels=1):
        super().__init__()
        self.w = nn.Parameter(torch.randn(channels, 6, 6, dtype=torch.float64))

    def forward(self, x):
        y = (x * self.w).flatten(1).sum(1)
        return torch.stack([y, -y], 1)


class Quadratic(Linear):
    """Half of alpha x², and its negation."""

    def forward(self, x):
        y = (x.square() * (0 * self.w - 1.75)).flatten(1).sum(1)
        return torch.stack([y, -y], 1) / 2


def uniform(metric, shape):
    """The noise that the options stand for, written anew."""
    random = torch.Generator().manual_seed(metric.seed)
    return [(2 * torch.rand(shape, generator=random) - 1) * metric.radius for _ in range(metric.samples)]


@pytest.mark.parametrize("metric", EVERY, ids=repr)
def test_the_gradient_of_a_linear_model_does_not_move(metric):
    explainer = Explainer(Linear())
    attribution = explainer.attribute(torch.randn(2, 1, 6, 6, dtype=torch.float64), Gradient(), target=0)
    same(explainer.evaluate(attribution, metric), [0, 0])


def test_the_gradient_of_a_quadratic_model_moves_as_the_image_does():
    explainer, x = Explainer(Quadratic()), torch.randn(2, 1, 6, 6, dtype=torch.float64)
    attribution = explainer.attribute(x, Gradient(), target=0)
    same(explainer.evaluate(attribution, "local_lipschitz"), [1.75, 1.75], 1e-9)
    metric = MaxSensitivity(radius=0.3, samples=4, seed=2)
    sizes = torch.stack([each.double().norm() for each in uniform(metric, (1, 1, 6, 6))])
    norms = x.flatten(1).norm(dim=1)
    same(explainer.evaluate(attribution, metric), sizes.max() / norms, 1e-9)
    average = AverageSensitivity(radius=0.3, samples=4, seed=2)
    same(explainer.evaluate(attribution, average), sizes.mean() / norms, 1e-9)


def test_channels_are_summed_before_a_move_is_measured():
    explainer, x = Explainer(Linear(3)), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    attribution = explainer.attribute(x, "input_x_gradient", target=0)
    metric = MaxSensitivity(samples=3)
    w = explainer.model.module.w.detach()
    lengths = [(w * noise).sum(1).norm() for noise in uniform(metric, (1, 3, 6, 6))]
    same(explainer.evaluate(attribution, metric), max(lengths) / (w * x).sum(1).flatten(1).norm(dim=1), 1e-9)


@pytest.mark.parametrize("method", ["input_x_gradient", "gradcam", "occlusion"])
def test_max_sensitivity_is_captums(method):
    metrics = pytest.importorskip("captum.metrics")
    explainer, x = Explainer(tiny_cnn().double()), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    options = {"patch": 8, "stride": 8} if method == "occlusion" else {}
    metric = MaxSensitivity(samples=4, seed=5, radius=0.1)

    def explained(images):  # as captum's own methods: a tuple for a tuple
        if isinstance(images, tuple):
            return tuple(explained(each) for each in images)
        return explainer.attribute(images, method, target=1, **options).heatmap()

    def perturbed(images):  # the samples of the first image, those of the second ...
        return images + torch.cat(uniform(metric, (1, 3, 16, 16))).to(x).repeat(len(x), 1, 1, 1)

    expected = metrics.sensitivity_max(explained, x, perturbed, n_perturb_samples=4)
    found = explainer.evaluate(explainer.attribute(x, method, target=1, **options), metric)
    same(found, expected, 1e-9)


def test_both_sensitivities_ask_once():
    explainer, x = Explainer(tiny_cnn()), torch.randn(2, 3, 16, 16)
    attribution = explainer.attribute(x, Gradient(), target=1)
    before = explainer.model.image_count
    explainer.measure([attribution], ["max_sensitivity", "average_sensitivity"])
    assert explainer.model.image_count - before == 2 * 10


def test_more_samples_never_lower_the_largest_move():
    explainer = Explainer(tiny_cnn())
    attribution = explainer.attribute(torch.randn(2, 3, 16, 16), "input_x_gradient")
    for name in ("max_sensitivity", "local_lipschitz"):
        few, more = (explainer.evaluate(attribution, name, samples=n) for n in (3, 9))
        assert (more >= few).all()
        assert (few > 0).all()


def test_a_zero_map_has_no_sensitivity():
    explainer = Explainer(tiny_cnn())
    attribution = explainer.attribute(torch.randn(2, 3, 16, 16), "gradcam")
    silent = replace(attribution, scores=torch.zeros_like(attribution.scores))
    for name in ("max_sensitivity", "average_sensitivity"):
        same(explainer.evaluate(silent, name, samples=2), [NAN, NAN])


def test_the_seed_decides():
    explainer = Explainer(tiny_cnn())
    attribution = explainer.attribute(torch.randn(2, 3, 16, 16), "input_x_gradient")
    first, again, other = (explainer.evaluate(attribution, "local_lipschitz", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class Scaled(nn.Module):
    """A model whose forward takes a scale for each image beside it."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_cnn().double()

    def forward(self, x, scale):
        return self.inner(x * scale[:, None, None, None])


@pytest.mark.parametrize("name", ["local_lipschitz", "parameter_randomisation", "class_randomisation"])
def test_images_are_asked_about_with_the_inputs_that_belong_to_them(name):
    explainer, x = Explainer(Scaled()), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    scale = torch.tensor([1.0, 3.0], dtype=torch.float64)
    both = explainer.attribute(x, Gradient(), target=1, inputs={"scale": scale})
    found = explainer.evaluate(both, name, inputs={"scale": scale})
    for i in range(2):
        own = {"scale": scale[i : i + 1]}
        alone = explainer.attribute(x[i : i + 1], Gradient(), target=1, inputs=own)
        same(explainer.evaluate(alone, name, inputs=own), found[i : i + 1], 1e-9)


@pytest.mark.parametrize("name", ["max_sensitivity", "parameter_randomisation", "class_randomisation"])
def test_volumes(name):
    module = nn.Sequential(nn.Conv3d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 4))
    explainer = Explainer(module)
    attribution = explainer.attribute(torch.randn(2, 1, 12, 13, 14), "input_x_gradient", target=1)
    options = {} if name == "max_sensitivity" else {"similarity": "ssim"}
    found = explainer.evaluate(attribution, name, **options)
    assert (found.abs() < 1).all()
    assert (found != 0).all()


def test_a_method_from_a_file_is_refused_by_name(tmp_path):
    explainer = Explainer(tiny_cnn())
    explainer.attribute(torch.randn(2, 3, 16, 16), "gradcam").save(tmp_path / "a.safetensors")
    loaded = Attribution.load(tmp_path / "a.safetensors")
    for name in ("max_sensitivity", "local_lipschitz", "parameter_randomisation", "class_randomisation"):
        with pytest.raises(AttribkitError, match=rf"'{name}' runs the method again, but the attribution by GradCAM\("):
            explainer.evaluate(loaded, name)


@dataclass(frozen=True)
class Careless(Method):
    """Writes into the images that it is given."""

    name: ClassVar[str] = "careless"
    source: ClassVar[str] = "a test"

    def __call__(self, model, x, target):
        return model.gradient(x.mul_(2), target)


@pytest.mark.parametrize("name", ["max_sensitivity", "parameter_randomisation", "class_randomisation"])
def test_the_attribution_is_left_as_it_was(name):
    explainer, x = Explainer(tiny_cnn()), torch.randn(2, 3, 16, 16)
    attribution = replace(explainer.attribute(x, "saliency", target=1), method=Careless())
    seen = attribution.x.clone()
    with pytest.raises(AttribkitError, match="modified the images x in place"):
        explainer.evaluate(attribution, name)
    assert torch.equal(attribution.x, seen)


@pytest.mark.parametrize("metric", EVERY, ids=repr)
def test_images_do_not_meet(metric):
    check_that_images_do_not_meet(metric)


# Noise that bfloat16 does not round away.
LOUD = [MaxSensitivity(radius=0.5, samples=3), AverageSensitivity(radius=0.5, samples=3), LocalLipschitz(sigma=0.5)]


@pytest.mark.parametrize("metric", LOUD, ids=repr)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)], ids=str)
def test_other_precisions_have_the_numbers_of_double(metric, dtype, tolerance):
    check_precision(metric, dtype, tolerance)


def test_no_noise_is_refused(as_users_run):
    for name, options in (
        ("max_sensitivity", {"samples": 0}),
        ("average_sensitivity", {"radius": 0.0}),
        ("local_lipschitz", {"sigma": NAN}),
    ):
        with pytest.raises(AttribkitError, match=f"{next(iter(options))} must be a.*, got "):
            registry.make(name, Robustness, **options)
