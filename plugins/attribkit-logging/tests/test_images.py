"""The conversion to bytes and the captions, which all loggers share."""

# mypy: allow-untyped-defs

import numpy as np
import pytest
import torch

from attribkit import AttribkitError, Attribution, ClassLogit, NoTarget
from attribkit.methods import IntegratedGradients, Saliency
from attribkit_logging import attribution_images

STOPS = [(10, 20, 100), (40, 80, 180), (90, 120, 168), (96, 96, 96), (220, 110, 50), (245, 160, 70), (255, 235, 120)]


def faded(grey):
    """The grey of a picture under a map: black is 40 and white is 135."""
    return 40 + 95 * grey / 255


def drawn(image, heatmap):
    """The overlay of one image, from its definition: faded grey, opacity 0.75 sqrt(|score| / percentile)."""
    pixels = faded(np.round(255 * (image - image.min()) / (image.max() - image.min())).mean(0))
    scaled = np.clip(heatmap / np.percentile(np.abs(heatmap), 99.5), -1, 1)
    position = np.round(127.5 + 127.5 * scaled) / 255
    colours = np.stack([np.interp(position, np.linspace(0, 1, 7), channel) for channel in zip(*STOPS, strict=True)], -1)
    opacity = 0.75 * np.sqrt(np.abs(scaled))[..., None]
    return (1 - opacity) * pixels[..., None] + opacity * colours


def test_each_image_is_its_overlay(attribution, x):
    images = attribution_images(attribution)
    assert [each.key for each in images] == ["0", "1"]
    for each, image, heatmap in zip(images, x.double().numpy(), attribution.heatmap().double().numpy(), strict=True):
        assert each.picture.dtype == np.uint8
        assert each.picture.shape == (16, 16, 3)
        assert np.abs(each.picture - drawn(image, heatmap)).max() <= 0.51  # rounding to bytes


def test_scores_of_both_signs_and_several_channels(x):
    scores = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    attribution = Attribution(scores, x, ClassLogit(0), Saliency())
    for reduce in ("sum", "largest_magnitude"):
        (first, _) = attribution_images(attribution, reduce=reduce)
        expected = drawn(x[0].double().numpy(), attribution.heatmap(reduce)[0].double().numpy())
        assert np.abs(first.picture - expected).max() <= 0.51


def test_images_of_other_axes_are_the_same(attribution):
    last = Attribution(
        attribution.scores.permute(0, 2, 3, 1).contiguous(),
        attribution.x.permute(0, 2, 3, 1).contiguous(),
        attribution.target,
        attribution.method,
        axes="bhwc",
    )
    pairs = zip(attribution_images(last), attribution_images(attribution), strict=True)
    assert all(np.array_equal(a.picture, b.picture) for a, b in pairs)


def test_photographs_can_be_drawn_instead(attribution):
    pictures = [np.full((16, 16, 3), value, np.uint8) for value in (10, 200)]
    blank = Attribution(torch.zeros(2, 1, 4, 4), attribution.x, ClassLogit(0), Saliency())
    drawn_over = attribution_images(blank, pictures=pictures)
    for each, picture in zip(drawn_over, pictures, strict=True):
        assert np.array_equal(each.picture, np.round(faded(picture.astype(float))))
    large = [np.full((32, 32, 3), 10, np.uint8)] * 2
    assert [each.picture.shape for each in attribution_images(attribution, pictures=large)] == [(32, 32, 3)] * 2
    with pytest.raises(AttribkitError, match="one picture per image, got 1 for 2"):
        attribution_images(blank, pictures=pictures[:1])


def test_captions_name_method_target_and_layer(attribution, explainer, x):
    first, second = attribution_images(attribution, labels=["a", "b", "c", "d"])
    assert first.caption == "gradcam, class 3 (d), layer 4"
    assert second.caption == "gradcam, class 1 (b), layer 4"
    (named, _) = attribution_images(explainer.attribute(x, "gradcam", target=3, layer="0"))
    assert named.caption == "gradcam, class 3, layer 0"
    (several, _) = attribution_images(explainer.attribute(x, "gradcam", target=3, layer=["0", "3"]))
    assert several.caption == "gradcam, class 3, layers 0, 3"
    (options, _) = attribution_images(explainer.attribute(x, IntegratedGradients(steps=7), target=3))
    assert options.caption == "integrated_gradients(steps=7), class 3"


def test_captions_of_a_loaded_attribution(attribution, tmp_path):
    attribution.save(tmp_path / "a.safetensors")
    (first, _) = attribution_images(Attribution.load(tmp_path / "a.safetensors"))
    assert first.caption == "GradCAM(layer=None, relu=True), class 3, layer 4"


def test_captions_of_other_targets(x):
    (first, _) = attribution_images(Attribution(x, x, NoTarget(), Saliency()))
    assert first.caption == "saliency, NoTarget()"


def test_a_comparison_is_drawn_image_by_image(comparison):
    images = attribution_images(comparison)
    names = ["gradcam", "saliency", "gradcam_2", "saliency_2"]  # for the first target, then for the second
    assert [each.key for each in images] == [f"{i}/{name}" for i in (0, 1) for name in names]
    assert [each.caption for each in images[:4]] == [
        "gradcam, class 3, layer 4",
        "saliency, class 3",
        "gradcam, class 1, layer 4",
        "saliency, class 1",
    ]
    for index, each in enumerate(comparison):
        singles = attribution_images(each)
        assert np.array_equal(images[index].picture, singles[0].picture)
        assert np.array_equal(images[4 + index].picture, singles[1].picture)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(1, 1, 4, 4), "must be an Attribution or a Comparison, got Tensor"),
        (
            Attribution(torch.ones(1, 1, 2, 4, 4), torch.ones(1, 3, 2, 4, 4), ClassLogit(0), Saliency()),
            "figures.frames",
        ),
    ],
)
def test_what_is_not_an_image_is_refused(wrong, message):
    with pytest.raises(AttribkitError, match=message):
        attribution_images(wrong)
