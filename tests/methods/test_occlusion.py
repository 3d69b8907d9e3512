"""Occlusion: captum's numbers, a slow loop, and the closed form of a linear model."""

import numpy as np
import pytest
import torch
from skimage.segmentation import slic
from torch import nn

from attribkit import AttribkitError, Explainer, Probability, zoo
from attribkit._core.substrates import inpaint
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
    from attribkit._core.substrates import substrate_images

    model, x = tiny_cnn().eval(), torch.randn(1, 3, 10, 13)
    cover = substrate_images(x, baseline)
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
    with pytest.raises(AttribkitError, match="stride=5 must be at most patch=4"):
        Explainer(tiny_cnn()).attribute(torch.randn(1, 3, 16, 16), "occlusion", patch=4, stride=5)


def test_an_unknown_substrate_is_refused(as_users_run):
    with pytest.raises(AttribkitError, match=r"No substrate is named 'grey'. Known: zero, mean, blur"):
        Explainer(tiny_cnn()).attribute(torch.randn(1, 3, 16, 16), "occlusion", baseline="grey")


def test_superpixels_equal_a_slow_loop(cnn):
    """Each image has its own superpixels, and not as many as the other."""
    scenes = torch.stack([torch.from_numpy(scene.image).movedim(-1, 0) / 127.5 - 1 for scene in zoo.scenes(2)]).float()
    ours = Explainer(cnn).attribute(scenes, "occlusion", target=[1, 2], superpixels=12, baseline="mean").scores
    counts = []
    for image, category, score in zip(scenes, [1, 2], ours[:, 0], strict=True):
        unit = (image - image.min()) / (image.max() - image.min())
        labels = torch.from_numpy(slic(unit.double().numpy(), 12, channel_axis=0, start_label=1))
        counts.append(int(labels.max()))
        with torch.no_grad():
            for label in labels.unique():
                covered = torch.where(labels == label, image.mean((1, 2), keepdim=True), image)
                fall = (cnn(image[None]) - cnn(covered[None]))[0, category]
                torch.testing.assert_close(
                    score[labels == label], fall.expand((labels == label).sum()), rtol=1e-4, atol=1e-4
                )
    assert counts[0] != counts[1]


def test_superpixels_of_volumes_and_of_one_channel():
    model = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2, 3))
    scores = Explainer(model).attribute(torch.rand(2, 1, 8, 12, 12), "occlusion", superpixels=6).scores
    assert scores.shape == (2, 1, 8, 12, 12)


def test_inpainting_fills_a_patch_from_around_it(cnn):
    """Of an even image nothing is lost but a rounding to 256 levels; of a bright square in it all is."""
    x = torch.zeros(2, 3, 128, 128)
    x[1, :, 40:60, 40:60] = 1.0
    options = {"target": 1, "patch": 32, "stride": 32, "baseline": "inpaint"}
    scores = Explainer(cnn).attribute(x, "occlusion", **options).scores
    assert scores[0].abs().max() < 1e-5
    hole = torch.zeros(1, 1, 128, 128, dtype=torch.bool)
    hole[..., 32:64, 32:64] = True
    filled = inpaint(x, hole)
    assert filled[1].abs().max() < 1e-5
    assert torch.equal(filled[~hole.expand_as(x)], x[~hole.expand_as(x)])


def test_inpainting_equals_opencv_itself(cnn):
    cv2 = pytest.importorskip("cv2")
    scene = next(zoo.scenes(1)).image
    scene[0, 0], scene[0, 1] = 0, 255  # the image's range is that of its bytes
    hole = np.zeros((128, 128), dtype=np.uint8)
    hole[30:70, 20:50] = 1
    expected = cv2.inpaint(scene, hole, 3, cv2.INPAINT_TELEA).astype(np.float32) / 255
    x = torch.from_numpy(scene).movedim(-1, 0)[None] / 255
    ours = inpaint(x, torch.from_numpy(hole)[None, None].bool())[0].movedim(0, -1)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


def test_a_given_image_covers(cnn):
    x, other = torch.randn(2, 3, 128, 128), torch.randn(3, 128, 128)
    zero = Explainer(cnn).attribute(x, "occlusion", target=1, patch=64, stride=64).scores
    same = (
        Explainer(cnn)
        .attribute(x, "occlusion", target=1, patch=64, stride=64, baseline=torch.zeros(3, 128, 128))
        .scores
    )
    assert torch.equal(zero, same)
    assert not torch.equal(
        zero, Explainer(cnn).attribute(x, "occlusion", target=1, patch=64, stride=64, baseline=other).scores
    )


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (
            (1, 3, 16, 16),
            {"superpixels": 0},
            "superpixels must be an integer >= 1, a GivenSegments, a tensor or None, got 0",
        ),
        (
            (1, 2, 16, 16),
            {"baseline": "inpaint"},
            r"Inpainting requires images \(b, c, h, w\) with 1 or 3 channels, got shape \(1, 2, 16, 16\)",
        ),
    ],
)
def test_bad_options(shape, options, message):
    model = nn.Sequential(nn.Conv2d(shape[1], 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(AttribkitError, match=message):
        Explainer(model).attribute(torch.randn(shape), "occlusion", **options)
