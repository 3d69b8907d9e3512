"""A batch in which every image has a target of its own kind."""

import pytest
import torch
from torch import nn

from attribkit import AttribkitError, ClassLogit, Contrast, Explainer, ModelSpec, Probability, Similarity, Unit
from attribkit._targets.resolution import PerImageTargets, as_target
from attribkit.testing import tiny_cnn

OPTIONS = {"occlusion": {"patch": 8, "stride": 8}, "rise": {"masks": 32, "cells": 4}, "smoothgrad": {"samples": 3}}
METHODS = ["gradcam", "saliency", "guided_backprop", "smoothgrad", "occlusion", "scorecam", "ablationcam"]


def images(count=4):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("batch_size", [1, 3, "auto"])
@pytest.mark.parametrize("method", METHODS)
def test_each_image_has_the_answer_that_it_has_alone(method, batch_size):
    x, options = images(), OPTIONS.get(method, {})
    targets = [Contrast(1, 2), 3, Probability(4), None]
    found = Explainer(tiny_cnn(), batch_size=batch_size).attribute(x, method, target=targets, **options)
    for i, target in enumerate(targets):
        alone = Explainer(tiny_cnn()).attribute(x[i : i + 1], method, target=target, **options)
        torch.testing.assert_close(found.scores[i : i + 1], alone.scores)
    assert found.target.targets[:3] == (Contrast(1, 2), ClassLogit(3), Probability(4))
    assert found.target.targets[3] == ClassLogit((int(tiny_cnn().eval()(x)[3].argmax()),))
    assert found[1].target == PerImageTargets((ClassLogit(3),))


def test_functions_are_not_repeated_but_right():
    x, targets = images(2), [lambda y: y[:, 0] ** 2, 1]
    found = Explainer(tiny_cnn()).attribute(x, "occlusion", target=targets, patch=8, stride=8)
    for i, target in enumerate(targets):
        alone = Explainer(tiny_cnn()).attribute(x[i : i + 1], "occlusion", target=target, patch=8, stride=8)
        torch.testing.assert_close(found.scores[i : i + 1], alone.scores)


def test_parts_and_repetitions():
    each = as_target([Contrast(1, 2), 3, "e"], ["a", "b", "c", "d", "e"])
    assert each.count == 3
    assert each.subset(slice(1, 3)) == PerImageTargets((ClassLogit(3), ClassLogit(4)))
    assert each.subset(slice(0, 1)).tile(2) == PerImageTargets((Contrast(1, 2), Contrast(1, 2)))
    outputs = torch.randn(6, 5)
    expected = [outputs[0, 1] - outputs[0, 2], outputs[1, 3], outputs[2, 4]]
    expected += [outputs[3, 1] - outputs[3, 2], outputs[4, 3], outputs[5, 4]]
    torch.testing.assert_close(each.tile(2)(outputs), torch.stack(expected))


def test_classes_and_labels_alone_are_still_one_per_image():
    assert as_target([3, 1]) == ClassLogit((3, 1))


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([Contrast(1, 2), 3], "2 targets for 4 images"),
        ([Contrast((1, 2), 0), 3, 1, 2], "must be for one image, but .* is for 2 images"),
        ([Unit("3", 1), 3, 1, 2], "must all score the same layer; these score layer '3' and the model's outputs"),
        ([Contrast(1, 2), 7, 1, 2], "The class index 7 is out of range"),
        ([Contrast(1, 2), "x", 1, 2], "No label is named 'x'"),
    ],
)
@pytest.mark.parametrize("method", ["gradcam", "occlusion"])
def test_what_does_not_fit_is_refused(targets, words, method):
    explainer = Explainer(tiny_cnn(), spec=ModelSpec(labels=["a", "b", "c", "d", "e"]))
    with pytest.raises(AttribkitError, match=words):
        explainer.attribute(images(), method, target=targets)


def test_units_of_one_layer_for_each_image():
    x, targets = images(2), [Unit("3", 1), Unit("3", 5, (0, 2))]
    found = Explainer(tiny_cnn(), batch_size=1).attribute(x, "gradcam", target=targets)
    for i, target in enumerate(targets):
        alone = Explainer(tiny_cnn()).attribute(x[i : i + 1], "gradcam", target=target)
        torch.testing.assert_close(found.scores[i : i + 1], alone.scores)


def test_similarities_for_each_image():
    body = nn.Sequential(*list(tiny_cnn())[:7]).eval()
    x, targets = images(2), [Similarity(images(4)[3:]), Similarity(torch.arange(6.0))]
    found = Explainer(body).attribute(x, "saliency", target=targets)
    for i, target in enumerate(targets):
        alone = Explainer(body).attribute(x[i : i + 1], "saliency", target=target)
        torch.testing.assert_close(found.scores[i : i + 1], alone.scores)


def test_compare_takes_mixed_targets():
    x, mixed = images(2), [Contrast(1, 2), 3]
    found = Explainer(tiny_cnn()).compare(x, ["gradcam", "saliency"], targets=[mixed, 1])
    assert [a.target for a in found] == [PerImageTargets((Contrast(1, 2), ClassLogit(3)))] * 2 + [ClassLogit(1)] * 2
    torch.testing.assert_close(found[1].scores, Explainer(tiny_cnn()).attribute(x, "saliency", target=mixed).scores)
