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
from attribkit.cli import app
from attribkit.core.errors import AttribkitError, InvalidInput, UnknownName, UnsupportedModel
from attribkit.figures import gallery
from attribkit.testing import VISUALIZER_CHECKS, check_visualizer, tiny_cnn
from attribkit.visualizers.activation_maximization import ActivationMaximization
from attribkit.visualizers.colours import natural_colours
from attribkit.visualizers.parametrisations import Fourier, bounded
from attribkit.visualizers.regularisers import blurred, total_variation
from attribkit.visualizers.transformations import RandomMovement

PAGES = Path(__file__).parents[1] / "docs" / "visualizers"
SIMONYAN = {"parametrisation": "pixel", "start": "zeros", "jitter": 0, "scale": 0.0, "rotate": 0.0}


class Linear(nn.Module):
    """Logits that are weighted sums of the pixels, plus a bias."""

    def __init__(self, shape, dtype=torch.float32):
        super().__init__()
        self.head = nn.Linear(math.prod(shape), 3).to(dtype)

    def forward(self, x):
        return self.head(x.flatten(1))


@pytest.mark.parametrize("check", VISUALIZER_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("options", [{}, SIMONYAN | {"l2": 0.1, "blur": 0.5}], ids=["defaults", "pixel"])
@pytest.mark.parametrize("name", registry.visualizers())
def test_conformance(name, options, check):
    check(registry.visualizers()[name](**options, steps=5), tiny_cnn(), (3, 16, 16))


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
            return images, model.response_and_gradient(images, unit)[0][None]

    with pytest.raises(AssertionError, match="two calls gave different images"):
        check_visualizer(Drawn())


# Closed forms


@pytest.mark.parametrize("shape", [(3, 6, 5), (1, 6, 5), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("decorrelated", [True, False])
def test_a_linear_score_under_l2_has_its_maximum_at_the_weights(shape, decorrelated):
    """The maximum of w.x + b - l |x|^2 is x = w / 2l (the objective of Simonyan et al., 2014, sec. 2)."""
    model = Linear(shape)
    options = SIMONYAN | {"l2": 0.25, "steps": 400, "learning_rate": 0.05, "tolerance": 0.0}
    made = Explainer(model).visualize(1, size=shape, decorrelated=decorrelated, **options)
    expected = model.head.weight[1].detach().view(1, *shape) / (2 * 0.25)
    assert (made.images - expected).norm() <= 1e-3 * expected.norm()
    assert made.responses[-1].item() == pytest.approx(float(model(expected)[0, 1]), rel=1e-3)


def test_total_variation_flattens_weights_of_mean_zero():
    """Where its weight exceeds the largest flow that the weights can drive, the best image is flat (Meyer, 2001)."""
    model = Linear((1, 4, 4))
    with torch.no_grad():
        model.head.weight.copy_(torch.randn(3, 16) * 0.1)
        model.head.weight -= model.head.weight.mean(1, keepdim=True)
    options = SIMONYAN | {"l2": 0.25, "steps": 400, "tolerance": 0.0, "decorrelated": False}
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
    expected = gaussian_filter(image[0, 0].numpy(), 2.0, truncate=7)
    np.testing.assert_allclose(blurred(image, 2.0)[0, 0], expected, atol=1e-9)
    torch.testing.assert_close(blurred(torch.ones(1, 1, 5, 5), 3.0), torch.ones(1, 1, 5, 5))


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
    weights = 1 / np.maximum(frequency, 1 / max(shape[2:]))
    weights /= np.sqrt(2 * (weights**2).mean())
    spectrum = (parameters[..., 0] + 1j * parameters[..., 1]).numpy() * weights
    expected = np.fft.irfftn(spectrum, shape[2:], axes=range(2, len(shape)), norm="ortho")
    np.testing.assert_allclose(fourier(parameters), expected, atol=1e-12)


def test_fourier_pixels_have_variance_one():
    fourier = Fourier((16, 3, 32, 32))
    assert fourier(torch.randn(fourier.parameters_shape)).var().item() == pytest.approx(1, abs=0.15)


def test_colours_are_those_of_photographs():
    """The published covariance of ImageNet's colours, against that of scikit-image's colour photographs."""
    mixing = natural_colours(torch.zeros((), dtype=torch.float64)).numpy()
    pixels = [photo().reshape(-1, 3)[::50] / 255 for photo in (data.astronaut, data.cat, data.coffee, data.rocket)]
    seen = np.cov(np.concatenate(pixels).T)
    published = mixing @ mixing.T
    assert np.trace(published) == pytest.approx(3)
    assert np.sum(published * seen) / np.linalg.norm(published) / np.linalg.norm(seen) > 0.98


def test_bounds():
    image = bounded((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))(torch.tensor([-100.0, 0.0, 100.0]).expand(1, 3, 1, 3))
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


@pytest.fixture(scope="module")
def real():
    """100 scenes of stars and hearts, found among the generated ones."""
    wanted = {zoo.SHAPES.index(name): [] for name in ("star", "heart")}
    seed = 10_000
    while min(map(len, wanted.values())) < 50:
        scene = zoo.scene(seed)
        if scene.label in wanted and len(wanted[scene.label]) < 50:
            wanted[scene.label].append(scene.image)
        seed += 1
    return wanted
