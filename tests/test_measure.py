"""Several maps, several metrics: what they must have in common, and what they are asked."""

from dataclasses import replace

import pytest
import torch

from attribkit import AttribkitError, ClassLogit, Explainer, Region, Similarity
from attribkit.core.targets.logits import Predicted
from attribkit.testing import tiny_cnn


@pytest.fixture
def explainer():
    return Explainer(tiny_cnn())


@pytest.fixture
def x():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_an_open_target_means_the_predicted_class(explainer, x):
    closed = explainer.attribute(x, "saliency")
    opened = replace(closed, target=Predicted())
    assert isinstance(closed.target, ClassLogit)
    for metric in ("average_drop", "deletion", "mu_fidelity"):
        expected = explainer.evaluate(closed, metric)
        torch.testing.assert_close(explainer.evaluate(opened, metric), expected, rtol=0, atol=0)


def test_targets_that_hold_tensors_are_the_same_by_their_values(explainer, x):
    to, other = torch.ones(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    maps = [explainer.attribute(x, "saliency", target=Similarity(each, layer="6")) for each in (to, to.clone(), other)]
    assert explainer.measure(maps[:2], ["deletion"])[0].values.shape == (2, 3)
    with pytest.raises(AttribkitError, match="other images or targets"):
        explainer.measure(maps[1:], ["deletion"])


def test_regions_are_the_same_by_their_masks():
    explainer, x = Explainer(torch.nn.Conv2d(3, 4, 3, padding=1)), torch.randn(2, 3, 8, 8)
    masks = torch.ones(1, 8, 8, dtype=torch.bool), torch.arange(64).view(1, 8, 8) < 31
    maps = [explainer.attribute(x, "saliency", target=Region(1, each)) for each in (*masks, masks[0].clone())]
    assert explainer.measure(maps[::2], ["deletion"])[0].values.shape == (2, 2)
    with pytest.raises(AttribkitError, match="other images or targets"):
        explainer.measure(maps[:2], ["deletion"])


def test_images_that_differ_are_refused(explainer, x):
    maps = [explainer.attribute(each, "saliency", target=1) for each in (x, x.flip(0))]
    with pytest.raises(AttribkitError, match="other images or targets"):
        explainer.measure(maps, ["deletion"])


def test_nothing_to_measure_is_told(explainer, x):
    with pytest.raises(AttribkitError, match="nothing to measure"):
        explainer.measure([], ["deletion"])
    with pytest.raises(AttribkitError, match=r"metrics=\[\] is no list"):
        explainer.measure([explainer.attribute(x)], [])
