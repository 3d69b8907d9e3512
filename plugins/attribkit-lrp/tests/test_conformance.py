"""The conformance suite, and networks of the zoo and of torchvision."""

import pytest
import torch
import torchvision
from attribkit_lrp import LRP, attribkit_methods

from attribkit import Explainer
from attribkit.testing import parametrize_with_checks

METHODS = [
    LRP("epsilon", epsilon=0.01),  # less amplifies rounding where the sums of a layer are nearly zero
    LRP(),
    LRP("epsilon_gamma_box", low=-6.0, high=6.0),
    LRP("epsilon_alpha2_beta1"),
    LRP(first_layer="flat"),
    LRP(first_layer="w_square"),
]


@parametrize_with_checks(METHODS)
def test_conformance(instance, check):
    check(instance)


def test_plugin():
    assert attribkit_methods() == [LRP]


@pytest.mark.parametrize("name", ["densenet121", "squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v2"])
def test_families(name):
    """On other convolutional families epsilon LRP is finite, and close to gradient times input where it must be."""
    model = getattr(torchvision.models, name)(num_classes=10).double().eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    explainer = Explainer(model)
    plus = explainer.attribute(x, LRP(), target=1)
    assert bool(plus.scores.isfinite().all())
    assert bool((plus.scores != 0).any())
    if name == "squeezenet1_1":  # piecewise linear, with activations far above the stabilizer of averages, 1e-6
        ours = explainer.attribute(x, LRP("epsilon", epsilon=1e-18), target=1).scores
        expected = explainer.attribute(x, "input_x_gradient", target=1).scores
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-2 * float(expected.abs().max()))
