"""Clips (b, c, t, h, w) and volumes (b, c, d, h, w): maps, options per axis, files, figures, models by name."""

import itertools

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy import ndimage
from skimage.transform import resize
from torch import nn
from torchvision import models
from typer.testing import CliRunner

from attribkit import AttribkitError, Attribution, ClassLogit, Explainer, ModelSpec, figure, load_model, registry
from attribkit._core.pictures import middle_indices, overlay, to_pictures
from attribkit._core.substrates import substrate_images
from attribkit._loading import clip_preprocessing
from attribkit.cli import app
from attribkit.figures import animate, frames, mosaic, write_clip
from attribkit.io._clips import Clip, read_clip
from attribkit.io._preprocessing import ClipPreprocessing, read_image
from attribkit.methods._gradcam import GradCAM
from attribkit.methods._occlusion import Occlusion
from attribkit.methods._rise import RISE

CONTROLS = {"random", "centre", "edges", "input_norm", "constant"}  # know nothing of the model
OF_ATTENTION = {"attention", "attention_rollout", "gradient_rollout", "attention_gates"}
BUILTIN = [name for name, cls in registry.methods().items() if registry.plugin_of(cls).distribution == "attribkit"]
OPTIONS = {
    "rise": {"masks": 400, "cells": (8, 1, 1)},
    "smoothgrad": {"samples": 4},
    "integrated_gradients": {"steps": 8},
}
FRAME = 5


class Gated(nn.Module):
    """A classifier of clips or volumes that sees its input through a mask alone; unsure if it sees nothing there."""

    def __init__(self, mask, kernel):
        super().__init__()
        padding = tuple(side // 2 for side in kernel)
        self.register_buffer("mask", mask.float())
        self.conv, self.relu = nn.Conv3d(3, 4, kernel, padding=padding, bias=False), nn.ReLU()
        self.pool, self.head = nn.AdaptiveAvgPool3d(1), nn.Linear(4, 2)
        self.head.weight.data = torch.stack([torch.full((4,), 50.0 * mask.numel() / mask.sum() / 8), torch.zeros(4)])
        self.head.bias.data = torch.tensor([-3.0, 0.0])

    def forward(self, x):
        return self.head(self.pool(self.relu(self.conv(x * self.mask))).flatten(1))


@pytest.fixture(scope="module")
def one_frame():
    """A model of eight frames of which only one counts, and clips that are brighter elsewhere."""
    torch.manual_seed(1)
    mask = torch.zeros(8, 1, 1)
    mask[FRAME] = 1
    clips = torch.rand(2, 3, 8, 16, 16)
    clips[:, :, 1] *= 3
    return Gated(mask, (1, 3, 3)), clips


@pytest.mark.parametrize("method", sorted(set(BUILTIN) - CONTROLS - OF_ATTENTION))
def test_the_only_frame_that_counts_has_the_peak(one_frame, method):
    model, clips = one_frame
    attribution = Explainer(model).attribute(clips, method, target=0, **OPTIONS.get(method, {}))
    heatmap = attribution.heatmap("sum_of_magnitudes")
    assert heatmap.shape == (2, 8, 16, 16)
    assert heatmap.sum((2, 3)).argmax(1).tolist() == [FRAME, FRAME]
    assert heatmap.amax((2, 3)).argmax(1).tolist() == [FRAME, FRAME]


@pytest.mark.parametrize("method", sorted(set(BUILTIN) - CONTROLS - OF_ATTENTION))
def test_the_corner_that_decides_has_the_peak(method):
    mask = torch.zeros(8, 8, 8)
    mask[4:, :4, 4:] = 1
    volume, model = torch.rand(1, 3, 8, 8, 8), Gated(mask, (1, 1, 1))
    options = {"masks": 600, "cells": 2, "probability": 0.2} if method == "rise" else OPTIONS.get(method, {})
    heatmap = Explainer(model).attribute(volume, method, target=0, **options).heatmap()[0].abs()
    assert mask.flatten()[heatmap.argmax()] == 1
    heatmap = heatmap - heatmap.amin()  # RISE gives every pixel the mean score
    assert heatmap[mask == 1].mean() > 2 * heatmap[mask == 0].mean()


@pytest.mark.parametrize("method", BUILTIN)
@pytest.mark.parametrize("space", [(2, 7, 9), (1, 6, 6)], ids=str)
def test_every_method_takes_short_and_uneven_axes(method, space):
    model = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    options = {"masks": 5} if method == "rise" else OPTIONS.get(method, {})
    volumes = torch.randn(2, 1, *space)
    if method in OF_ATTENTION:
        with pytest.raises(AttribkitError):
            Explainer(model).attribute(volumes, method)
        return
    heatmap = Explainer(model).attribute(volumes, method, target=1, **options).heatmap()
    assert heatmap.shape == (2, *space)
    assert heatmap.any()


@pytest.mark.parametrize("baseline", ["zero", "mean", "blur", "noise"])
def test_every_baseline_of_a_clip_is_complete(one_frame, baseline):
    model, clips = one_frame
    scores = Explainer(model).attribute(clips, "integrated_gradients", target=0, baseline=baseline, steps=128).scores
    with torch.no_grad():
        expected = (model(clips) - model(substrate_images(clips, baseline)))[:, 0]
    torch.testing.assert_close(scores.flatten(1).sum(1), expected, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_blur_along_a_short_axis_keeps_what_is_even(length):
    x = torch.full((1, 1, length, 6, 7), 2.5)
    torch.testing.assert_close(substrate_images(x, "blur"), x)
    turned = torch.randn(1, 1, length, 6, 7)
    torch.testing.assert_close(substrate_images(turned.flip(2), "blur"), substrate_images(turned, "blur").flip(2))


def test_metrics_and_checks_of_clips(one_frame):
    model, clips = one_frame
    explainer, mask = Explainer(model), torch.zeros(2, 8, 16, 16, dtype=torch.bool)
    mask[:, FRAME] = True
    attribution = explainer.attribute(clips, "input_x_gradient", target=0)
    assert explainer.evaluate(attribution, "pointing_game", mask=mask).tolist() == [1, 1]
    assert explainer.evaluate(attribution, "relevance_mass", mask=mask).tolist() == [1, 1]
    assert explainer.check(clips) == []


def test_a_heatmap_is_resized_along_all_three_axes():
    ramps = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"))
    scores = (ramps * torch.tensor([100.0, 10.0, 1.0])[:, None, None, None]).sum(0)[None, None]
    heatmap = Attribution(scores, torch.zeros(1, 1, 8, 12, 16), ClassLogit(0), GradCAM()).heatmap()[0]
    places = [((torch.arange(n) + 0.5) * 4 / n - 0.5).clamp(0, 3) for n in (8, 12, 16)]  # held at the border
    t, h, w = torch.meshgrid(*places, indexing="ij")
    torch.testing.assert_close(heatmap, 100 * t + 10 * h + w)


# Options per axis


def test_occlusion_per_axis_equals_a_slow_loop(one_frame):
    model, clips = one_frame
    total, count = torch.zeros(8, 16, 16), torch.zeros(8, 16, 16)
    with torch.no_grad():
        for t, top, left in itertools.product(range(7), range(0, 13, 3), range(0, 12, 4)):
            covered = clips[:1].clone()
            block = (slice(t, t + 2), slice(top, top + 4), slice(left, left + 8))
            covered[(0, slice(None), *block)] = 0
            total[block] += (model(clips[:1]) - model(covered))[0, 0]
            count[block] += 1
    attribution = Explainer(model).attribute(clips[:1], "occlusion", target=0, patch=(2, 4, 8), stride=(1, 3, 4))
    torch.testing.assert_close(attribution.scores[0, 0], total / count, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("space", "patch", "stride"),
    [
        ((224, 224), (32, 32), (16, 16)),
        ((16, 16), (32, 32), (16, 16)),
        ((16, 112, 112), (4, 28, 28), (2, 14, 14)),
        ((128, 224, 224), (32, 32, 32), (16, 16, 16)),
        ((3, 8, 8), (1, 2, 2), (1, 1, 1)),
    ],
)
def test_default_patches(space, patch, stride):
    assert Occlusion()._sizes(space) == (patch, stride)
    assert Occlusion(patch=2)._sizes(space)[0] == (2,) * len(space)


def test_chosen_sizes_are_told_of_clips_alone(one_frame):
    model, clips = one_frame
    notes = Explainer(model).attribute(clips, "occlusion", target=0).notes
    assert any("patch=(2, 4, 4) and stride=(1, 2, 2) were chosen for 8x16x16 pixels" in note for note in notes)
    notes = Explainer(model).attribute(clips, "occlusion", target=0, patch=(8, 4, 4), stride=4).notes
    assert any("covers all of spatial axes [0]" in note for note in notes)
    notes = Explainer(model).attribute(clips, "rise", target=0, masks=5).notes
    assert any("cells=(2, 4, 4) were chosen for 8x16x16 pixels" in note for note in notes)


def test_default_cells_of_masks():
    assert RISE()._cells((224, 224)) == RISE()._cells((6, 6)) == (8, 8)
    assert RISE()._cells((16, 112, 112)) == (4, 8, 8)
    assert RISE(cells=3)._cells((16, 112, 112)) == (3, 3, 3)


def test_masks_of_clips_are_the_papers_along_each_axis():
    space, cells = (6, 20, 15), (2, 5, 3)
    (masks,) = RISE(masks=60, cells=cells, probability=0.3)._blocks(torch.zeros(1, 1, *space))
    random = torch.Generator().manual_seed(0)
    grid = (torch.rand(1, 1, *cells, generator=random) < 0.3).double()[0, 0].numpy()
    cell = [side // count for side, count in zip(space, cells, strict=True)]
    wide = resize(
        grid, [(n + 1) * side for n, side in zip(cells, cell, strict=True)], order=1, mode="edge", anti_aliasing=False
    )
    offsets = [int(torch.randint(side, (), generator=random)) for side in cell]
    part = wide[tuple(slice(first, first + side) for first, side in zip(offsets, space, strict=True))]
    np.testing.assert_allclose(masks[0, 0], part, atol=1e-6)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (
            "occlusion",
            {"patch": (2, 4)},
            r"patch must be an integer >= 1, or one for each of the 3 axes of .+, got \(2, 4\)",
        ),
        ("occlusion", {"patch": 0}, "patch must be an integer >= 1, a non-empty tuple of these or None, got 0"),
        ("occlusion", {"stride": (1, 2.5, 1)}, r"stride must be an integer >= 1, .*, got \(1, 2\.5, 1\)"),
        ("occlusion", {"patch": (2, 4, 4), "stride": (3, 1, 1)}, r"stride=\(3, 1, 1\) must be at most patch"),
        ("occlusion", {"stride": 5}, r"stride=5 must be at most patch=\(2, 4, 4\)"),
        ("occlusion", {"baseline": "inpaint"}, "Inpainting requires images .* Use baseline='blur'"),
        ("rise", {"cells": (2, 2)}, r"cells must be .* one for each of the 3 axes of 8x16x16 pixels, got \(2, 2\)"),
    ],
)
def test_what_does_not_fit_three_axes_is_refused(one_frame, method, options, words):
    model, clips = one_frame
    with pytest.raises(AttribkitError, match=words):
        Explainer(model).attribute(clips, method, target=0, **options)


def test_superpixels_that_cannot_tell_frames_apart_are_told(one_frame):
    model, _ = one_frame
    clip = torch.zeros(1, 3, 8, 16, 16)
    clip[:, :, 4:] = 1
    few = Explainer(model).attribute(clip, "occlusion", target=0, superpixels=8)
    assert (few.scores == few.scores[:, :, :1]).all()
    assert any("superpixels span all of spatial axes [0]" in note for note in few.notes)
    many = Explainer(model).attribute(clip, "occlusion", target=0, superpixels=64)
    assert not any("superpixels span" in note for note in many.notes)
    assert many.scores[0, 0, FRAME].min() > 0
    assert many.scores[0, 0, :3].abs().max() < 1e-4


def test_jitter_is_small_along_time(one_frame):
    model, _ = one_frame
    made = Explainer(model).visualize(0, size=(3, 8, 16, 16), steps=2)
    same = Explainer(model).visualize(0, size=(3, 8, 16, 16), steps=2, jitter=(1, 2, 2))
    assert torch.equal(made.images, same.images)
    with pytest.raises(AttribkitError, match=r"jitter must be an integer >= 0, .*, got -1"):
        Explainer(model).visualize(0, size=(3, 8, 16, 16), steps=2, jitter=-1)


# Figures


@pytest.fixture
def shown():
    """Two maps of a clip of one grey channel whose last frame is the only one that counts."""
    clip, scores = torch.rand(1, 1, 8, 12, 16), torch.full((1, 1, 8, 12, 16), 0.01)
    scores[:, :, 7, 3:9, 3:9] = 1.0
    return [Attribution(s, clip, ClassLogit(0), GradCAM()) for s in (scores, scores - 0.5)]


def test_frames_and_their_maps_are_rows(shown):
    drawn = frames(shown, frames=4, titles=["clip"])
    axes = drawn.get_axes()
    assert len(axes) == 3 * 4 + 1  # frames and two maps of them; a bar
    assert [ax.get_title() for ax in axes[:4]] == ["1", "3", "5", "7"]
    assert [axes[i].get_ylabel() for i in (0, 4, 8)] == ["clip", "Grad-CAM", "Grad-CAM"]
    assert len(frames(shown[0], frames=100).get_axes()) == 2 * 8 + 1


def test_a_mosaic_has_slices_along_an_axis(shown):
    axes = mosaic(shown[0], axis=2, slices=5, columns=3).get_axes()
    assert len(axes) == 6 + 1
    assert [ax.get_title() for ax in axes[:5]] == ["1", "4", "8", "11", "14"]
    assert axes[0].get_images()[0].get_array().shape == (8, 12, 3)
    for options in ({"axis": 3}, {"slices": 0}):
        with pytest.raises(AttribkitError, match=r"axis=3|slices must be a positive integer, got 0"):
            mosaic(shown[0], **options)


def test_all_frames_share_one_scale(shown):
    (attribution, signed), heatmap = shown, shown[0].heatmap()[0]
    picture = to_pictures(attribution.x)[0][0]
    faded = overlay(picture, torch.zeros_like(heatmap[0])).astype(float)
    assert np.abs(overlay(picture, heatmap[0], whole=heatmap) - faded).mean() < 25  # a hundredth of the scale
    assert np.abs(overlay(picture, heatmap[0]) - faded).mean() > 60  # by itself it would be full
    frames = animate([attribution, signed])
    assert frames.shape == (8, 12 * 14, 3 * 16 * 14 + 2 * 4, 3)
    early = frames[0, 5 * 14, -1].astype(int)  # speaks against, though no score of its own frame speaks for
    assert early[2] > early[0] + 30  # blue


def test_volumes_are_grey_and_clips_coloured():
    (grey,) = to_pictures(torch.randn(1, 1, 3, 4, 5))
    assert grey.shape == (3, 4, 5, 3)
    assert (grey == grey[..., :1]).all()
    assert (grey.min(), grey.max()) == (0, 255)
    x = torch.randn(1, 3, 3, 4, 5)
    (coloured,) = to_pictures(x)
    assert coloured.argmax() == x[0].movedim(0, -1).contiguous().argmax().item()


def test_notebooks_show_frames(shown):
    assert shown[0]._repr_html_().count("<img") == 8


def test_what_is_no_clip_is_not_drawn_as_one(shown):
    image = Attribution(torch.rand(1, 1, 8, 8), torch.rand(1, 3, 8, 8), ClassLogit(0), GradCAM())
    for draw in (frames, mosaic, animate):
        with pytest.raises(AttribkitError, match=r"figure draws images \(b, c, h, w\); frames"):
            draw(image)
    with pytest.raises(AttribkitError, match="frames, mosaic and animate draw clips and volumes"):
        figure(shown[0])
    with pytest.raises(AttribkitError, match="Each picture must have the size"):
        frames(shown, pictures=[np.zeros((8, 4, 4, 3), np.uint8)])


# Files


def frames_of_grey(count, height=48, width=64):
    return np.stack([np.full((height, width, 3), 10 * i + 5, np.uint8) for i in range(count)])


@pytest.mark.parametrize("ending", [".mp4", ".gif"])
@pytest.mark.parametrize("side", [48, 49])
def test_a_written_clip_reads_back(tmp_path, ending, side):
    frames = frames_of_grey(10, side, side + 8)
    frames[:, :, :20] = (200, 30, 60)
    write_clip(frames, tmp_path / f"clip{ending}", rate=5.0)
    clip = read_clip(tmp_path / f"clip{ending}", 10)
    assert clip.length == 10
    assert clip.rate == pytest.approx(5)
    assert clip.frame_indices == tuple(range(10))
    assert np.abs(clip.frames[:, :side, 30:side].astype(int) - frames[:, :, 30:side]).mean() < 6
    assert np.abs(clip.frames[:, 4:40, 4:12].astype(int) - (200, 30, 60)).mean() < 12  # red stays red


def test_a_clip_that_cannot_be_written_is_refused(tmp_path):
    for path, words in (
        (tmp_path / "clip.ogg", r"file name ending in \.mp4 or \.gif .*clip\.ogg"),
        (tmp_path / "nowhere" / "clip.mp4", "cannot be"),
    ):
        with pytest.raises(AttribkitError, match=words):
            write_clip(frames_of_grey(3), path)


def test_frames_are_chosen_evenly(tmp_path):
    assert middle_indices(16, 16) == list(range(16))
    assert middle_indices(100, 4) == [12, 37, 62, 87]
    assert middle_indices(3, 6) == [0, 0, 1, 1, 2, 2]
    write_clip(frames_of_grey(20), tmp_path / "clip.mp4", rate=10.0)
    clip = read_clip(tmp_path / "clip.mp4", 4)
    assert clip.frame_indices == (2, 7, 12, 17)
    np.testing.assert_allclose(clip.frames.mean((1, 2, 3)), [25, 75, 125, 175], atol=4)
    assert clip.chosen_rate == pytest.approx(2)


def test_broken_and_still_clips_are_refused(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "whole.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for frame in frames_of_grey(20):
        writer.write(frame)
    writer.release()
    assert read_clip(tmp_path / "whole.avi", 4).length == 20
    whole = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "nonsense.mp4").write_bytes(b"nonsense" * 99)
    Image.fromarray(frames_of_grey(1)[0]).save(tmp_path / "still.png")
    for name, words in {
        "cut.avi": "can be read: the file is damaged|cannot be read as a clip",
        "nonsense.mp4": "cannot be read as a clip",
        "missing.mp4": "does not exist: check the path",
        "still.png": "has a single frame",
    }.items():
        with pytest.raises(AttribkitError, match=words):
            read_clip(tmp_path / name, 4)


def test_a_clip_is_no_photograph(tmp_path):
    for name in ("clip.mp4", "clip.gif"):
        write_clip(frames_of_grey(3), tmp_path / name)
        with pytest.raises(AttribkitError, match="is a clip, but the model expects photographs"):
            read_image(tmp_path / name)
    Image.fromarray(frames_of_grey(1)[0]).save(tmp_path / "still.gif")
    assert read_image(tmp_path / "still.gif").size == (64, 48)


@pytest.mark.parametrize("name", ["r3d_18", "s3d", "mvit_v2_s", "swin3d_t"])
def test_preprocessing_is_torchvisions(name):
    ours = clip_preprocessing(f"torchvision:{name}")
    ours = ClipPreprocessing(4, ours.size, ours.resize, ours.mean, ours.std, ours.interpolation)
    frames = torch.randint(256, (4, 3, 90, 150), dtype=torch.uint8)
    clip = Clip(frames.permute(0, 2, 3, 1).numpy(), (0, 1, 2, 3), 4)
    theirs = models.get_model_weights(name).DEFAULT.transforms()(frames)
    torch.testing.assert_close(ours(clip), theirs, rtol=0, atol=2e-6)
    back = ours(clip).movedim(0, -1) * torch.tensor(ours.std) + torch.tensor(ours.mean)
    np.testing.assert_allclose(ours.picture(clip), (255 * back).round())


@pytest.mark.parametrize("name", models.list_models(module=models.video))
def test_every_torchvision_model_of_video_is_known_by_name(name):
    preprocessing = clip_preprocessing(f"torchvision:{name}")
    frames = {"mvit_v1_b": 16, "mvit_v2_s": 16, "s3d": 128} | dict.fromkeys(["swin3d_t", "swin3d_s", "swin3d_b"], 32)
    assert preprocessing.shape == (3, frames.get(name, 16), *preprocessing.size)
    assert preprocessing.size == ((112, 112) if "18" in name else (224, 224))
    assert preprocessing.rate == (7.5 if "mvit" in name else 15)


@pytest.mark.parametrize(("name", "size"), [("r3d_18", None), ("swin3d_t", None), ("mvit_v1_b", (3, 16, 224, 224))])
def test_models_of_video_describe_themselves(name, size):
    with torch.device("meta"):
        model = models.get_model(name, weights=None)
        other = models.get_model(name, weights=None, num_classes=7)
    spec, preprocessing = registry.model_spec(model), clip_preprocessing(f"torchvision:{name}")
    assert spec.labels[0] == "abseiling"
    assert len(spec.labels) == 400
    assert spec.input_size == size
    assert spec.normalisation(3) == (
        (preprocessing.mean, preprocessing.std) if "mvit" not in name else spec.normalisation(3)
    )
    assert registry.model_spec(other) == ModelSpec(channels_last=spec.channels_last, input_size=size)


def test_photographs_have_no_preprocessing_of_clips():
    for name in ("torchvision:resnet18", "timm:resnet18", "zoo:cnn", "nonsense"):
        assert clip_preprocessing(name) is None


# The command line


@pytest.fixture(scope="module")
def ball(tmp_path_factory):
    """A disc that moves through 20 frames."""
    path = tmp_path_factory.mktemp("clips") / "ball.mp4"
    down, right = np.mgrid[:60, :80]
    frames = frames_of_grey(20, 60, 80) // 4
    for t, frame in enumerate(frames):
        frame[(down - 30) ** 2 + (right - 10 - 3 * t) ** 2 < 80] = (230, 80, 30)
    write_clip(frames, path, rate=10.0)
    return path


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["explain", *map(str, arguments)])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


R3D = ("--model", "torchvision:r3d_18")


@pytest.mark.slow
def test_explain_a_clip(ball, tmp_path):
    output = run(ball, *R3D, "--target", "archery", "-o", tmp_path / "out.npz").output
    assert "16 of 20 frames, 8 per second were explained; the model was trained on 15 frames per second" in output
    assert "layer4" in output
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["heatmap_gradcam"].shape == (1, 16, 112, 112)
        assert arrays["scores_gradcam"].shape == (1, 1, 2, 7, 7)
        assert arrays["frames"].tolist() == [middle_indices(20, 16)]
        assert arrays["label"].tolist() == ["archery"]


@pytest.fixture
def tiny(monkeypatch):
    """Any model of torchvision is a single convolution, quickly made."""

    def made(name, weights):
        return nn.Sequential(nn.Conv3d(3, 400, 3, 4), nn.AdaptiveAvgPool3d(1), nn.Flatten())

    monkeypatch.setattr(models, "get_model", made)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("ending", ["png", "gif"])
def test_explain_a_clip_as_a_picture(ball, tmp_path, ending):
    path = tmp_path / f"out.{ending}"
    run(ball, *R3D, "--frames", 3, "--method", "saliency", "--method", "input_norm", "-o", path)
    with Image.open(path) as picture:
        assert getattr(picture, "n_frames", 1) == (3 if ending == "gif" else 1)
        width, height = picture.size
        assert width == 3 * 224 + 2 * 4 if ending == "gif" else width > height / 2


@pytest.mark.usefixtures("tiny")
def test_explain_a_clip_as_a_clip(ball, tmp_path):
    run(ball, *R3D, "--frames", 3, "--top", 2, "--method", "input_norm", "-o", tmp_path / "out.mp4")
    clip = read_clip(tmp_path / "out.mp4", 3)
    assert clip.length == 3
    assert clip.frames.shape == (3, 2 * 224 + 4, 2 * 224 + 4, 3)
    assert clip.rate == pytest.approx(2)  # no slower, to be watched


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense.mp4", *R3D], "cannot be read as a clip"),
        (["still.png", *R3D], "has a single frame"),
        (["missing.mp4", *R3D], "Clip 'missing.mp4' does not exist"),
        (["clip.mp4"], "is a clip, but the model expects photographs"),
        (["clip.gif"], "is a clip, but the model expects photographs"),
        (["still.png", "-o", "out.mp4"], "does not have a supported file extension"),
        (["still.png", "--frames", "4"], "--frames is for video models"),
        (["clip.mp4", *R3D, "-o", "out.ogg"], "does not have a supported file extension"),
        (["clip.mp4", "--model", "torchvision:r3d_81"], "Did you mean 'r3d_18'?"),
    ],
)
def test_bad_clips_are_one_sentence_before_a_model_is_made(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "get_model", None)
    write_clip(frames_of_grey(3), "clip.mp4")
    write_clip(frames_of_grey(3), "clip.gif")
    Image.fromarray(frames_of_grey(1)[0]).save("still.png")
    (tmp_path / "nonsense.mp4").write_bytes(b"nonsense" * 99)
    lines = [line for line in run(*arguments, code=2).stderr.splitlines() if line.startswith("attribkit: ")]
    assert len(lines) == 1
    assert words in lines[0]


@pytest.mark.parametrize("command", [["inspect", "torchvision:r3d_18"], ["visualize", *R3D, "--class", "3"]])
def test_commands_that_draw_images_say_so(command, tmp_path):
    result = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "out.png")])
    assert result.exit_code == 2
    assert "supports image models only, and torchvision:r3d_18 is a video model" in result.stderr


def test_load_model_of_video():
    model, preprocessing = load_model("torchvision:mc3_18", num_classes=5)
    assert model.fc.out_features == 5
    assert not model.training
    assert preprocessing.shape == (3, 16, 112, 112)


# A real volume


@pytest.mark.slow
def test_white_matter_is_found_in_the_head_and_not_in_the_air(assets):
    """A trained segmentation of the brain (MeshNet) and a T1 scan: where is what speaks for white matter?"""
    with np.load(assets / "meshnet3d" / "t1_head_164x163x224.npz") as arrays:
        values, segmented = arrays["volume"], torch.from_numpy(arrays["seg_model11"])
    x = torch.from_numpy(values).float()[None, None] / 255
    masks = {"head": torch.from_numpy(head_of(values)), "brain": segmented > 0, "white matter": segmented == 1}
    model = meshnet(load_file(assets / "meshnet3d" / "model11_gw_ae.safetensors"), (1, 2, 4, 8, 4, 2, 2, 1))
    methods = ["gradcam", "layercam", "eigencam", "saliency", "input_x_gradient", "guided_backprop"]
    made = Explainer(model).compare(x, methods, targets=[lambda outputs: outputs[:, 1].sum((1, 2, 3))])
    volume = {name: mask.float().mean().item() for name, mask in masks.items()}
    print(f"\n{'share of the volume':22}", *(f"{name} {share:6.1%}" for name, share in volume.items()))
    found = {}
    for each in made:
        heatmap = each.heatmap("sum_of_magnitudes")[0].double().clamp(min=0)
        found[each.method.name] = {name: (heatmap[mask].sum() / heatmap.sum()).item() for name, mask in masks.items()}
        print(f"{each.method.name:22}", *(f"{name} {share:6.1%}" for name, share in found[each.method.name].items()))
    assert all(any("layer='15'" in note for note in each.notes) for each in made[:3])
    for name, least in {"gradcam": 0.99, "layercam": 0.99, "input_x_gradient": 0.9, "guided_backprop": 0.8}.items():
        assert found[name]["head"] > least
    for name in {"gradcam", "layercam", "saliency", "input_x_gradient", "guided_backprop"}:
        assert all(found[name][part] > share for part, share in volume.items()), name
    assert found["gradcam"]["white matter"] > 0.99
    assert found["layercam"]["white matter"] > 0.5
    # Eigen-CAM is not asserted: it shows what dominates the layer, and here that is the air.


def meshnet(state, dilations):
    """Convolutions of three voxels that widen and narrow, then a linear layer for each voxel."""
    weights = [state[f"{2 * i}.weight"] for i in range(len(dilations) + 1)]
    inner = [
        layer
        for weight, dilation in zip(weights, dilations, strict=False)
        for layer in (nn.Conv3d(weight.shape[1], len(weight), 3, padding=dilation, dilation=dilation), nn.ReLU())
    ]
    model = nn.Sequential(*inner, nn.Conv3d(weights[-1].shape[1], len(weights[-1]), 1))
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model


def head_of(values):
    """The largest body that is no air, its hollows filled."""
    bodies, _ = ndimage.label(ndimage.binary_opening(values > 30, iterations=2))
    return ndimage.binary_fill_holes(bodies == 1 + np.bincount(bodies.ravel())[1:].argmax())
