"""Figures of maps of several layers, classes, models and attention heads."""

import numpy as np
import pytest
import torch
from PIL import Image

from attribkit import AttribkitError, Attribution, ClassLogit, Contrast, Explainer, figures, load_model, zoo
from attribkit._core.pictures import overlay
from attribkit.figures import attention, before_after, classes, layers
from attribkit.methods import GradCAM, Saliency
from attribkit.testing import tiny_cnn


@pytest.fixture
def explainer():
    return Explainer(tiny_cnn())


@pytest.fixture
def x():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def titles(figure):
    return [ax.get_title().replace("\n", " ") for ax in figure.get_axes() if ax.get_title()]


def shown(figure, number):
    return np.asarray(figure.get_axes()[number].get_images()[0].get_array())


def test_layers_are_columns(explainer, x, tmp_path):
    names = [layer.name for layer in explainer.layers(x)][:2]
    maps = [explainer.attribute(x, "gradcam", layer=name) for name in names]
    drawn = layers(maps, width=6)
    assert titles(drawn) == names
    assert "layer=" not in drawn.get_supxlabel()
    maps[0].save(tmp_path / "a.safetensors")
    assert titles(layers([Attribution.load(tmp_path / "a.safetensors"), maps[1]], width=6)) == names
    assert titles(layers([explainer.attribute(x, "gradcam")])) == ["default layer"]


def test_classes_are_columns_with_one_scale_for_an_image(explainer, x):
    maps = explainer.compare(x, ["saliency"], targets=[0, 1, Contrast(0, 1)])
    labels = ["cat", "dog", "fish"]
    drawn = classes(maps, labels, width=6)
    assert titles(drawn) == ["cat", "dog", "cat rather than dog"]
    assert titles(classes(maps, width=6)) == ["class 0", "class 1", "class 0 rather than class 1"]
    assert "row's largest" in drawn.get_axes()[-1].get_xlabel()
    per_image = explainer.attribute(x, "saliency", target=[0, 1])
    assert "ClassLogit" in titles(classes([per_image]))[0]


def test_the_difference_of_two_models_is_after_minus_before(x):
    scores = [torch.rand(2, 1, 16, 16) for _ in range(2)]
    first, second = (Attribution(each, x, ClassLogit(0), Saliency()) for each in scores)
    drawn = before_after(first, second, names=("pretrained", "fine-tuned"), width=7)
    assert titles(drawn)[:3] == ["pretrained", "fine-tuned", "fine-tuned \N{MINUS SIGN} pretrained"]
    difference = (scores[1] - scores[0])[0, 0]
    largest = max(np.percentile(each.abs(), 99.5) for each in (scores[0][0], scores[1][0], difference))
    expected = overlay(shown(drawn, 0), difference, maximum=largest)
    assert np.array_equal(shown(drawn, 3), expected)


def test_overlays_fill_rows(x):
    attribution = Attribution(torch.rand(5, 1, 8, 8), torch.rand(5, 3, 16, 16), ClassLogit(0), GradCAM())
    drawn = figures.overlay(attribution, columns=3, titles=list("abcde"))
    assert titles(drawn) == list("abcde")
    assert len(drawn.get_axes()) == 2 * 3 + 1
    assert (shown(drawn, 5) == 255).all()


@pytest.fixture(scope="module")
def vit():
    model, preprocessing = load_model("zoo:vit")
    x = preprocessing(Image.fromarray(zoo.scene(1).image))[None]
    return Explainer(model).attention(x), x


def test_attention_of_heads_and_layers(vit):
    found, x = vit
    drawn = attention(found[-2:], x, query=(1, 2), heads=[0, 2], width=7)
    assert titles(drawn)[:4] == ["query", "head 0", "head 2", "mean of all heads"]
    rows, columns = found[-1].queries.grid
    (frame,) = drawn.get_axes()[0].patches
    side = x.shape[-1] / columns
    assert frame.get_bbox().bounds == pytest.approx((2 * side - 0.5, x.shape[-2] / rows - 0.5, side, side))
    weights = found[-2].attention_from((1, 2))[0]
    size = x.shape[2:]
    maps = torch.nn.functional.interpolate(weights[None], size, mode="bilinear", align_corners=False)[0]
    mean = torch.nn.functional.interpolate(weights.mean(0)[None, None], size, mode="bilinear", align_corners=False)[
        0, 0
    ]
    largest = max(np.percentile(each, 99.5) for each in (maps[0], maps[2], mean))
    difference = shown(drawn, 2).astype(float) - overlay(shown(drawn, 0), maps[2], maximum=largest)
    assert np.abs(difference).max() <= 1
    whole = attention(found, x)
    assert len(whole.get_axes()) == len(found) * (1 + found[0].heads + 1) + 1
    assert "token 0 (the class token" in whole.get_supxlabel()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": [9]}, r"got heads \[9\]: select heads that all layers have"),
        ({"image": 1}, "and image 1"),
        ({"query": (50, 0)}, "50"),
    ],
)
def test_attention_that_does_not_exist_is_refused(vit, options, words):
    with pytest.raises(AttribkitError, match=words):
        attention(*vit, **options)
    with pytest.raises(AttribkitError, match="got 0 layers"):
        attention([], vit[1])


def test_what_cannot_be_compared_is_refused(explainer, x):
    one, other = (explainer.attribute(x, method) for method in ("gradcam", "saliency"))
    for draw in (layers, classes):
        with pytest.raises(AttribkitError, match="compares maps of one method, got maps of Grad-CAM, Saliency"):
            draw([one, other])
    with pytest.raises(AttribkitError, match="before_after compares maps of one method"):
        before_after(one, other)
    with pytest.raises(AttribkitError, match="maps of the same images"):
        before_after(one, explainer.attribute(x + 1, "gradcam"))
    with pytest.raises(AttribkitError, match="maps for the same class, got ClassLogit"):
        before_after(explainer.attribute(x, "gradcam", target=0), explainer.attribute(x, "gradcam", target=1))
    with pytest.raises(AttribkitError, match="layers compares maps of a method with the option layer"):
        layers([other, other])
    with pytest.raises(AttribkitError, match="columns must be a positive integer, got 0"):
        figures.overlay(one, columns=0)
