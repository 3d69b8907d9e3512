"""Feature accentuation: the seed image as limit, closed forms, the penalty, and the conformance suite."""

import numpy as np
import pytest
import torch
from attribkit_maco import FeatureAccentuation, Maco, SeedImages, visualize_with_importance
from attribkit_maco.colours import ColourSpace
from attribkit_maco.features import FeatureDistance, FeaturePenalty
from attribkit_maco.views import RandomViews
from PIL import Image
from torch import nn

import attribkit.testing as testing
import attribkit.zoo as zoo
from attribkit import AttribkitError, Explainer, ModelSpec, load_model

WHOLE = {"crops": 1, "crop_size": (1.0, 1.0), "noise": 0.0}
BOUNDED = ModelSpec(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
PARAMETRISATIONS = ["phase", "fourier"]


def doubles(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def photograph(*shape, seed=0):
    """Normalised pixels from 0 to 1, black and white ones among them."""
    pixels = (doubles(*shape, seed=seed) + 0.5).clamp(0, 1)
    mean, std = (torch.tensor(each, dtype=torch.float64).view(3, 1, 1) for each in (BOUNDED.mean, BOUNDED.std))
    return (pixels - mean) / std


@pytest.mark.parametrize("check", testing.VISUALIZER_CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_conformance(check, parametrisation):
    image = doubles(3, 16, 16)
    options = {"steps": 24, "crops": 2, "regularization": 0.01, "learning_rate": 0.2}
    visualizer = FeatureAccentuation(image=image, parametrisation=parametrisation, **options)
    check(visualizer, testing.tiny_cnn(), (3, 16, 16))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    options = {"steps": 24, "regularization": 0.01, "learning_rate": 0.2}
    testing.check_visualizer(FeatureAccentuation(image=doubles(3, 16, 16), **options), testing.tiny_cnn().to(dtype))


@pytest.mark.parametrize("size", [(3, 15, 17), (3, 16, 9)], ids=str)
def test_other_sizes(size):
    options = {"steps": 24, "crops": 2, "regularization": 0.01, "learning_rate": 0.2}
    testing.check_visualizer(FeatureAccentuation(image=doubles(*size), **options), testing.tiny_cnn(), size)


# The seed image


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spec", [None, BOUNDED], ids=["unbounded", "bounded"])
def test_zero_steps_return_the_seed_exactly(parametrisation, dtype, spec):
    image = photograph(2, 3, 11, 12).to(dtype)
    visualizer = FeatureAccentuation(image=image, steps=0, parametrisation=parametrisation)
    made = Explainer(testing.tiny_cnn().to(dtype), spec=spec).visualize(1, visualizer, size=(3, 11, 12))
    assert torch.equal(made.images, image)
    assert made.responses.shape == (1, 2)


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_the_seed_is_the_limit_of_strong_regularization(parametrisation):
    """The distance falls with the strength, and far above 1 nothing is better than the seed."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 80, 4)).double()
    image = photograph(3, 8, 10)
    options = {"image": image, "layer": "1", "steps": 60, "parametrisation": parametrisation, **WHOLE}
    distances, kept = [], []
    for strength in (0.0, 0.7, 1e4):
        visualizer = FeatureAccentuation(regularization=strength, **options)
        made = Explainer(model, spec=BOUNDED).visualize(2, visualizer, size=(3, 8, 10))
        distances.append(float((made.images - image).norm()))
        kept.append(any("their seed images, which are returned" in note for note in made.notes))
    assert distances[0] > 1.5 * distances[1] > 0
    assert distances[2] == 0
    assert kept == [False, False, True]


@pytest.mark.parametrize(("strength", "leaves"), [(0.8, True), (1.25, False)])
def test_of_features_that_are_pixels_the_critical_strength_is_1(strength, leaves):
    """The maximum of w x - strength |w| |x - seed| is at the seed if and only if the strength is at least 1."""
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(48, 3)).double()
    model[0] = nn.Conv2d(3, 3, 1, bias=False).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3).view(3, 3, 1, 1))
    image = doubles(3, 4, 4)
    options = {"layer": "0", "steps": 80, "parametrisation": "fourier", "decorrelated": False, **WHOLE}
    visualizer = FeatureAccentuation(image=image, regularization=strength, **options)
    made = Explainer(model).visualize(1, visualizer, size=(3, 4, 4))
    assert torch.equal(made.images[0], image) is not leaves
    assert (made.responses[-1] > made.responses[0]).item() is leaves


# The penalty


def test_the_distance_is_relative_and_euclidean():
    reference, maps = doubles(2, 4, 3, 5), doubles(2, 4, 3, 5, seed=1)
    expected = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(maps.numpy(), reference.numpy(), strict=True)]
    distance = FeatureDistance("layer", reference)
    np.testing.assert_allclose(distance.response(maps), expected)
    np.testing.assert_allclose(distance.subset(slice(1, 2)).response(maps[1:]), expected[1:])
    np.testing.assert_allclose(distance.tile(2).response(maps.repeat(2, 1, 1, 1)), expected * 2)
    assert distance.response(reference).tolist() == [0, 0]
    assert FeatureDistance("layer", torch.zeros(1, 4, 2)).response(torch.zeros(1, 4, 2)).tolist() == [0]


def test_the_gradient_of_the_penalty():
    """By autograd on the layers themselves, through the same crops; the factor makes both gradients equally long."""
    model = testing.tiny_cnn().double().eval()
    seeds, images, slope = (doubles(2, 3, 16, 16, seed=seed) for seed in range(3))
    made = {}

    class Probe(Maco):
        def generate(self, model, unit, blank):
            penalty = FeaturePenalty(model, "3", seeds, 0.5)
            views = RandomViews(3, (0.4, 0.9), 0.1, torch.Generator().manual_seed(0))
            made["view"] = views.draw(images)
            made["gradient"] = penalty(made["view"], images, slope)
            made["again"] = penalty(made["view"], images, 7 * slope)
            made["value"] = penalty.of(images)
            return super().generate(model, unit, blank)

    Explainer(model, batch_size=4).visualize([1, 2], Probe(steps=0), size=(3, 16, 16))
    leaf = images.clone().requires_grad_()
    features, reference = (model[:4](made["view"](each)).flatten(1) for each in (leaf, seeds))
    distance = (features - reference).norm(dim=1) / reference.norm(dim=1)
    (gradient,) = torch.autograd.grad(distance.view(3, 2).mean(0).sum(), leaf)
    balance = slope.flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1)
    expected = 0.5 * balance.view(2, 1, 1, 1) * gradient
    torch.testing.assert_close(made["gradient"], expected)
    torch.testing.assert_close(made["again"], expected)  # the factor does not change later
    features, reference = (model[:4](each).flatten(1) for each in (images, seeds))
    torch.testing.assert_close(
        made["value"], 0.5 * balance * (features - reference).norm(dim=1) / reference.norm(dim=1), check_dtype=False
    )


# Images


def test_phases_do_not_add_energy():
    """The magnitudes of the latent image exceed those of the seed by at most 1 / sigmoid(5) - 1."""
    image = doubles(1, 3, 9, 10)
    visualizer = FeatureAccentuation(image=image, steps=40, learning_rate=0.2, crops=2, regularization=0.0)
    made = Explainer(testing.tiny_cnn().double()).visualize(1, visualizer, size=(3, 9, 10))
    space = ColourSpace(None, None, True)
    before, after = (torch.fft.rfft2(space.latent(each)).abs() for each in (image, made.images))
    assert not torch.allclose(image, made.images, atol=0.1)
    assert bool((after <= before * (1 + np.exp(-5)) + 1e-9).all())
    assert bool((after < 0.9 * before).any())


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_pixels_stay_from_0_to_1(parametrisation):
    options = {"steps": 30, "learning_rate": 0.5, "parametrisation": parametrisation, "regularization": 0.0}
    visualizer = FeatureAccentuation(image=photograph(3, 12, 12), crops=2, **options)
    made = Explainer(testing.tiny_cnn().double(), spec=BOUNDED).visualize(1, visualizer, size=(3, 12, 12))
    mean, std = (torch.tensor(each, dtype=torch.float64).view(3, 1, 1) for each in (BOUNDED.mean, BOUNDED.std))
    pixels = made.images * std + mean
    assert pixels.min() >= -1e-12
    assert pixels.max() <= 1 + 1e-12


def test_several_images_and_classes():
    """Image i belongs to class i modulo the number of classes, and does not depend on the others."""
    images = doubles(4, 3, 16, 16).float()
    explainer, options = Explainer(testing.tiny_cnn()), {"steps": 3, **WHOLE}
    made = explainer.visualize([4, 1], FeatureAccentuation(image=images, **options), size=(3, 16, 16))
    assert made.images.shape == (4, 3, 16, 16)
    alone = explainer.visualize(1, FeatureAccentuation(image=images[3], **options), size=(3, 16, 16))
    torch.testing.assert_close(made.images[3:], alone.images, rtol=1e-4, atol=1e-4)
    each = explainer.visualize([4, 1], FeatureAccentuation(image=images[0], **options), size=(3, 16, 16))
    torch.testing.assert_close(made.images[:1], each.images[:1], rtol=1e-4, atol=1e-4)


def test_seeds_of_the_random_crops():
    def made(seed):
        visualizer = FeatureAccentuation(image=doubles(3, 16, 16), steps=5, seed=seed, regularization=0.1, crops=1)
        return Explainer(testing.tiny_cnn()).visualize(1, visualizer, size=(3, 16, 16)).images

    assert torch.equal(made(0), made(0))
    assert not torch.allclose(made(0), made(1), atol=1e-3)


def test_options_with_images_are_compared_by_their_values():
    image = torch.randn(3, 8, 8)
    assert FeatureAccentuation(image=image) == FeatureAccentuation(image=SeedImages(image.clone()))
    assert FeatureAccentuation(image=image) != FeatureAccentuation(image=-image)


def test_a_class_in_a_scene():
    """The response rises above that of 99 % of the scenes; the image changes less with than without the penalty."""
    model, preprocess = load_model("zoo:cnn")
    scenes = torch.stack([preprocess(Image.fromarray(scene.image)) for scene in zoo.scenes(100, seed=10_000)])
    star, image = zoo.SHAPES.index("star"), scenes[3]
    with torch.no_grad():
        scores = torch.cat([model(batch)[:, star] for batch in scenes.split(50)])
    best = scores.quantile(0.99).item()
    assert scores[3].item() < best
    changes = []
    for strength in (0.0, 1.0):
        options = {"regularization": strength, "steps": 40, "learning_rate": 0.2, "crops": 2, "crop_size": (0.5, 1.0)}
        visualizer = FeatureAccentuation(image=image, **options)
        made, importance = visualize_with_importance(Explainer(model), "star", visualizer)
        assert made.responses[-1].item() > best
        with torch.no_grad():
            assert model(made.images)[0, star].item() == pytest.approx(made.responses[-1].item(), rel=1e-4)
        assert importance.shape == (1, 128, 128)
        changes.append(float((made.images - image).norm() / image.norm()))
    assert 0 < changes[1] < changes[0]


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass image=x"),
        ({"image": torch.zeros(3, 8, 8)}, r"size=\(3, 8, 8\)"),
        ({"image": torch.zeros(16, 16)}, "shape"),
        ({"image": torch.zeros(3, 3, 16, 16)}, "multiple of 2"),
        ({"image": torch.zeros(0, 3, 16, 16)}, "shape"),
        ({"image": torch.zeros(3, 16, 16, dtype=torch.uint8)}, "uint8"),
        ({"image": torch.full((3, 16, 16), torch.nan)}, "finite"),
        ({"image": torch.full((3, 16, 16), 200.0)}, "normalise the image"),
        ({"image": torch.zeros(3, 16, 16), "layer": "nowhere"}, "nowhere"),
    ],
    ids=["none", "size", "axes", "count", "empty", "bytes", "nan", "range", "layer"],
)
def test_unsuitable_options_are_refused(options, message):
    explainer = Explainer(testing.tiny_cnn(), spec=BOUNDED)
    with pytest.raises(AttribkitError, match=message):
        explainer.visualize([1, 2], FeatureAccentuation(**options, steps=2), size=(3, 16, 16))
