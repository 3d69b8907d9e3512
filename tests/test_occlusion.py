"""Occlusion: captum's numbers, a slow loop, and the closed form of a linear model."""

import pytest
import torch
from torch import nn

from attribkit import AttribkitError, Explainer, Probability
from attribkit.testing import tiny_cnn


@pytest.mark.parametrize(("patch", "stride"), [(4, 4), (5, 3), (16, 16), (6, 2)])
def test_equals_captum(patch, stride):
    captum = pytest.importorskip("captum.attr")
    model, x = tiny_cnn().eval(), torch.randn(2, 3, 16, 16)
    ours = Explainer(model).attribute(x, "occlusion", target=[0, 1], patch=patch, stride=stride).scores
    theirs = captum.Occlusion(model).attribute(
        x, target=torch.tensor([0, 1]), sliding_window_shapes=(3, patch, patch), strides=(3, stride, stride)
    )
    torch.testing.assert_close(ours, theirs[:, :1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("baseline", ["zero", "mean", "blur"])
def test_equals_a_slow_loop(baseline):
    from attribkit.methods.substrates import substrate

    model, x = tiny_cnn().eval(), torch.randn(1, 3, 10, 13)
    cover = substrate(x, baseline)
    total, count = torch.zeros(10, 13), torch.zeros(10, 13)
    with torch.no_grad():
        for top in (0, 3, 6):
            for left in (0, 3, 6, 9):
                covered = x.clone()
                covered[..., top : top + 4, left : left + 4] = cover[..., top : top + 4, left : left + 4]
                total[top : top + 4, left : left + 4] += (model(x).softmax(1) - model(covered).softmax(1))[0, 2]
                count[top : top + 4, left : left + 4] += 1
    scores = (
        Explainer(model).attribute(x, "occlusion", target=Probability(2), patch=4, stride=3, baseline=baseline).scores
    )
    torch.testing.assert_close(scores[0, 0], total / count, rtol=1e-4, atol=1e-7)


def test_a_linear_model_loses_what_the_patch_held():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    x = torch.randn(2, 3, 8, 8)
    scores = Explainer(model).attribute(x, "occlusion", target=1, patch=2, stride=2).scores
    parts = (x * model[1].weight[1].reshape(3, 8, 8)).sum(1, keepdim=True)
    expected = nn.functional.avg_pool2d(parts, 2, divisor_override=1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(scores, expected.detach(), rtol=1e-4, atol=1e-5)


def test_covering_nothing_changes_nothing():
    x = torch.zeros(1, 3, 16, 16)
    assert not Explainer(tiny_cnn()).attribute(x, "occlusion", target=0).scores.any()


def test_a_volume_is_covered_in_blocks():
    model = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    x = torch.randn(1, 1, 4, 6, 8)
    assert Explainer(model).attribute(x, "occlusion", target=0, patch=2, stride=2).scores.shape == (1, 1, 4, 6, 8)


def test_strides_that_leave_pixels_out_are_refused():
    with pytest.raises(AttribkitError, match="stride=5 must be from 1 to patch=4"):
        Explainer(tiny_cnn()).attribute(torch.randn(1, 3, 16, 16), "occlusion", patch=4, stride=5)


def test_an_unknown_substrate_is_refused(as_users_run):
    with pytest.raises(AttribkitError, match="'grey' is no substrate; known: zero, mean, blur"):
        Explainer(tiny_cnn()).attribute(torch.randn(1, 3, 16, 16), "occlusion", baseline="grey")
