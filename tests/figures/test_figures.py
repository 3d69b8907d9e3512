"""Figures: what is in them, and that the same figure is the same file."""

import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from attribkit import AttribkitError, Attribution, ClassLogit, Contrast, Counterfactual, Explainer, Probability, figure
from attribkit._core.pictures import SCORES, blend, encode_png, is_signed, overlay, scale_for_display, to_pictures
from attribkit.figures import curves
from attribkit.methods._gradcam import GradCAM
from attribkit.methods._gradients import Saliency
from attribkit.testing import tiny_cnn


@pytest.fixture
def attributions():
    explainer, x = Explainer(tiny_cnn()), torch.randn(2, 3, 16, 16)
    return [explainer.attribute(x, method) for method in ("gradcam", "saliency")]


def test_a_row_per_image_and_a_column_per_method(attributions):
    drawn = figure(attributions, titles=["first", "second"])
    axes = drawn.get_axes()
    assert len(axes) == 2 * 3 + 1  # pictures and overlays, one colour bar
    assert [ax.get_title() for ax in axes[:3]] == ["", "Grad-CAM", "Saliency"]
    assert [axes[0].get_ylabel(), axes[3].get_ylabel()] == ["first", "second"]
    assert "Grad-CAM: Selvaraju et al." in drawn._supxlabel.get_text()
    assert "Saliency: Simonyan et al." in drawn._supxlabel.get_text()


def test_the_colour_bar_covers_negative_scores_if_there_are_any():
    x = torch.randn(1, 3, 8, 8)
    signed = Attribution(torch.randn(1, 1, 8, 8), x, ClassLogit(0), Saliency())
    unsigned = Attribution(torch.rand(1, 1, 8, 8), x, ClassLogit(0), GradCAM())
    for attributions, ticks in (([signed, unsigned], [-1, 0, 1]), ([unsigned], [0, 1])):
        axes = figure(attributions).get_axes()
        assert len(axes) == 1 + len(attributions) + 1
        assert list(axes[-1].get_xticks()) == ticks


@pytest.mark.slow
def test_the_same_figure_is_the_same_file(tmp_path, attributions):
    for ending in ("png", "pdf", "svg"):
        for name in ("a", "b"):
            figure(attributions).save(tmp_path / f"{name}.{ending}")
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    assert b"/Type3" not in (tmp_path / "a.pdf").read_bytes()


def test_an_unknown_ending_is_refused(tmp_path, attributions):
    with pytest.raises(AttribkitError, match=r"does not have a supported file extension: use one of .*png"):
        figure(attributions).save(tmp_path / "a.docx")


def test_what_cannot_be_shown_is_refused(attributions):
    volume = Attribution(torch.randn(1, 1, 4, 4, 4), torch.randn(1, 1, 8, 8, 8), ClassLogit(1), GradCAM())
    for wrong in ([], [attributions[0], attributions[1][:1]]):
        with pytest.raises(AttribkitError, match="A figure needs one or more attributions"):
            figure(wrong)
    with pytest.raises(AttribkitError, match=r"figure draws images \(b, c, h, w\)"):
        figure(volume)
    with pytest.raises(AttribkitError, match="one picture per image, got 1 for 2 images"):
        figure(attributions, pictures=[np.zeros((16, 16, 3), dtype=np.uint8)])


def test_overlay_is_grey_where_the_map_is_zero_and_coloured_where_it_is_largest():
    picture = np.full((4, 4, 3), (200, 100, 0), dtype=np.uint8)
    heatmap = torch.zeros(4, 4)
    heatmap[1, 2] = 1
    drawn = overlay(picture, heatmap)
    assert np.ptp(drawn[0, 0]) == 0
    assert 40 < drawn[0, 0, 0] < 100  # faded
    assert drawn[1, 2].std() > 0
    assert np.array_equal(overlay(picture, torch.zeros(4, 4)), np.full((4, 4, 3), drawn[0, 0, 0]))


def luminance(pixels):
    """The relative luminance of sRGB pixels."""
    linear = np.where(pixels / 255 <= 0.04045, pixels / 255 / 12.92, ((pixels / 255 + 0.055) / 1.055) ** 2.4)
    return linear @ (0.2126, 0.7152, 0.0722)


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_scores_keep_their_order_in_grey_print(grey):
    ramp = np.linspace(-1, 1, 201)[None]
    levels = luminance(blend(np.full((1, 201, 3), grey, np.uint8), ramp).astype(float))[0]
    far = np.abs(ramp[0]) > 0.25  # weaker scores are mostly the picture
    assert (np.diff(levels[far]) > -0.004).all()
    assert levels[0] < levels[100] < levels[-1]
    assert levels[-1] - levels[0] > 0.3


def test_blue_and_yellow_differ_for_colour_blind_readers():
    negative, positive = (luminance(255 * np.array(SCORES(value)[:3])) for value in (0.0, 1.0))
    assert (positive + 0.05) / (negative + 0.05) > 7  # contrast as in WCAG


def test_scaling():
    assert not is_signed(torch.ones(2, 2))
    assert is_signed(torch.tensor([[1.0, -1.0]]))
    values = scale_for_display(torch.tensor([[2.0, -4.0], [0.0, 4.0]]))
    np.testing.assert_allclose(values, [[0.5, -1.0], [0.0, 1.0]], atol=0.02)
    speck = torch.full((100, 100), 0.01)
    speck[0, 0] = 1000.0
    assert scale_for_display(speck)[50, 50] == 1.0


def test_stretched_and_png():
    x = torch.tensor([[[[0.0, 5.0]]]])
    (picture,) = to_pictures(x)
    assert picture.tolist() == [[[0, 0, 0], [255, 255, 255]]]
    assert encode_png(picture).startswith(b"\x89PNG")


def test_names_notes_and_smoothing(attributions):
    drawn = figure(attributions, names=["A", "B"], note="", smooth=1)
    assert [ax.get_title() for ax in drawn.get_axes()[:3]] == ["", "A", "B"]
    assert drawn.get_supxlabel() == "Maps smoothed for display by a Gaussian filter (standard deviation: 1 px)."
    plain = figure(attributions, note="")
    assert plain.get_supxlabel() == ""
    overlays = [each.get_axes()[2].get_images()[0].get_array() for each in (drawn, plain)]
    assert not np.array_equal(*overlays)


def test_objects_are_outlined(attributions):
    mask = torch.zeros(2, 16, 16)
    mask[:, 4:8, 4:12] = 1
    drawn = figure(attributions, mask=mask, boxes=[torch.tensor([[4.0, 4.0, 12.0, 8.0]]), None])
    axes = drawn.get_axes()
    (box,) = axes[1].patches
    assert box.get_bbox().bounds == (3.5, 3.5, 8, 4)
    assert not axes[4].patches
    assert len(axes[1].collections) == len(axes[4].collections) == 1  # the contour


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"smooth": -1}, "smooth must be 0 or a number of pixels smaller than the image, got -1"),
        ({"smooth": 16}, "smaller than the image, got 16"),
        ({"mask": torch.zeros(3, 16, 16)}, "mask must contain one entry for each of the 2 images, got 3"),
        ({"boxes": [None]}, "boxes must contain one entry for each of the 2 images, got 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(attributions, options, words):
    with pytest.raises(AttribkitError, match=words):
        figure(attributions, **options)


@pytest.fixture(scope="module")
def results():
    explainer, x = Explainer(tiny_cnn()), torch.randn(4, 3, 16, 16)
    return explainer.measure(list(explainer.compare(x, ["gradcam", "random"])), ["deletion", "insertion", "sparseness"])


def test_curves_are_means_with_intervals_that_contain_them(results):
    drawn = curves(results[:2], ["A", "B"])
    assert drawn.get_size_inches()[0] == 3.25
    assert [ax.get_title() for ax in drawn.axes] == ["deletion", "insertion"]
    for ax, result in zip(drawn.axes, results, strict=False):
        for i, line in enumerate(ax.get_lines()):
            mean = result.details["curve"][i].mean(0)
            np.testing.assert_allclose(line.get_ydata(), mean, rtol=1e-6)
            band = ax.collections[i].get_paths()[0].vertices
            assert band[:, 1].min() <= mean.min() + 1e-6
            assert band[:, 1].max() >= mean.max() - 1e-6
        assert ax.get_lines()[0].get_linestyle() != ax.get_lines()[1].get_linestyle()  # for grey print


def test_bands_are_percentile_intervals_of_the_mean(results):
    (result,) = results[:1]
    (ax,) = curves(result, ["A", "B"], confidence=0.8).axes
    curve = result.details["curve"][0].double().numpy()
    rng = np.random.default_rng(1)
    means = np.stack([curve[rng.integers(0, len(curve), len(curve))].mean(0) for _ in range(4000)])
    low, high = np.quantile(means, (0.1, 0.9), axis=0)
    vertices = ax.collections[0].get_paths()[0].vertices
    middle = result.details["fractions"][0, 0, 13].item()
    drawn = sorted(y for x, y in vertices if abs(x - middle) < 1e-9)
    spread = np.ptp(curve[:, 13])
    np.testing.assert_allclose([drawn[0], drawn[-1]], [low[13], high[13]], atol=0.06 * spread)
    assert not curves(result, ["A", "B"], confidence=0).axes[0].collections


def test_results_that_are_not_curves_are_refused(results):
    with pytest.raises(AttribkitError, match="The metric 'sparseness' does not have curves"):
        curves(results, ["A", "B"])
    with pytest.raises(AttribkitError, match="names must name each of the 2 attributions"):
        curves(results[:1], ["A"])
    with pytest.raises(AttribkitError, match="confidence from 0 to below 1, got 0 results"):
        curves([], [])
    with pytest.raises(AttribkitError, match="confidence=1"):
        curves(results[:1], ["A", "B"], confidence=1)


def test_headings_state_the_models_if_they_differ():
    x = torch.randn(2, 3, 32, 32)
    models = [timm.create_model(name, num_classes=4).eval() for name in ("resnet10t", "vgg11")]
    maps = [Explainer(model).attribute(x, "gradcam", target=1) for model in models]
    assert [each.model for each in maps] == ["resnet10t", "vgg11"]
    titles = [ax.get_title() for ax in figure(maps).get_axes()[:3]]
    assert titles == ["", "resnet10t\nGrad-CAM", "vgg11\nGrad-CAM"]


def test_headings_state_the_classes_and_the_options_if_they_differ():
    explainer, x = Explainer(tiny_cnn()), torch.randn(2, 3, 16, 16)
    of_classes = [explainer.attribute(x, "gradcam", target=target) for target in (0, [1, 2])]
    axes = figure(of_classes).get_axes()
    assert [ax.get_title() for ax in axes[1:3]] == ["Grad-CAM\nclass 0", "Grad-CAM\nclass 1"]
    assert [ax.get_title() for ax in axes[4:6]] == ["class 0", "class 2"]
    steps = [explainer.attribute(x, "integrated_gradients", steps=n) for n in (4, 8)]
    titles = [ax.get_title().replace("\n", " ") for ax in figure(steps, width=8).get_axes()[1:3]]
    assert titles == ["Integrated gradients steps=4", "Integrated gradients steps=8"]


@pytest.mark.parametrize("ending", ["png", "pdf"])
def test_a_figure_of_reloaded_maps_is_the_same_file(ending, tmp_path):
    explainer, x = Explainer(tiny_cnn()), torch.randn(2, 3, 16, 16)
    maps = [explainer.attribute(x, "integrated_gradients", steps=4), explainer.attribute(x, "gradcam", target=1)]
    for i, each in enumerate(maps):
        each.save(tmp_path / f"{i}.safetensors")
    reloaded = [Attribution.load(tmp_path / f"{i}.safetensors") for i in range(2)]
    figure(maps).save(tmp_path / f"a.{ending}")
    figure(reloaded).save(tmp_path / f"b.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    assert figure(reloaded).get_supxlabel().startswith("Integrated gradients (steps=4): Sundararajan et al.")
    figure(Attribution.load(tmp_path / "0.safetensors")[0]).save(tmp_path / "c.png")


def test_fresh_processes_write_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", FRESH, str(tmp_path / name)], check=True)
    for ending in ("png", "pdf", "svg"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


FRESH = """
import sys
import torch
from attribkit import Attribution, ClassLogit, figure
from attribkit.methods import GradCAM
scores, x = torch.linspace(-1, 1, 16).view(1, 1, 4, 4), torch.linspace(0, 1, 192).view(1, 3, 8, 8)
drawn = figure(Attribution(scores, x, ClassLogit(1), GradCAM()), width="cvpr")
for ending in ("png", "pdf", "svg"):
    drawn.save(f"{sys.argv[1]}.{ending}")
"""


def test_pictures_of_another_resolution_get_maps_outlines_and_boxes_of_their_size(attributions):
    mask = np.zeros((2, 16, 16))
    mask[:, 4:8, 4:12] = 1
    boxes = [torch.tensor([[4.0, 4.0, 12.0, 8.0]]), None]
    pictures = [np.full((64, 64, 3), 90, np.uint8), np.full((32, 32, 3), 90, np.uint8)]
    axes = figure(attributions, pictures=pictures, mask=mask, boxes=boxes).get_axes()
    assert axes[1].get_images()[0].get_array().shape == (64, 64, 3)
    assert axes[4].get_images()[0].get_array().shape == (32, 32, 3)
    assert axes[1].patches[0].get_bbox().bounds == (15.5, 15.5, 32, 16)
    vertices = axes[1].collections[0].get_paths()[0].vertices
    np.testing.assert_allclose([vertices.min(0), vertices.max(0)], [[15.5, 15.5], [47.5, 31.5]], atol=0.01)
    drawn = axes[1].get_images()[0].get_array()
    expected = overlay(pictures[0], attributions[0].heatmap(size=(64, 64))[0])
    assert np.array_equal(drawn, expected)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((16, 24, 3), np.uint8), "got \\(16, 24\\) with another aspect ratio: crop it"),
        (np.zeros((16, 16, 3)), "must be an array of bytes .* got float64 of shape"),
        (np.zeros((16, 16), np.uint8), "got uint8 of shape \\(16, 16\\)"),
        (Image.new("RGB", (16, 16)), "must be an array, got a Image: use np.asarray"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(attributions, picture, words):
    with pytest.raises(AttribkitError, match=words):
        figure(attributions, pictures=[picture] * 2)


def test_large_pictures_are_reduced_to_what_print_shows(attributions):
    pictures = [np.full((2048, 2048, 3), 90, np.uint8)] * 2
    axes = figure(attributions[:1], pictures=pictures, width=2.0).get_axes()
    inches = 2.0 * axes[1].get_position().width
    assert axes[1].get_images()[0].get_array().shape[1] == round(600 * inches)


def test_maps_without_a_target_do_not_change_the_headings():
    explainer, x = Explainer(tiny_cnn()), torch.randn(2, 3, 16, 16)
    maps = list(explainer.compare(x, ["gradcam", "random"]))
    assert [ax.get_title() for ax in figure(maps).get_axes()[1:3]] == ["Grad-CAM", "Random"]


def test_maps_of_different_images_are_refused():
    explainer = Explainer(tiny_cnn())
    x = torch.randn(2, 3, 16, 16)
    first, other = explainer.attribute(x, "gradcam"), explainer.attribute(torch.stack([x[0], x[1].flip(-1)]), "gradcam")
    with pytest.raises(
        AttribkitError, match=r"but image 1 of attribution 1 differs from that of attribution 0 \(their"
    ):
        figure([first, other])
    figure([first, explainer.attribute(2 * x + 1, "gradcam")])  # another normalisation of the same images
    black = torch.zeros(1, 3, 16, 16)
    figure([explainer.attribute(each, "saliency") for each in (black, black + 1)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"names": ["A"]}, "names must contain one title for each attribution, 2, got "),
        ({"names": list("ABC")}, "names must contain one title for each attribution, 2, got "),
        ({"titles": ["one"]}, "titles must contain one title for each image, 2, got "),
        ({"titles": "ab"}, "titles must contain one title for each image, 2, got 'ab'"),
    ],
)
def test_titles_that_do_not_fit_are_refused(attributions, options, words):
    with pytest.raises(AttribkitError, match=words):
        figure(attributions, **options)


def test_headings_state_what_is_explained_if_it_differs():
    x = torch.randn(1, 3, 16, 16)
    targets = [0, Contrast(0, 1), Counterfactual(0), Probability(0)]
    maps = Explainer(tiny_cnn()).compare(x, ["gradcam"], targets=targets)
    titles = [ax.get_title().replace("\n", " ") for ax in figure(maps, width=12).get_axes()[1:5]]
    assert titles == [
        f"Grad-CAM {each}"
        for each in ("class 0", "class 0 rather than class 1", "against class 0", "probability of class 0")
    ]


def test_maps_with_nan_are_refused(attributions):
    scores = attributions[0].scores.clone()
    scores[1, 0, 0, 0] = torch.nan
    broken = Attribution(scores, attributions[0].x, ClassLogit(0), GradCAM())
    with pytest.raises(AttribkitError, match="A map has NaN or infinite values and cannot be drawn"):
        figure(broken)
    assert figure(broken[0]).get_axes()


def test_dollar_signs_are_text(attributions, tmp_path):
    drawn = figure(attributions, names=["$\\frac$", "5 $ or 6 $"], titles=["a_$b$", "c"], width=6)
    drawn.save(tmp_path / "a.pdf")
    assert drawn.get_axes()[2].get_title() == "5 $ or 6 $"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask": torch.zeros(2, 1, 16, 16)}, r"mask must have the shape \(height, width\), got \(1, 16, 16\)"),
        ({"mask": torch.zeros(2, 1, 16)}, r"mask must have the shape \(height, width\), got \(1, 16\)"),
        ({"boxes": [torch.zeros(3), None]}, r"boxes must have the shape \(n, 4\), got \(3,\)"),
    ],
)
def test_masks_and_boxes_of_other_shapes_are_refused(attributions, options, words):
    with pytest.raises(AttribkitError, match=words):
        figure(attributions, **options)


def test_masks_with_a_gradient_and_images_without_boxes_are_drawn(attributions):
    mask = torch.rand(2, 8, 8, requires_grad=True)
    assert figure(attributions, mask=mask, boxes=[[], torch.zeros(0, 4)]).get_axes()
