"""Saliency against closed forms and captum."""

import pytest
import torch
from torch import nn

from attribkit import AttribkitError, Contrast, Explainer, Probability
from attribkit.testing import tiny_cnn


def test_a_linear_model_shows_its_weights():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 2))
    scores = Explainer(model).attribute(torch.randn(2, 3, 4, 5), "saliency", target=1).scores
    expected = model[1].weight[1].reshape(1, 3, 4, 5).abs().amax(1, keepdim=True)
    torch.testing.assert_close(scores, expected.expand(2, 1, 4, 5).detach())


def test_equals_captum():
    pytest.importorskip("captum")
    from captum.attr import Saliency

    model, x = tiny_cnn().eval(), torch.randn(3, 3, 16, 16)
    ours = Explainer(model).attribute(x, "saliency", target=[0, 1, 2]).scores
    theirs = Saliency(model).attribute(x.clone().requires_grad_(), target=torch.tensor([0, 1, 2]))
    torch.testing.assert_close(ours, theirs.amax(1, keepdim=True))


def test_targets_change_the_question():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    x = torch.randn(1, 3, 2, 2)
    weight = model[1].weight.detach()
    explainer = Explainer(model)

    def magnitudes(row):
        return row.reshape(1, 3, 2, 2).abs().amax(1, keepdim=True)

    contrast = explainer.attribute(x, "saliency", target=Contrast(0, against=2)).scores
    torch.testing.assert_close(contrast, magnitudes(weight[0] - weight[2]))
    p = model(x).softmax(1)[0].detach()
    probability = explainer.attribute(x, "saliency", target=Probability(1)).scores
    torch.testing.assert_close(probability, magnitudes(p[1] * (weight[1] - p @ weight)))
    function = explainer.attribute(x, "saliency", target=lambda outputs: outputs.square().sum(1)).scores
    torch.testing.assert_close(function, magnitudes(2 * model(x)[0].detach() @ weight))


def test_a_detached_graph_is_refused():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return self.conv(x).detach().mean((2, 3))

    for method, message in (
        ("saliency", "The score has no gradient with respect to the images"),
        ("gradcam", "gradient of the score does not reach"),
    ):
        with pytest.raises(AttribkitError, match=message):
            Explainer(Detached()).attribute(torch.randn(2, 3, 4, 4), method)


def test_overflow_is_an_error():
    class Overflowing(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1e38))

        def forward(self, x):
            return (x.flatten(1) * self.scale * 100).sum(1, keepdim=True).expand(-1, 2)

    with pytest.raises(AttribkitError, match="not finite"):
        Explainer(Overflowing()).attribute(torch.rand(2, 3, 4, 4) + 1, "saliency")
