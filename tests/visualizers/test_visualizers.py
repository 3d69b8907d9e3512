"""Visualizers: the conformance suite, closed forms, and images that excite more than real ones do."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn
from typer.testing import CliRunner

from attribkit import Direction, Explainer, ModelSpec, Probability, Unit, Visualizer, load_model, registry, zoo
from attribkit._core.errors import AttribkitError, InvalidInput, UnknownName, UnsupportedModel
from attribkit.cli import app
from attribkit.figures import gallery
from attribkit.registry import _discovery as discovery
from attribkit.testing import VISUALIZER_CHECKS, check_visualizer, tiny_cnn
from attribkit.visualizers._activation_maximization import ActivationMaximization
from attribkit.visualizers._parametrisations import (
    Fourier,
    RandomMovement,
    gaussian_blur,
    natural_colours,
    pixel_bounds,
    total_variation,
)

PAGES = Path(__file__).parents[2] / "docs" / "visualizers"
STILL = {"jitter": 0, "scale": 0.0, "rotate": 0.0}
SIMONYAN = STILL | {"parametrisation": "pixel", "start": "zeros"}


class Linear(nn.Module):
    """Logits that are weighted sums of the pixels, plus a bias."""

    def __init__(self, shape, dtype=torch.float32):
        super().__init__()
        self.head = nn.Linear(math.prod(shape), 3).to(dtype)

    def forward(self, x):
        return self.head(x.flatten(1))


@pytest.mark.parametrize("check", VISUALIZER_CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("options", [{}, SIMONYAN | {"l2": 0.1, "blur": 0.5}], ids=["defaults", "pixel"])
@pytest.mark.parametrize("name", registry.visualizers())
def test_conformance(name, options, check):
    if options and check.name == "seed":
        pytest.skip("these options draw no random numbers")
    check(registry.visualizers()[name](**options, steps=20), tiny_cnn(), (3, 16, 16))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    check_visualizer(ActivationMaximization(steps=5), tiny_cnn().to(dtype))


def test_the_suite_sees_a_visualizer_that_draws_from_the_global_generator():
    @dataclass(frozen=True)
    class Drawn(Visualizer):
        """Noise."""

        name = "drawn"
        source = "nobody"

        def __call__(self, model, unit, blank):
            images = torch.rand_like(blank)
            return images, model.score_and_gradient(images, unit)[0][None]

    (check,) = (check for check in VISUALIZER_CHECKS if check.name == "repeats")
    with pytest.raises(AssertionError, match="two equal calls give different images"):
        check(Drawn())


# Closed forms


@pytest.mark.parametrize("shape", [(3, 6, 5), (1, 6, 5), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("decorrelated", [True, False])
def test_a_linear_score_under_l2_has_its_maximum_at_the_weights(shape, decorrelated):
    """The maximum of w.x + b - l |x|^2 is x = w / 2l (the objective of Simonyan et al., 2014, sec. 2)."""
    model = Linear(shape)
    options = SIMONYAN | {"l2": 0.25, "steps": 200, "learning_rate": 0.05, "tolerance": 0.0}
    made = Explainer(model).visualize(1, size=shape, decorrelated=decorrelated, **options)
    expected = model.head.weight[1].detach().view(1, *shape) / (2 * 0.25)
    assert (made.images - expected).norm() <= 1e-3 * expected.norm()
    assert made.responses[-1].item() == pytest.approx(model(expected)[0, 1].item(), rel=1e-3)


def test_total_variation_flattens_weights_of_mean_zero():
    """Where its weight exceeds the largest flow that the weights can drive, the best image is flat (Meyer, 2001)."""
    model = Linear((1, 4, 4))
    with torch.no_grad():
        model.head.weight.copy_(torch.randn(3, 16) * 0.1)
        model.head.weight -= model.head.weight.mean(1, keepdim=True)
    options = SIMONYAN | {"l2": 0.25, "steps": 200, "tolerance": 0.0, "decorrelated": False}
    explainer = Explainer(model)
    loose, tight = (explainer.visualize(1, size=(1, 4, 4), total_variation=w, **options).images for w in (0.0, 2.0))
    assert loose.std() > 0.1
    assert tight.std() < 0.01 * loose.std()


def test_total_variation_by_a_slow_loop():
    image = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    expected = torch.zeros(2, dtype=torch.float64)
    for n, c, i, j in np.ndindex(2, 2, 3, 4):
        down = image[n, c, i + 1, j] - image[n, c, i, j] if i < 2 else 0.0
        right = image[n, c, i, j + 1] - image[n, c, i, j] if j < 3 else 0.0
        expected[n] += math.hypot(down, right)
    torch.testing.assert_close(total_variation(image), expected)
    flat = torch.ones(1, 1, 3, 3, requires_grad=True)
    total_variation(flat).sum().backward()
    assert not flat.grad.any()


def test_blur_is_a_gaussian():
    from scipy.ndimage import gaussian_filter

    image = torch.zeros(1, 1, 31, 33, dtype=torch.float64)
    image[0, 0, 15, 16] = 1
    expected = gaussian_filter(image[0, 0].numpy(), 1.5, truncate=10)
    np.testing.assert_allclose(gaussian_blur(image, 1.5)[0, 0], expected, atol=1e-12)
    torch.testing.assert_close(gaussian_blur(torch.ones(1, 1, 5, 5), 3.0), torch.ones(1, 1, 5, 5))


def test_blur_takes_what_is_fine():
    options = SIMONYAN | {"start": "noise", "steps": 8, "seed": 3}
    explainer = Explainer(tiny_cnn())
    sharp, soft = (explainer.visualize(2, size=(3, 16, 16), blur=b, **options).images for b in (0.0, 1.0))
    assert total_variation(soft) < 0.5 * total_variation(sharp)


# Parametrisations, colours, movements


@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (2, 3, 7, 9), (1, 2, 4, 6, 5)], ids=str)
def test_fourier_by_numpy(shape):
    fourier = Fourier(shape)
    parameters = torch.randn(fourier.parameters_shape, dtype=torch.float64)
    magnitudes = [np.fft.fftfreq(side) for side in shape[2:-1]] + [np.fft.rfftfreq(shape[-1])]
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*magnitudes, indexing="ij")))
    spectrum = (parameters[..., 0] + 1j * parameters[..., 1]).numpy() / np.maximum(frequency, 1 / max(shape[2:]))
    expected = np.fft.irfftn(spectrum, shape[2:], axes=range(2, len(shape)))
    scale = float(fourier(parameters).std(correction=0)) / expected.std()
    np.testing.assert_allclose(fourier(parameters), scale * expected, atol=1e-12)


@pytest.mark.parametrize("space", [(6, 8), (5, 7), (4, 3, 6)], ids=str)
def test_fourier_pixels_have_variance_one(space):
    """The sum of the squared derivatives of a pixel by all coefficients is its variance."""
    fourier = Fourier((1, 1, *space))
    derivatives = torch.autograd.functional.jacobian(fourier, torch.zeros(fourier.parameters_shape))
    variances = derivatives.square().reshape(math.prod(space), -1).sum(1)
    assert variances.mean().item() == pytest.approx(1, rel=1e-5)


def test_colours_are_those_of_photographs():
    """ImageNet's published components take the colours of scikit-image's photographs apart too."""
    mixing = natural_colours(torch.zeros((), dtype=torch.float64)).numpy()
    assert np.square(mixing).sum() == pytest.approx(3)
    gram = mixing.T @ mixing
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-3  # its columns are at right angles
    photos = (data.astronaut, data.cat, data.coffee, data.rocket)
    pixels = np.concatenate([photo().reshape(-1, 3)[::50] / 255 for photo in photos])
    apart = pixels @ np.linalg.inv(mixing).T
    independence = [np.linalg.det(np.corrcoef(each.T)) for each in (pixels, apart)]  # 1 without any correlation
    assert independence[0] < 0.05
    assert independence[1] > 0.5


def test_bounds():
    image = pixel_bounds((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))(torch.tensor([-100.0, 0.0, 100.0]).expand(1, 3, 1, 3))
    pixels = image * torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1) + torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    torch.testing.assert_close(pixels, torch.tensor([0.0, 0.5, 1.0]).expand(1, 3, 1, 3))


@pytest.mark.parametrize("space", [(6, 9), (4, 6, 5)], ids=str)
def test_jitter_is_a_shift_into_mirrored_surroundings(space):
    images = torch.randn(40, 2, *space, dtype=torch.float64)
    moved = RandomMovement(2, 0.0, 0.0, torch.Generator().manual_seed(0))(images)
    wide = np.pad(images.numpy(), [(0, 0), (0, 0)] + [(2, 2)] * len(space), mode="symmetric")
    seen = set()
    for before, after in zip(wide, moved.numpy(), strict=True):
        fits = [
            place
            for place in np.ndindex(*(5,) * len(space))
            if np.allclose(before[(slice(None), *(slice(p, p + n) for p, n in zip(place, space, strict=True)))], after)
        ]
        assert len(fits) == 1
        seen.update(fits)
    assert len(seen) > 12


def test_a_quarter_turn_and_a_zoom_of_an_oblong_image():
    """About its centre, in pixels: a turn of an oblong image does not stretch it."""

    class Fixed(RandomMovement):
        def _uniform(self, count):
            return torch.ones(count, dtype=torch.float64)

    image = torch.arange(24, dtype=torch.float64).view(1, 1, 4, 6)
    turned = Fixed(0, 0.0, 90.0, torch.Generator())(image)
    inner = image[0, 0, :, 1:5].numpy()
    assert any(np.allclose(turned[0, 0, :, 1:5].numpy(), np.rot90(inner, k)) for k in (1, -1))
    ramp = torch.arange(8, dtype=torch.float64).expand(1, 1, 8, 8)
    zoomed = Fixed(0, 1.0, 0.0, torch.Generator())(ramp)  # twice as large
    np.testing.assert_allclose(zoomed[0, 0, 0], 3.5 + (np.arange(8) - 3.5) / 2)


# What is made excites more than what is real


HEARTS = (
    9,
    11,
    14,
    22,
    26,
    32,
    36,
    41,
    49,
    50,
    62,
    65,
    68,
    83,
    88,
    113,
    124,
    127,
    161,
    164,
    168,
    170,
    175,
    182,
    183,
    189,
    210,
    245,
    266,
    274,
    290,
    296,
    301,
    309,
    322,
    323,
    337,
    366,
    376,
    386,
    398,
    408,
    409,
    413,
    423,
    424,
    425,
    433,
    435,
    436,
    439,
    442,
    446,
    465,
    474,
    475,
    478,
    505,
    510,
    517,
    522,
    528,
    533,
    536,
    538,
    540,
    548,
    551,
    559,
    560,
    562,
    564,
    567,
    581,
    589,
    592,
    597,
    598,
    604,
    606,
    620,
    629,
    641,
    642,
    646,
    653,
    654,
    658,
    663,
    681,
    685,
    686,
    695,
    705,
    714,
    718,
    727,
    745,
    748,
    753,
)  # the first 100 seeds whose scene is one of a heart


@pytest.fixture(scope="module")
def hearts():
    scenes = [zoo.scene(seed) for seed in HEARTS]
    assert {scene.label for scene in scenes} == {zoo.SHAPES.index("heart")}
    preprocessing = load_model("zoo:cnn").preprocessing
    return torch.stack([preprocessing(Image.fromarray(scene.image)) for scene in scenes])


@pytest.mark.parametrize(("name", "options"), [("cnn", {}), ("vit", STILL)], ids=["cnn", "vit"])
@pytest.mark.slow
def test_the_image_of_a_class_excites_it_more_than_99_of_100_real_ones(hearts, name, options):
    """The transformer ends in a normalisation, which leaves little room above the real ones: its image is not moved."""
    label = zoo.SHAPES.index("heart")
    model, _ = load_model(f"zoo:{name}")
    with torch.no_grad():
        real = model(hearts)[:, label]
    made = Explainer(model).visualize("heart", steps=96, **options)
    assert made.names == ("heart",)
    assert made.responses[-1].item() > real.quantile(0.99).item()
    assert model(made.images).argmax(1).item() == label


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("cnn", {}), ("vit", STILL)], ids=["cnn", "vit"])
def test_the_images_of_all_classes_excite_them_more_than_99_of_100_real_ones(name, options):
    model, preprocessing = load_model(f"zoo:{name}")
    scenes = list(zoo.scenes(800, seed=10_000))
    labels = torch.tensor([scene.label for scene in scenes])
    with torch.no_grad():
        scores = torch.cat([model(preprocessing(Image.fromarray(scene.image))[None]) for scene in scenes])
    real = [scores[labels == label, label].quantile(0.99).item() for label in range(len(zoo.SHAPES))]
    reached = Explainer(model).visualize(list(zoo.SHAPES), **options).responses[-1].tolist()
    for shape, best, made in zip(zoo.SHAPES, real, reached, strict=True):
        print(f"{name} {shape:9} 99 % of real scenes below {best:6.2f}, reached {made:7.2f}")
    assert all(made > best for made, best in zip(reached, real, strict=True))


QUICK = STILL | {"steps": 40, "learning_rate": 0.3}


@pytest.mark.parametrize(("name", "layer"), [("cnn", "layer3"), ("vit", "blocks.1"), ("cnn", "global_pool")])
def test_units_and_directions_of_a_layer(name, layer):
    """A unit's response rises far above what real scenes reach, read by hand from the layer's output."""
    model, preprocessing = load_model(f"zoo:{name}")
    scenes = torch.stack([preprocessing(Image.fromarray(scene.image)) for scene in zoo.scenes(16)])
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, output: kept.append(output.detach()))
    model(scenes)
    channels = kept[0].shape[2] if name == "vit" else kept[0].shape[1]
    vector = torch.randn(channels, generator=torch.Generator().manual_seed(0))
    for unit in (Unit(layer, 3), Direction(layer, vector)):
        made = Explainer(model).visualize(unit, **QUICK)
        kept.clear()
        model(torch.cat([scenes, made.images]))
        maps = kept[0][:, 3:].mT if name == "vit" else kept[0]  # a class token and two registers come first
        mean = maps.flatten(2).mean(2) if maps.ndim > 2 else maps
        responses = mean[:, 3] if isinstance(unit, Unit) else mean @ vector
        assert responses[-1].item() == pytest.approx(made.responses[-1].item(), rel=1e-3, abs=1e-3)
        assert responses[-1] > responses[:-1].max() + 2 * responses[:-1].std()
    handle.remove()


def test_a_cell_is_excited_at_its_place(cnn):
    """Far from the cell nothing changes: the gradient of a unit stays in its receptive field."""
    options = SIMONYAN | {"steps": 3}
    explainer = Explainer(cnn)
    corner = explainer.visualize(Unit("layer1.0.bn2", 5, (1, 1)), **options).images[0].abs().sum(0)
    assert corner[:32, :32].sum() > 0
    assert corner[64:].sum() == corner[:, 64:].sum() == 0
    centre = explainer.visualize(Unit("layer1.0.bn2", 5, "centre"), **options).images
    cell = explainer.visualize(Unit("layer1.0.bn2", 5, (16, 16)), **options).images
    assert torch.equal(centre, cell)


def test_a_unit_is_the_direction_of_its_channel():
    model = tiny_cnn()
    explainer = Explainer(model)
    options = {"size": (3, 16, 16), "steps": 4}
    unit = explainer.visualize(Unit("3", 4), **options)
    along = explainer.visualize(Direction("3", np.eye(6)[4]), **options)
    torch.testing.assert_close(unit.images, along.images)
    assert Direction("3", [0.5, 2]) == Direction("3", torch.tensor([0.5, 2]))
    assert repr(Direction("3", np.arange(6))) == "Direction(layer='3', vector=(0, 1, 2, ... 6 numbers))"


# Options


def test_several_classes_and_several_images_of_each():
    explainer = Explainer(tiny_cnn())
    made = explainer.visualize([4, 1], count=2, steps=3, size=(3, 16, 16))
    assert made.names == ("class 4", "class 1") * 2
    assert made.images.shape == (4, 3, 16, 16)
    assert made.responses.shape == (4, 4)
    assert not torch.equal(made.images[0], made.images[2])


def test_chunks_do_not_matter():
    whole, single = (
        Explainer(tiny_cnn(), batch_size=size).visualize([4, 1, 0], steps=4, size=(3, 16, 16)) for size in ("auto", 1)
    )
    torch.testing.assert_close(whole.images, single.images)


def test_it_stops_where_the_score_is_flat():
    model = Linear((1, 4, 4))
    options = SIMONYAN | {"l2": 0.25, "steps": 200, "size": (1, 4, 4), "decorrelated": False}
    made = Explainer(model).visualize(0, **options)
    steps = len(made.responses) - 1
    assert steps < 200
    assert made.notes[0] == f"stopped after {steps} of 200 steps, because the objective was constant"
    assert len(Explainer(model).visualize(0, **options | {"tolerance": 0.0}).responses) == 201


def test_the_cost_is_a_forward_a_step_and_one_more():
    model = tiny_cnn()
    forwards = []
    handle = model.register_forward_hook(lambda *_: forwards.append(1))
    Explainer(model).visualize(1, size=(3, 16, 16), steps=7, count=3)
    handle.remove()
    assert len(forwards) == 8


def test_a_dead_unit_is_said():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.constant_(model[0].bias, -1e3)
    with torch.no_grad():
        model[0].bias[1] = 1e3
    made = Explainer(model).visualize([0, 1], size=(3, 8, 8), steps=3, jitter=2)
    assert "the gradient was zero at every step for images [0]: they show the initial image, not the unit" in made.notes


def test_seeds_differ():
    explainer = Explainer(tiny_cnn())
    one, other = (explainer.visualize(2, steps=3, size=(3, 16, 16), seed=seed).images for seed in (0, 1))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("parametrisation", ["pixel", "fourier"])
def test_volumes(parametrisation):
    model = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))
    explainer = Explainer(model)
    made = explainer.visualize(
        Unit("0", 2, "centre"), size=(1, 6, 8, 7), steps=40, jitter=1, parametrisation=parametrisation
    )
    assert made.images.shape == (1, 1, 6, 8, 7)
    assert made.responses[-1] > made.responses[0]
    with pytest.raises(InvalidInput, match="select slices"):
        made.pictures()
    assert "<div>" in made._repr_html_()


def test_pictures_have_the_training_mean_and_std_put_back():
    model = tiny_cnn()
    spec = ModelSpec(mean=(0.2, 0.5, 0.7), std=(0.1, 0.2, 0.3), input_size=(3, 16, 16))
    made = Explainer(model, spec=spec).visualize(1, steps=3)
    expected = made.images[0].permute(1, 2, 0).numpy() * [0.1, 0.2, 0.3] + [0.2, 0.5, 0.7]
    assert expected.min() >= 0
    assert expected.max() <= 1
    assert made.pictures()[0].dtype == np.uint8
    assert np.abs(made.pictures()[0] - 255 * expected).max() <= 0.51
    assert not made.notes
    outside = Explainer(model, spec=spec).visualize(1, steps=30, parametrisation="pixel", learning_rate=1.0)
    assert "of the values are outside the range 0 to 1 and are clipped in the pictures" in outside.notes[0]


def test_unknown_mean_and_std_are_said():
    made = Explainer(tiny_cnn()).visualize(1, steps=3, size=(3, 16, 16))
    assert "the model's mean and std are unknown: the pixel values are not bounded" in made.notes
    assert made.pictures()[0].max() == 255
    with pytest.raises(InvalidInput, match=r"spec=ModelSpec\(mean="):
        made.pixels()


def test_families_tell_mean_and_std():
    import timm
    import torchvision

    assert registry.model_spec(timm.create_model("vit_tiny_patch16_224")).mean == (0.5, 0.5, 0.5)
    assert registry.model_spec(zoo.build_zoo_model("cnn")).std == (0.5, 0.5, 0.5)
    spec = registry.model_spec(torchvision.models.squeezenet1_1())
    preset = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms()
    assert (list(spec.mean), list(spec.std)) == (preset.mean, preset.std)
    assert registry.model_spec(torchvision.models.squeezenet1_1(num_classes=4)).mean is None


# Refusals


@pytest.mark.parametrize(
    ("unit", "options", "error", "words"),
    [
        (None, {}, InvalidInput, "unit must be a class or a unit of a layer, got None"),
        (9, {}, InvalidInput, "The class index 9 is out of range"),
        ("star", {}, InvalidInput, "the labels of this model are unknown"),
        (Unit("2.conv", 1), {}, UnknownName, "No layer is named '2.conv'"),
        (Unit("3", 6), {}, InvalidInput, "channel=6 is out of range: layer '3' has 6 channels, 0 to 5"),
        (Unit("3", 1, (9, 0)), {}, InvalidInput, "along each axis of the 8x8 grid of layer '3', got (9, 0)"),
        (Unit("3", 1, (1,)), {}, InvalidInput, "grid of layer '3', got (1,)"),
        (Unit("6", 1, "centre"), {}, InvalidInput, "Layer '6' does not have a spatial grid. Omit position='centre'"),
        (Direction("3", [1.0, 2.0]), {}, InvalidInput, "one number per channel of layer '3', 6, got 2"),
        (1, {"size": None}, InvalidInput, "pass size=(c, *space)"),
        (1, {"size": 16}, InvalidInput, "pass size=(c, *space)"),
        (1, {"size": (3, 0, 4)}, InvalidInput, "size must be (c, *space) in positive integers"),
        (1, {"size": (16, 16)}, InvalidInput, "is a convolution that expects 4 axes"),
        (1, {"steps": 0}, InvalidInput, "steps must be an integer >= 1, got 0"),
        (1, {"l2": -1.0}, InvalidInput, "l2 must be a finite number >= 0, got -1.0"),
        (1, {"parametrisation": "wavelet"}, InvalidInput, "one of 'fourier', 'pixel'"),
        (1, {"blur": 1.0}, InvalidInput, "blur=1.0 needs"),
        (1, {"step": 3}, UnknownName, "Did you mean 'steps'?"),
        (1, {"visualizer": "deep_dream"}, UnknownName, "No visualizer is named 'deep_dream'"),
        (lambda outputs: outputs.detach()[:, 0], {}, UnsupportedModel, "The score has no gradient"),
    ],
)
def test_refusals(as_users_run, unit, options, error, words):
    with pytest.raises(error) as refused:
        Explainer(tiny_cnn()).visualize(unit, **{"size": (3, 16, 16)} | options)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Unit("3", -1),
        lambda: Unit("3", 1.5),
        lambda: Direction("3", []),
        lambda: Direction("3", [[1.0]]),
        lambda: Direction("3", [float("nan")]),
        lambda: Direction("3", "heart"),
    ],
)
def test_units_that_are_none(as_users_run, make):
    with pytest.raises(InvalidInput):
        make()


def test_other_targets():
    model = tiny_cnn()
    made = Explainer(model).visualize(Probability(3), steps=30, size=(3, 16, 16), learning_rate=0.5)
    assert 1 >= made.responses[-1].item() > made.responses[0].item()


@pytest.mark.parametrize(
    "answer",
    [
        lambda blank: blank,
        lambda blank: (blank[:, :1], torch.zeros(1, 1)),
        lambda blank: (blank / 0, torch.zeros(1, 1)),
        lambda blank: (blank, torch.zeros(1)),
    ],
)
def test_what_a_visualizer_must_not_return(as_users_run, answer):
    @dataclass(frozen=True)
    class Wrong(Visualizer):
        name = "wrong"
        source = "nobody"

        def __call__(self, model, unit, blank):
            return answer(blank)

    with pytest.raises(AttribkitError, match="Wrong"):
        Explainer(tiny_cnn()).visualize(1, Wrong(), size=(3, 16, 16))


# Registry, figures, command line, pages


def test_registered():
    cls = registry.visualizers()["activation_maximization"]
    assert registry.plugin_of(cls).name == "visualizers"
    assert registry.make(cls, Visualizer, steps=3) == registry.make("activation_maximization", Visualizer, steps=3)
    twice = replace(registry.plugin_of(cls), offers=(type("Other", (cls,), {}),))
    with pytest.raises(AttribkitError, match="both named 'activation_maximization'"):
        discovery._check_names_are_unique([registry.plugin_of(cls), twice])


def test_gallery():
    explainer = Explainer(tiny_cnn())
    made = [explainer.visualize(unit, steps=2, size=(3, 16, 16)) for unit in ([0, 1, 2], Unit("3", 1))]
    figure = gallery(made, columns=3)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0].startswith("class 0\n")
    assert titles[3].startswith("Unit(layer='3'")
    assert titles[4:] == ["", ""]
    assert "Simonyan et al." in figure.get_supxlabel()
    with pytest.raises(InvalidInput, match="got 4 pictures and 1 titles"):
        gallery(made, titles=["a"])


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["visualize", *map(str, arguments)])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


@pytest.mark.filterwarnings("default")  # commands show warnings as sentences
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--class", "star", "--class", "6"], ["star", "heart"]),
        (["--layer", "layer3", "--channel", "3"], ["channel=3"]),
    ],
)
def test_the_command(tmp_path, arguments, words):
    path = tmp_path / "out.png"
    output = run(*arguments, "--option", "steps=3", "--size", "64", "-o", path).output
    assert all(word in output for word in words)
    assert Image.open(path).size[0] > 300


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Specify what to visualise"),
        (["--class", "star", "--layer", "layer3"], "Specify what to visualise"),
        (["--layer", "layer3"], "Specify what to visualise"),
        (["--class", "star", "--position", "centre"], "--position selects a position in a layer's grid"),
        (
            ["--layer", "layer3", "--channel", "3", "--position", "middle"],
            "--position must be indices of the grid like 3,4",
        ),
        (["--class", "stars"], "Did you mean 'star'?"),
        (["--class", "star", "--option", "steps"], "--option must be of the form KEY=VALUE, got 'steps'"),
        (["--class", "star", "--option", "stepz=3"], "Did you mean 'steps'?"),
        (["--class", "star", "--visualizer", "dream"], "No visualizer is named 'dream'"),
        (["--class", "star", "-o", "out.npz"], "does not have a supported file extension"),
        (["--class", "star", "--model", "zoo:vit", "--size", "100"], "It was designed for (3, 128, 128): omit size="),
        (["--layer", "layer3", "--channel", "900"], "channel=900 is out of range"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    stderr = run(*arguments, code=2).stderr
    assert stderr.count("attribkit: ") == 1
    assert words in stderr
    assert "Traceback" not in stderr


BUILTIN = [cls for cls in registry.visualizers().values() if registry.plugin_of(cls).distribution == "attribkit"]


@pytest.mark.parametrize("cls", BUILTIN, ids=lambda cls: cls.name)
def test_a_page_for_every_visualizer(cls):
    page = (PAGES / f"{cls.name}.md").read_text()
    assert f'`visualizer="{cls.name}"` · {cls.source}' in page
    for option, default in registry.options_of(cls).items():
        assert f"`{option}={default!r}`" in page
    for heading in ("**Options**", "**Cost**", "**When it misleads**"):
        assert heading in page
    for picture in (line.rsplit("](", 1)[1].strip(")") for line in page.splitlines() if line.startswith("![")):
        assert (PAGES / picture).resolve().stat().st_size > 5_000
    assert "![" in page


def test_no_page_without_a_visualizer():
    assert {path.stem for path in PAGES.glob("*.md")} == {cls.name for cls in BUILTIN}
