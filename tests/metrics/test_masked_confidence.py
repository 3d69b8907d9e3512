"""Metrics on masked images against closed forms, slow loops and the libraries that have them."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from attribkit import Attribution, ClassLogit, Contrast, Explainer, Probability
from attribkit._contracts.records import Recorded
from attribkit._core.errors import InvalidInput, UnknownName
from attribkit._targets.resolution import PerImageTargets
from attribkit._targets.target import FunctionTarget
from attribkit.methods._gradcam import GradCAM
from attribkit.methods._gradients import InputXGradient
from attribkit.metrics._masked import AverageDCC, AverageDrop, AverageGain, IncreaseInConfidence, scale_to_unit_range
from attribkit.testing import changes, model_state, tiny_cnn
from tests.maps import check_precision

EXACT = {"rtol": 0, "atol": 1e-9}
ALL = [
    AverageDrop(),
    AverageDrop(score="logit", relative=False),
    IncreaseInConfidence(),
    AverageGain(),
    AverageDCC(),
]


def of(scores, x, target=0, method=None):
    return Attribution(scores, x, ClassLogit(target), method or GradCAM())


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def linear(bias=True):
    """Of 12 positive numbers, a positive score."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=bias)).double()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 0.1, 0.2)
    return model


def probabilities(model, images, targets):
    with torch.no_grad():
        return model.eval()(images).softmax(1)[range(len(images)), targets]


@pytest.fixture
def cnn():
    model = tiny_cnn().double()
    nn.init.normal_(model[-1].weight)
    return model


# Closed forms


@pytest.mark.parametrize("metric", ALL[:4], ids=lambda metric: metric.name)
def test_a_map_that_keeps_the_whole_image_loses_and_gains_nothing(metric, cnn):
    x = doubles(3, 3, 16, 16)
    for scores in (torch.full((3, 1, 16, 16), 0.1), torch.full((3, 1, 7, 7), 5.0).double()):
        assert Explainer(cnn).evaluate(of(scores, x), metric).tolist() == [0.0] * 3


def test_average_drop_of_a_linear_model():
    """Two pixels that the image lacks hold the least and the largest of the map, all others the same share of it."""
    x = torch.rand(2, 1, 3, 4).double() + 0.5
    x[:, :, 0, 0] = x[:, :, 2, 3] = 0
    for share in (0.0, 0.3, 1.0):
        scores = torch.full((2, 1, 3, 4), 7 * share, dtype=torch.float64)
        scores[:, :, 0, 0], scores[:, :, 2, 3] = 0, 7
        model = linear(bias=False)
        drop = Explainer(model).evaluate(of(scores, x), "average_drop", score="logit")
        torch.testing.assert_close(drop, torch.full((2,), 1 - share, dtype=torch.float64), **EXACT)
        model = linear()
        drop = Explainer(model).evaluate(of(scores, x), "average_drop", score="logit")
        whole, empty = model(x)[:, 0], model[1].bias[0]
        torch.testing.assert_close(drop, (1 - share) * (whole - empty) / whole, **EXACT)
        lost = Explainer(model).evaluate(of(scores, x), "average_drop", preset="pytorch_grad_cam")
        torch.testing.assert_close(lost, (1 - share) * (whole - empty), **EXACT)


def test_a_map_of_zeros_keeps_nothing_and_so_does_a_constant_negative_one():
    model, x = linear(), torch.rand(1, 1, 3, 4).double()
    for value in (0.0, -2.0):
        drop = Explainer(model).evaluate(of(torch.full_like(x, value), x), AverageDrop(score="logit"))
        whole = model(x)[0, 0]
        assert drop.item() == pytest.approx(((whole - model[1].bias[0]) / whole).item(), abs=1e-9)


def test_a_model_that_never_changes_its_mind():
    model, x = linear(), torch.rand(2, 1, 3, 4).double()
    nn.init.zeros_(model[1].weight)
    for metric in ALL[:4]:
        assert Explainer(model).evaluate(of(doubles(2, 1, 3, 4), x), metric).tolist() == [0.0, 0.0]


def test_what_is_not_defined_is_nan():
    model, x = linear(), torch.rand(2, 1, 3, 4).double()
    below = Attribution(doubles(2, 1, 3, 4), x, FunctionTarget(lambda outputs: -outputs[:, 0]), GradCAM())
    above = Attribution(doubles(2, 1, 3, 4), x, FunctionTarget(lambda outputs: 5 + outputs[:, 0]), GradCAM())
    assert Explainer(model).evaluate(below, "average_drop").isnan().all()
    assert Explainer(model).evaluate(above, "average_gain").isnan().all()
    flat = of(torch.ones(2, 1, 3, 4), x, method=InputXGradient())
    assert Explainer(model).evaluate(flat, "adcc").isnan().all()  # nothing correlates with a constant map


def test_the_mask_goes_from_0_to_1():
    maps = doubles(4, 5, 6)
    expected = [(each - each.min()) / (each.max() - each.min()) for each in maps]
    torch.testing.assert_close(scale_to_unit_range(maps), torch.stack(expected), **EXACT)


# Slow loops


def test_all_against_a_loop(cnn):
    x, scores, classes = doubles(4, 3, 16, 16), doubles(4, 1, 4, 4), (1, 0, 3, 2)
    attribution = of(scores, x, classes)
    heatmaps = torch.nn.functional.interpolate(scores, (16, 16), mode="bilinear")
    masks = torch.stack([(each - each.min()) / (each.max() - each.min()) for each in heatmaps])
    before, after = (probabilities(cnn, images, classes) for images in (x, x * masks))
    told = {
        "average_drop": [max(0, b - a) / b for b, a in zip(before, after, strict=True)],
        "increase_in_confidence": [float(a > b) for b, a in zip(before, after, strict=True)],
        "average_gain": [max(0, a - b) / (1 - b) for b, a in zip(before, after, strict=True)],
    }
    for name, expected in told.items():
        values = Explainer(cnn).evaluate(attribution, name)
        torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), **EXACT)
    assert 0 < sum(told["increase_in_confidence"]) < 4


def test_adcc_against_a_loop(cnn):
    x = doubles(4, 3, 16, 16)
    explainer = Explainer(cnn)
    attribution = explainer.attribute(x, "input_x_gradient", target=[1, 0, 3, 2])
    (found,) = explainer.measure([attribution], ["adcc"])
    maps = attribution.heatmap()
    for i, target in enumerate((1, 0, 3, 2)):
        mask = (maps[i] - maps[i].min()) / (maps[i].max() - maps[i].min())
        masked = (x[i] * mask)[None]
        again = explainer.attribute(masked, "input_x_gradient", target=target).heatmap()[0]
        before, after = (probabilities(cnn, each, [target]).item() for each in (x[i : i + 1], masked))
        parts = {
            "average_drop": max(0, before - after) / before,
            "coherency": (1 + np.corrcoef(maps[i].flatten(), again.flatten())[0, 1]) / 2,
            "complexity": mask.mean().item(),
        }
        for name, expected in parts.items():
            assert found.details[name][0, i].item() == pytest.approx(expected, abs=1e-9)
        kept = [1 - parts["average_drop"], parts["coherency"], 1 - parts["complexity"]]
        assert found.values[0, i].item() == pytest.approx(3 / sum(1 / each for each in kept), abs=1e-9)


def test_adcc_is_0_where_one_of_its_parts_is():
    model, x = linear(bias=False), torch.rand(1, 1, 3, 4).double() + 0.5
    logit = FunctionTarget(lambda outputs: outputs[:, 0])
    x[:, :, 1:] = 0
    scores = torch.zeros_like(x)
    scores[:, :, 2] = 1  # keeps nothing of the score
    (found,) = Explainer(model).measure([Attribution(scores, x, logit, InputXGradient())], ["adcc"])
    assert found.details["average_drop"].item() == 1
    assert found.values.isnan().item()  # and the masked image has no map
    x[:, :, 2] = 1e-12
    (found,) = Explainer(model).measure([Attribution(scores, x, logit, InputXGradient())], ["adcc"])
    assert found.values.item() == pytest.approx(0, abs=1e-9)


def test_a_method_from_a_file_cannot_be_run_again(cnn, as_users_run):
    scores, x = doubles(1, 1, 4, 4), doubles(1, 3, 16, 16)
    loaded = Attribution(scores, x, ClassLogit(0), Recorded("gradcam", "GradCAM(layer='4')"))
    with pytest.raises(InvalidInput, match=r"GradCAM\(layer='4'\) for .* was loaded from a file"):
        Explainer(cnn).evaluate(loaded, "adcc")
    assert Explainer(cnn).evaluate(loaded, "average_drop").isfinite().all()


# Peers


class Extractor:
    """What torch-cam's metric takes its maps from; these reach 0 and 1 at the resolution of the images."""

    def __init__(self, model, maps):
        self.model, self.maps = model, maps

    def __call__(self, class_idx, scores):
        return [self.maps]

    def fuse_cams(self, maps):
        return maps[0]

    def _hooks_off(self):
        return nullcontext()


@pytest.mark.parametrize("preset", ["torchcam", None])
def test_average_drop_and_increase_are_those_of_torchcam(preset, cnn):
    torchcam = pytest.importorskip("torchcam.metrics")
    model, x, scores = cnn.eval(), doubles(6, 3, 16, 16), doubles(6, 1, 16, 16)
    nn.init.constant_(model[-1].bias, 3)  # positive logits: torch-cam divides by negative ones too
    theirs = torchcam.ClassificationMetric(
        Extractor(model, scale_to_unit_range(scores[:, 0])), None if preset else lambda logits: logits.softmax(-1)
    )
    theirs.update(x, class_idx=[1, 0, 3, 2, 4, 1])
    attribution = of(scores, x, (1, 0, 3, 2, 4, 1))
    options = {"preset": preset} if preset else {}
    for key, metric in (("avg_drop", "average_drop"), ("conf_increase", "increase_in_confidence")):
        ours = Explainer(model).evaluate(attribution, metric, **options).mean().item()
        assert ours == pytest.approx(theirs.summary()[key], abs=1e-6)
        assert 0 < ours < 1


def test_drop_and_increase_are_those_of_pytorch_grad_cam(cnn):
    peer = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model, x, classes = cnn.float().eval(), torch.randn(4, 3, 16, 16), (1, 0, 3, 2)
    attribution = of(torch.randn(4, 1, 16, 16), x, classes)
    cams = scale_to_unit_range(attribution.heatmap()).numpy()
    asked = [targets.ClassifierOutputTarget(each) for each in classes]
    ours = Explainer(model).evaluate(attribution, "average_drop", preset="pytorch_grad_cam")
    assert ours.tolist() == pytest.approx(peer.DropInConfidence()(x, cams, asked, model), abs=1e-5)
    ours = Explainer(model).evaluate(attribution, "increase_in_confidence", preset="pytorch_grad_cam")
    theirs = peer.IncreaseInConfidence()(x, cams, asked, model)
    assert ours.tolist() == theirs.tolist()
    assert 0 < theirs.sum() < 4


# What every one of them must keep


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_an_image_does_not_depend_on_its_neighbours(metric, cnn):
    x, classes = doubles(16, 3, 16, 16), tuple(i % 5 for i in range(16))
    whole = Explainer(cnn).attribute(x, "input_x_gradient", target=list(classes))
    values = Explainer(cnn).evaluate(whole, metric)
    assert values.isfinite().all()
    for images in (slice(4, 5), slice(3, 6)):
        torch.testing.assert_close(Explainer(cnn).evaluate(whole[images], metric), values[images], **EXACT)
    for batch_size in (1, 3):
        chunked = Explainer(cnn, batch_size=batch_size).evaluate(whole, metric)
        torch.testing.assert_close(chunked, values, **EXACT)
    back = Attribution(whole.scores.flip(0), x.flip(0), ClassLogit(classes[::-1]), whole.method)
    torch.testing.assert_close(Explainer(cnn).evaluate(back, metric).flip(0), values, **EXACT)


def test_one_forward_a_map_and_one_for_all(cnn):
    explainer, x = Explainer(cnn), doubles(3, 3, 16, 16)
    maps = [of(doubles(3, 1, 4, 4), x) for _ in range(5)]
    explainer.measure(maps, ["average_drop", "increase_in_confidence", "average_gain"])
    assert explainer.model.image_count == 3 * (1 + 5)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_a_map_does_not_depend_on_the_others(metric, cnn):
    x = doubles(2, 3, 16, 16)
    explainer = Explainer(cnn)
    maps = [explainer.attribute(x, method, target=1) for method in ("input_x_gradient", "saliency", "smoothgrad")]
    together = explainer.measure(maps, [metric])[0].values
    torch.testing.assert_close(together, torch.stack([explainer.evaluate(each, metric) for each in maps]), **EXACT)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_the_model_is_left_as_it_was(metric):
    model, x = tiny_cnn(), torch.randn(2, 3, 16, 16)
    attribution, images = of(torch.randn(2, 1, 4, 4), x, method=InputXGradient()), x.clone()
    before = model_state(model)
    Explainer(model).evaluate(attribution, metric)
    assert not changes(before, model_state(model))
    assert torch.equal(x, images)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)], ids=str)
def test_other_precisions_have_the_numbers_of_double(metric, dtype, tolerance):
    check_precision(metric, dtype, tolerance, tolerance / 10, method="centre")  # which drops some and raises others


def test_volumes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 4 * 5, 3)).double()
    x = doubles(2, 2, 3, 4, 5)
    attribution = Explainer(model).attribute(x, "input_x_gradient", target=1)
    for metric in ALL:
        assert Explainer(model).evaluate(attribution, metric).isfinite().all()


def test_refusals(cnn, as_users_run):
    attribution = of(doubles(1, 1, 4, 4), doubles(1, 3, 16, 16))
    with pytest.raises(InvalidInput, match="'loss'"):
        Explainer(cnn).evaluate(attribution, "average_drop", score="loss")
    with pytest.raises(UnknownName, match="option of 'average_gain'"):
        Explainer(cnn).evaluate(attribution, "average_gain", score="logit")
    assert math.isfinite(Explainer(cnn).evaluate(attribution, "average_drop", score="logit", relative=False).item())


def test_targets_of_each_image(cnn):
    x = doubles(2, 3, 16, 16)
    mixed = Explainer(cnn).attribute(x, "input_x_gradient", target=[1, Probability(2)])
    expected = [
        Explainer(cnn).evaluate(of(mixed.scores[i : i + 1], x[i : i + 1], i + 1), "average_drop") for i in (0, 1)
    ]
    torch.testing.assert_close(Explainer(cnn).evaluate(mixed, "average_drop"), torch.cat(expected), **EXACT)


def test_a_score_that_is_not_a_number_is_no_increase():
    model, x = linear(), torch.rand(2, 1, 3, 4).double()
    broken = FunctionTarget(lambda outputs: outputs[:, 0].where(torch.arange(len(outputs)) % 2 == 0, torch.nan))
    found = Explainer(model).evaluate(Attribution(doubles(2, 1, 3, 4), x, broken, GradCAM()), "increase_in_confidence")
    assert found.isnan().tolist() == [False, True]


def test_the_gain_of_a_score_that_is_no_probability_is_not_defined():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.tensor([0.7, 0.2], dtype=torch.float64)  # logits, and a difference, between 0 and 1
    x = torch.rand(2, 1, 3, 4).double()
    for target in (Contrast(0, 1), PerImageTargets((Contrast(0, 1), ClassLogit(0)))):
        found = Explainer(model).evaluate(Attribution(doubles(2, 1, 3, 4), x, target, GradCAM()), "average_gain")
        assert found.isnan().tolist() == [True, isinstance(target, Contrast)]


def test_adcc_of_a_score_below_zero_is_not_defined():
    model, x = linear(), torch.rand(1, 1, 3, 4).double() + 0.5
    whole = model(x)[0, 0].item()
    sinks = FunctionTarget(lambda outputs: outputs[:, 0] - 0.9 * whole)
    scores = torch.zeros_like(x).index_fill(3, torch.tensor([0]), 1)
    (found,) = Explainer(model).measure([Attribution(scores, x, sinks, InputXGradient())], ["adcc"])
    assert found.details["average_drop"].item() > 1
    assert found.values.isnan().item()
