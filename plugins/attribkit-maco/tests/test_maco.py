"""MACO: closed forms, fixed magnitudes at every step, real spectra, importance and the conformance suite."""

import math

import numpy as np
import pytest
import torch
from attribkit_maco import (
    FeatureAccentuation,
    Maco,
    RealImages,
    magnitude_spectrum,
    transparent_pictures,
    visualize_with_importance,
)
from attribkit_maco.colours import ColourSpace
from attribkit_maco.phases import image_of, symmetries
from PIL import Image
from torch import nn

import attribkit
import attribkit.testing as testing
import attribkit.zoo as zoo
from attribkit import AttribkitError, Explainer, ModelSpec, Unit, load_model

WHOLE = {"crops": 1, "crop_size": (1.0, 1.0), "noise": 0.0}
BOUNDED = ModelSpec(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


@pytest.fixture(autouse=True)
def registered():
    attribkit.register(Maco)


@pytest.mark.parametrize("check", testing.VISUALIZER_CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("options", [{}, {"spectrum": torch.randn(2, 3, 9, 11), "count": 2}], ids=["default", "images"])
def test_conformance(check, options):
    check(Maco(steps=3, crops=2, **options), testing.tiny_cnn(), (3, 16, 16))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    testing.check_visualizer(Maco(steps=3, crops=2), testing.tiny_cnn().to(dtype))


@pytest.mark.parametrize("size", [(3, 15, 17), (3, 16, 17), (3, 31, 8)], ids=str)
def test_other_sizes(size):
    testing.check_visualizer(Maco(steps=2, crops=2), testing.tiny_cnn(), size)


# The magnitudes


@pytest.mark.parametrize("size", [(3, 12, 10), (3, 11, 13)], ids=str)
@pytest.mark.parametrize("spec", [None, BOUNDED], ids=["unbounded", "bounded"])
@pytest.mark.parametrize("spectrum", [None, torch.randn(5, 3, 20, 14)], ids=["default", "images"])
def test_the_magnitudes_are_kept_at_every_step(size, spec, spectrum):
    """The spectra of the images that the model receives, without crops, are compared by NumPy."""
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(math.prod(size), 3).double()

        def forward(self, x):
            seen.append(x.detach().clone())
            return self.head(x.flatten(1)).tanh()

    maco = Maco(spectrum=spectrum, steps=25, **WHOLE)
    made = Explainer(Watched(), spec=spec).visualize(1, maco, size=size)
    space = ColourSpace(spec and spec.mean, spec and spec.std, True)
    expected = maco.magnitude(torch.zeros(1, *size, dtype=torch.float64), space).numpy()
    images = [*seen[-26:], made.images]
    assert not torch.equal(images[0], images[-1])
    for image in images:
        pixels = image.numpy()
        if spec:
            pixels = pixels * np.array(spec.std)[:, None, None] + np.array(spec.mean)[:, None, None]
            pixels = np.log(pixels / (1 - pixels))
        latent = ColourSpace(None, None, True).latent(torch.from_numpy(pixels)).numpy()
        np.testing.assert_allclose(np.abs(np.fft.rfft2(latent))[0], expected, rtol=1e-9, atol=1e-9)


def test_float32_keeps_them_to_rounding():
    made = Explainer(testing.tiny_cnn()).visualize(2, Maco(steps=20, crops=2), size=(3, 32, 32))
    latent = ColourSpace(None, None, True).latent(made.images)
    expected = Maco().magnitude(torch.zeros(1, 3, 32, 32), ColourSpace(None, None, True))
    assert (magnitude_spectrum(latent) - expected).abs().max() <= 1e-5 * expected.max()


def test_real_images_give_their_mean_spectrum():
    """Each image is moved to the latent space by hand; the mean of each channel is zero."""
    images = (torch.rand(3, 3, 12, 10, dtype=torch.float64) - 0.5) * 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(360, 3)).double()
    spec = ModelSpec(mean=(0.5,) * 3, std=(0.5,) * 3)
    options = {"steps": 3, "decorrelated": False, **WHOLE}
    made = Explainer(model, spec=spec).visualize(0, Maco(spectrum=images, **options), size=(3, 12, 10))
    pixels = (images.numpy() / 2 + 0.5).clip(1 / 512, 511 / 512)
    expected = np.mean([np.abs(np.fft.rfft2(np.log(each / (1 - each)))) for each in pixels], axis=0)
    expected[:, 0, 0] = 0
    pixels = made.images[0].numpy() / 2 + 0.5
    np.testing.assert_allclose(np.abs(np.fft.rfft2(np.log(pixels / (1 - pixels)))), expected, rtol=1e-8, atol=1e-8)


def test_files_are_read_as_tensors_are(tmp_path):
    scenes = [zoo.scene(seed).image for seed in range(3)]
    (tmp_path / "more").mkdir()
    for place, image in zip(["a.png", "b.PNG", "more/c.png"], scenes, strict=True):
        Image.fromarray(image).save(tmp_path / place)
    (tmp_path / "notes.txt").write_text("no image")
    model, preprocess = load_model("zoo:cnn")
    tensor = torch.stack([preprocess(Image.fromarray(image)) for image in scenes])
    options = {"steps": 2, "crops": 1}
    by_path, by_tensor = (
        Explainer(model).visualize(1, Maco(spectrum=each, **options)) for each in (str(tmp_path), tensor)
    )
    torch.testing.assert_close(by_path.images, by_tensor.images, rtol=1e-4, atol=1e-4)
    one = Explainer(model).visualize(1, Maco(spectrum=str(tmp_path / "a.png"), **options))
    first = Explainer(model).visualize(1, Maco(spectrum=tensor[:1], **options))
    torch.testing.assert_close(one.images, first.images, rtol=1e-4, atol=1e-4)


def test_options_with_tensors_are_compared_by_their_values():
    images = torch.randn(2, 3, 8, 8)
    assert Maco(spectrum=images) == Maco(spectrum=images.clone()) == Maco(spectrum=RealImages(images))
    assert Maco(spectrum=images) != Maco(spectrum=images + 1)
    assert "RealImages((2, 3, 8, 8), crc32=" in repr(Maco(spectrum=images))


# Closed forms


@pytest.mark.parametrize("size", [(3, 9, 8), (1, 8, 9), (3, 7, 7)], ids=str)
@pytest.mark.parametrize("decorrelated", [True, False])
def test_a_linear_score_has_its_maximum_at_the_phases_of_its_weights(linear, size, decorrelated):
    """The sum of w x is the sum of r |W| cos(phase - phase of W) / hw over the full spectrum (Parseval)."""
    model = linear(size)
    weights = model.head.weight[1].detach().view(1, *size)
    space = ColourSpace(None, None, decorrelated and size[0] == 3)
    if space.decorrelated:  # the score of a latent image
        latent = torch.zeros(1, *size, dtype=torch.float64, requires_grad=True)
        (weights,) = torch.autograd.grad((space.images(latent) * weights).sum(), latent)
    options = {"decorrelated": decorrelated, "steps": 300, "learning_rate": 0.1, "seed": 3, **WHOLE}
    maco = Maco(**options)
    made = Explainer(model).visualize(1, maco, size=size)
    phase = torch.fft.rfft2(weights).angle()
    magnitude = maco.magnitude(torch.zeros(1, *size, dtype=torch.float64), space)
    expected = space.images(image_of(magnitude, phase, size[-1]))
    assert (made.images - expected).norm() <= 1e-3 * expected.norm()
    best = model(expected)[0, 1].item()
    assert made.responses[-1].item() == pytest.approx(best, rel=1e-6)
    full = np.abs(np.fft.fft2(weights[0].numpy()))
    spectrum = np.abs(np.fft.fft2(image_of(magnitude, phase, size[-1]).numpy())[0])
    by_parseval = (full * spectrum).sum() / (size[1] * size[2]) + model.head.bias[1].item()
    assert best == pytest.approx(by_parseval, rel=1e-10)


def test_the_signs_of_real_coefficients_are_found():
    """They have no phase to turn, but the ascent can change their sign."""
    real = symmetries(4, 4, torch.device("cpu"))[1]
    magnitude, start = real.double(), torch.full((4, 3), 0.6 * math.pi, dtype=torch.float64)
    for sign in (1, -1):
        phase = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([phase], lr=0.1, maximize=True)
        for _ in range(60):
            optimizer.zero_grad()
            (sign * image_of(magnitude, phase, 4)[0, 0]).backward()
            optimizer.step()
        assert torch.equal(
            torch.fft.rfft2(image_of(magnitude, phase, 4)).real[real].sign(), torch.full((4,), sign).double()
        )


# What is returned


def test_seeds_and_counts():
    def made(**options):
        return Explainer(testing.tiny_cnn()).visualize([4, 1], Maco(steps=2, crops=2, **options), size=(3, 16, 16))

    first, again, other = made(), made(), made(seed=1)
    assert torch.equal(first.images, again.images)
    assert not torch.allclose(first.images, other.images, atol=0.1)
    two = made(count=2)
    assert two.names == ("class 4", "class 1") * 2
    assert two.responses.shape == (3, 4)
    assert not torch.allclose(two.images[0], two.images[2], atol=0.1)


def test_the_importance_is_the_absolute_gradient_of_all_steps(linear):
    """Of a linear score it is the weights; the images are those without it."""
    model, maco = linear((3, 8, 8)), Maco(steps=4, **WHOLE)
    made, importance = visualize_with_importance(Explainer(model), [1, 2], maco, size=(3, 8, 8))
    expected = 4 * model.head.weight[1:].detach().view(2, 3, 8, 8).abs().sum(1)
    torch.testing.assert_close(importance, expected)
    plain = Explainer(model).visualize([1, 2], maco, size=(3, 8, 8))
    assert torch.equal(made.images, plain.images)
    assert (made.visualizer, made.names, made.notes) == (maco, plain.names, plain.notes)


def test_pictures_are_transparent_where_pixels_are_unimportant(linear):
    made, importance = visualize_with_importance(Explainer(linear((3, 8, 8))), 1, Maco(steps=1), size=(3, 8, 8))
    (picture,) = transparent_pictures(made, importance, percentile=50)
    assert picture.shape == (8, 8, 4)
    np.testing.assert_array_equal(picture[..., :3], made.pictures()[0])
    middle = np.percentile(importance.numpy(), 50)
    np.testing.assert_array_equal(picture[..., 3] == 255, importance[0].numpy() >= middle * (1 - 0.5 / 255))
    lower = importance[0].numpy() < middle
    np.testing.assert_allclose(picture[lower, 3], 255 * importance[0].numpy()[lower] / middle, atol=0.5)
    with pytest.raises(AttribkitError, match="percentile"):
        transparent_pictures(made, importance, percentile=0)
    with pytest.raises(AttribkitError, match="importance must have shape"):
        transparent_pictures(made, importance[0])


def test_a_function_of_the_outputs_is_scored_crop_by_crop():
    """A function cannot be repeated for several crops, but its images are those of the class."""
    by_class, by_function = (
        Explainer(testing.tiny_cnn()).visualize(unit, Maco(steps=3, crops=3), size=(3, 16, 16))
        for unit in (2, lambda outputs: outputs[:, 2])
    )
    torch.testing.assert_close(by_class.images, by_function.images, rtol=1e-4, atol=1e-4)


def test_chunks_do_not_matter():
    whole, single = (
        Explainer(testing.tiny_cnn(), batch_size=size).visualize([4, 1], Maco(steps=3, crops=2), size=(3, 16, 16))
        for size in ("auto", 1)
    )
    torch.testing.assert_close(whole.images, single.images, rtol=1e-4, atol=1e-4)


def test_a_unit_without_a_gradient_is_noted():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        model[0].bias.fill_(-1e4)
    made = Explainer(model).visualize(Unit("1", 0), Maco(steps=2), size=(3, 8, 8))
    assert any("the gradient was zero at every step for images [0]" in note for note in made.notes)


@pytest.fixture(scope="module")
def scenes():
    """Scores and images of 200 scenes, and their classes."""
    model, preprocess = load_model("zoo:cnn")
    drawn = list(zoo.scenes(200, seed=10_000))
    images = torch.stack([preprocess(Image.fromarray(scene.image)) for scene in drawn])
    with torch.no_grad():
        scores = torch.cat([model(batch) for batch in images.split(50)])
    return model, images, scores


@pytest.mark.parametrize("label", ["star", "heart"])
def test_a_class_is_excited_more_than_by_99_percent_of_the_scenes(scenes, label):
    model, images, scores = scenes
    of_class = zoo.SHAPES.index(label)
    made = Explainer(model).visualize(label, Maco(spectrum=images[:64], steps=60, crops=2))
    assert made.responses[-1].item() > scores[:, of_class].quantile(0.99).item()
    with torch.no_grad():
        output = model(made.images)[0]
    assert output.argmax().item() == of_class
    assert output[of_class].item() == pytest.approx(made.responses[-1].item(), rel=1e-4)


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spectrum": torch.zeros(3, 8, 8)}, "shape"),
        ({"spectrum": torch.zeros(2, 1, 8, 8)}, r"\(n, 3, h, w\)"),
        ({"spectrum": torch.zeros(2, 3, 8, 8, dtype=torch.int64)}, "int64"),
        ({"spectrum": torch.full((2, 3, 16, 16), torch.nan)}, "finite"),
        ({"spectrum": "photographs"}, "mean and std"),
    ],
    ids=["axes", "channels", "integers", "nan", "path"],
)
def test_unsuitable_spectra_are_refused(options, message):
    with pytest.raises(AttribkitError, match=message):
        Explainer(testing.tiny_cnn()).visualize(2, Maco(**options), size=(3, 16, 16))


def test_missing_and_broken_files_are_refused(tmp_path):
    explainer = Explainer(testing.tiny_cnn(), spec=BOUNDED)
    for path in (str(tmp_path), str(tmp_path / "none.png")):
        with pytest.raises(AttribkitError, match="none was found"):
            explainer.visualize(2, Maco(spectrum=path), size=(3, 16, 16))
    (tmp_path / "broken.jpg").write_text("no image")
    with pytest.raises(AttribkitError, match=r"broken\.jpg"):
        explainer.visualize(2, Maco(spectrum=str(tmp_path)), size=(3, 16, 16))


def test_other_inputs_are_refused():
    with pytest.raises(AttribkitError, match="swap"):
        Maco(crop_size=(0.9, 0.5))
    volumes = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    for visualizer in (Maco(), FeatureAccentuation(image=torch.zeros(1, 4, 8, 8))):
        with pytest.raises(AttribkitError, match="activation_maximization"):
            Explainer(volumes).visualize(1, visualizer, size=(1, 4, 8, 8))
    with pytest.raises(AttribkitError, match="Maco"):
        visualize_with_importance(Explainer(testing.tiny_cnn()), 1, "maco", size=(3, 16, 16))


def test_it_is_found_by_its_name():
    made = Explainer(testing.tiny_cnn()).visualize(2, "maco", size=(3, 16, 16), steps=1, crops=1)
    assert made.visualizer == Maco(steps=1, crops=1)
