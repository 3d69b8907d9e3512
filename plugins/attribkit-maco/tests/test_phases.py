"""Magnitude spectra and the parametrisation by phases, against NumPy."""

import numpy as np
import pytest
import torch
from attribkit_maco import magnitude_spectrum
from attribkit_maco.magnitudes import natural_spectrum
from attribkit_maco.phases import image_of, symmetries
from attribkit_maco.views import RandomViews

from attribkit import AttribkitError

SIZES = [(8, 6), (7, 9), (8, 7), (7, 8), (1, 1), (1, 5), (2, 2), (5, 1)]


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_spectrum_is_the_mean_over_single_images(size):
    images = doubles(37, 3, *size)  # more than one batch
    expected = np.mean([np.abs(np.fft.rfft2(image)) for image in images.numpy()], axis=0)
    np.testing.assert_allclose(magnitude_spectrum(images), expected, rtol=1e-12)


def test_half_precision_is_computed_in_single():
    images = doubles(3, 3, 8, 8).half()
    torch.testing.assert_close(magnitude_spectrum(images), magnitude_spectrum(images.float()), rtol=0, atol=0)
    assert magnitude_spectrum(images).dtype == torch.float32


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 8, 8), "shape"),
        (torch.zeros(0, 3, 8, 8), "shape"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "uint8"),
        (torch.full((1, 3, 8, 8), torch.nan), "finite"),
    ],
    ids=["axes", "none", "bytes", "nan"],
)
def test_other_tensors_are_refused(images, message):
    with pytest.raises(AttribkitError, match=message):
        magnitude_spectrum(images)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_magnitudes_of_an_image_are_exact(size):
    """Also in the columns whose coefficients are conjugates, and of real coefficients."""
    magnitude = torch.fft.rfft2(doubles(2, 3, *size)).abs()
    image = image_of(magnitude, 10 * doubles(*magnitude.shape), size[1])
    assert image.shape == (2, 3, *size)
    np.testing.assert_allclose(np.abs(np.fft.rfft2(image.numpy())), magnitude, atol=1e-12)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_image_is_recovered_from_magnitude_and_phase(size):
    images = doubles(2, 3, *size)
    spectrum = torch.fft.rfft2(images)
    torch.testing.assert_close(image_of(spectrum.abs(), spectrum.angle(), size[1]), images)


@pytest.mark.parametrize("size", [(8, 6), (7, 9)], ids=str)
def test_the_derivative_by_free_phases(size):
    """Real coefficients aside, whose sign has a substitute derivative."""
    free = ~symmetries(*size, torch.device("cpu"))[1]
    spectrum = torch.fft.rfft2(doubles(1, 1, *size))
    magnitude, phase = spectrum.abs() * free, spectrum.angle().requires_grad_()
    assert torch.autograd.gradcheck(lambda phase: image_of(magnitude, phase, size[1]), phase)


@pytest.mark.parametrize("size", [(64, 48), (33, 35)], ids=str)
def test_the_default_spectrum_is_a_power_law(size):
    like = torch.zeros(0, dtype=torch.float64)
    magnitude = natural_spectrum((3, *size), like).numpy()
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1]))
    slope = np.polyfit(np.log(frequency.ravel()[1:]), np.log(magnitude[0].ravel()[1:]), 1)[0]
    assert slope == pytest.approx(-1.2)
    assert magnitude[0, 0, 0] == 0
    image = image_of(torch.from_numpy(magnitude), doubles(3, *magnitude.shape[1:]), size[1])
    assert image.flatten(1).mean(1).tolist() == pytest.approx([0] * 3, abs=1e-12)
    assert image.flatten(1).std(1, correction=0).tolist() == pytest.approx([1.33] * 3)


def views(**options):
    given = {"count": 5, "sizes": (0.2, 0.7), "noise": 0.0} | options
    return RandomViews(**given, generator=torch.Generator().manual_seed(1))


def test_crops_are_inside_the_image_and_of_the_stated_size():
    """A ramp shows where a crop lies: its pixels are positions on the image."""
    height, width = 40, 60
    rows = torch.arange(height, dtype=torch.float64)[:, None].expand(-1, width)
    columns = torch.arange(width, dtype=torch.float64).expand(height, -1)
    crops = views(count=200).draw(image := torch.stack([rows, columns])[None])(image)
    steps = crops[:, 1].diff(dim=2).mean((1, 2)), crops[:, 0].diff(dim=1).mean((1, 2))  # image pixels per crop pixel
    torch.testing.assert_close(steps[0], steps[1], rtol=0.03, atol=0)
    assert 0.19 < steps[0].min() < 0.25
    assert 0.65 < steps[0].max() < 0.71
    middle = crops.mean((2, 3))
    torch.testing.assert_close(middle.mean(0), torch.tensor([19.5, 29.5], dtype=torch.float64), rtol=0, atol=1.5)
    half = steps[0] / 2
    assert bool((middle[:, 1] - half * width > -1).all() & (middle[:, 1] + half * width < width).all())


def test_whole_images_and_noise():
    image = doubles(2, 3, 9, 8)
    whole = views(sizes=(1.0, 1.0)).draw(image)(image)
    assert torch.equal(whole, image.repeat(5, 1, 1, 1))
    noisy = views(sizes=(1.0, 1.0), noise=0.5, count=100).draw(image)(image) - image.repeat(100, 1, 1, 1)
    assert noisy.std().item() == pytest.approx(0.5, rel=0.02)
    full = views(sizes=(1 - 1e-9, 1.0)).draw(image)(image)
    torch.testing.assert_close(full, image.repeat(5, 1, 1, 1), rtol=0, atol=1e-6)


def test_a_view_shows_the_same_part_of_every_image():
    """The penalty compares an image with its seed through one view."""
    image = doubles(2, 3, 9, 8)
    view = views(noise=0.1).draw(image)
    assert torch.equal(view(image), view(image.clone()))
    assert not torch.equal(view(image)[:2], view(image)[2:4])
