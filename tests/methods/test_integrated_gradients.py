"""Integrated gradients: captum's numbers, completeness, and memory that does not grow with the steps."""

import re

import pytest
import torch
from torch import nn

from attribkit import AttribkitError, Explainer
from attribkit.methods._integrated_gradients import IntegratedGradients
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
    from attribkit._core.substrates import substrate_images

    with torch.no_grad():
        wanted = (model(x) - model(substrate_images(x, baseline)))[:, 1]
    torch.testing.assert_close(attribution.scores.sum((1, 2, 3)), wanted, rtol=1e-6, atol=1e-9)
    assert "completeness: the sum of the scores differs from f(x) - f(baseline) by at most 0.00%" in attribution.notes


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
    explainer = Explainer(model)
    explainer.attribute(torch.randn(images, 3, 16, 16), "saliency", target=0)  # the first call costs more
    sizes.clear()
    explainer.attribute(torch.randn(images, 3, 16, 16), IntegratedGradients(steps=40), target=0)
    assert sizes[:2] == [images, images]  # the images and the baselines, for the completeness
    path = sizes[2:]
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


def test_several_baselines_are_averaged(cnn):
    x = torch.randn(2, 3, 128, 128)
    explainer = Explainer(cnn)
    names = ["zero", "mean", "blur"]
    each = [explainer.attribute(x, "integrated_gradients", target=1, steps=6, baseline=name).scores for name in names]
    together = explainer.attribute(x, "integrated_gradients", target=1, steps=6, baseline=names)
    torch.testing.assert_close(together.scores, torch.stack(each).mean(0))
    assert "baseline=('zero', 'mean', 'blur')" in repr(together.method)


def test_noise_is_drawn_anew_for_each_of_several_and_is_the_same_for_every_image(cnn):
    x = torch.randn(2, 3, 128, 128)
    explainer = Explainer(cnn)
    options = {"target": 1, "steps": 4}
    both = explainer.attribute(x, "integrated_gradients", baseline=("noise", "noise"), seed=5, **options).scores
    one = explainer.attribute(x, "integrated_gradients", baseline="noise", seed=5, **options).scores
    other = explainer.attribute(x, "integrated_gradients", baseline="noise", seed=6, **options).scores
    torch.testing.assert_close(both, (one + other) / 2)
    assert not torch.allclose(one, other)
    alone = explainer.attribute(x[1:], "integrated_gradients", baseline="noise", seed=5, **options).scores
    torch.testing.assert_close(one[1:], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 128, 128), (1, 3, 128, 128), (2, 3, 128, 128)])
def test_a_given_baseline_equals_captums(cnn, shape):
    captum = pytest.importorskip("captum.attr")
    x, baseline = torch.randn(2, 3, 128, 128), torch.randn(shape)
    attribution = Explainer(cnn).attribute(x, "integrated_gradients", target=3, steps=12, baseline=baseline)
    theirs = captum.IntegratedGradients(cnn).attribute(x, baseline.expand(2, -1, -1, -1), 3, n_steps=12)
    torch.testing.assert_close(attribution.scores, theirs.float(), rtol=0, atol=1e-5 * float(theirs.abs().max()))
    assert re.search(r"baseline=GivenImages\(.*crc32=[0-9a-f]{8}\)", repr(attribution.method))


@pytest.mark.slow
def test_auto_takes_as_many_steps_as_the_tolerance_asks_for(cnn):
    x = torch.stack([torch.randn(3, 128, 128), 0.05 * torch.randn(3, 128, 128), torch.randn(3, 128, 128)])
    loose, strict = (
        Explainer(cnn).attribute(x, "integrated_gradients", target=1, steps="auto", tolerance=tolerance)
        for tolerance in (0.5, 0.001)
    )
    steps = [[int(re.search(r"(\d+) steps", note)[1]) for note in a.notes] for a in (loose, strict)]
    assert max(steps[0]) < max(steps[1])
    for attribution, tolerance in [(loose, 0.5), (strict, 0.001)]:
        assert len(attribution.notes) == 3
        with torch.no_grad():
            wanted = (cnn(x) - cnn(0 * x))[:, 1]
        missed = ((attribution.scores.sum((1, 2, 3)) - wanted) / wanted).abs()
        for gap, note in zip(missed.tolist(), attribution.notes, strict=True):
            assert gap <= tolerance or "more than the tolerance" in note


def test_an_image_does_not_take_more_steps_for_its_neighbours(cnn):
    x = torch.stack([torch.randn(3, 128, 128), 0.05 * torch.randn(3, 128, 128)])
    method = IntegratedGradients(steps="auto", tolerance=0.02)
    both = Explainer(cnn).attribute(x, method, target=1).scores
    alone = Explainer(cnn).attribute(x[1:], method, target=1).scores
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be 'auto' or an integer >= 1, got 0"),
        ({"steps": "many"}, "steps must be 'auto' or an integer >= 1, got 'many'"),
        ({"baseline": ()}, r"baseline must be one of .* or a non-empty tuple of these, got \(\)"),
        ({"baseline": "grey"}, "No substrate is named 'grey'. Known: zero, mean, blur, noise"),
        (
            {"baseline": torch.zeros(3, 5, 5)},
            r"shape \(3, 5, 5\), but the explained images have shape \(1, 3, 128, 128\)",
        ),
    ],
)
def test_bad_options(cnn, options, message):
    with pytest.raises(AttribkitError, match=message):
        Explainer(cnn).attribute(torch.randn(1, 3, 128, 128), "integrated_gradients", **options)


def test_the_images_are_run_once_if_the_target_is_the_predicted_class():
    model, explainer_images = tiny_cnn(), torch.randn(2, 3, 16, 16)
    runs = []
    model.register_forward_pre_hook(lambda _module, args: runs.append(args[0].detach().clone()))
    explainer = Explainer(model)
    explainer.attribute(explainer_images, "integrated_gradients", steps=4)  # the first call also traces the model
    runs.clear()
    explainer.attribute(explainer_images, "integrated_gradients", steps=4)
    assert sum(torch.equal(run, explainer_images) for run in runs) == 1
    assert sum(map(len, runs)) == 2 * (4 + 2)
