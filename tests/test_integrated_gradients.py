"""Integrated gradients: captum's numbers, completeness, and memory that does not grow with the steps."""

import pytest
import torch
from torch import nn

from attribkit import Explainer
from attribkit.methods.integrated_gradients import IntegratedGradients
from attribkit.testing import tiny_cnn


@pytest.mark.parametrize("steps", [5, 50])
def test_equals_captum(steps):
    captum = pytest.importorskip("captum.attr")
    model, x = tiny_cnn().eval().double(), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    ours = Explainer(model).attribute(x, "integrated_gradients", target=[0, 1, 2], steps=steps).scores
    theirs = captum.IntegratedGradients(model).attribute(x, target=torch.tensor([0, 1, 2]), n_steps=steps)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("baseline", ["zero", "mean", "blur"])
def test_complete_on_a_smooth_model(baseline):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).double()
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    attribution = Explainer(model).attribute(x, "integrated_gradients", target=1, baseline=baseline)
    from attribkit.methods.substrates import substrate

    with torch.no_grad():
        wanted = (model(x) - model(substrate(x, baseline)))[:, 1]
    torch.testing.assert_close(attribution.scores.sum((1, 2, 3)), wanted, rtol=1e-6, atol=1e-9)
    assert "completeness: the scores miss f(x) - f(baseline) by at most 0.00%" in attribution.notes


def test_a_gap_is_told():
    model, x = tiny_cnn(), 10 * torch.randn(1, 3, 16, 16)
    attribution = Explainer(model).attribute(x, "integrated_gradients", target=1, steps=1)
    (note,) = [note for note in attribution.notes if note.startswith("completeness")]
    assert float(note.rsplit(" ", 1)[1].rstrip("%")) > 0.01


@pytest.mark.parametrize("images", [1, 3, 20])
def test_forwards_are_packed_and_no_larger_than_they_should_be(images):
    model = tiny_cnn()
    sizes = []
    model.register_forward_pre_hook(lambda _module, args: sizes.append(len(args[0])))
    Explainer(model).attribute(torch.randn(images, 3, 16, 16), IntegratedGradients(steps=40), target=0)
    path = sizes[:-2]  # the last two are for the completeness
    assert sum(path) == 40 * images
    assert max(path) == max(images, 16 // images * images)


def test_a_function_as_target_is_asked_about_one_batch_at_a_time():
    model, x = tiny_cnn(), torch.randn(2, 3, 16, 16)
    explainer = Explainer(model)
    expected = explainer.attribute(x, "integrated_gradients", target=[1, 3], steps=4).scores
    labels = torch.tensor([1, 3])
    by_function = explainer.attribute(
        x, "integrated_gradients", target=lambda y: y.gather(1, labels[:, None]).squeeze(1), steps=4
    )
    torch.testing.assert_close(by_function.scores, expected)
