"""Input times gradient, and the maps that know nothing of the model."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from attribkit import Explainer
from attribkit.methods._controls import Centre, Random
from attribkit.testing import tiny_cnn


def test_input_x_gradient_of_a_linear_model_is_complete():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False))
    x = torch.randn(4, 3, 2, 2)
    scores = Explainer(model).attribute(x, "input_x_gradient", target=[0, 1, 2, 0]).scores
    torch.testing.assert_close(scores.sum((1, 2, 3)), model(x)[range(4), [0, 1, 2, 0]].detach())


def test_input_x_gradient_equals_captum():
    captum = pytest.importorskip("captum.attr")
    model, x = tiny_cnn().eval(), torch.randn(3, 3, 16, 16)
    theirs = captum.InputXGradient(model).attribute(x.clone().requires_grad_(), target=torch.tensor([0, 1, 2]))
    torch.testing.assert_close(Explainer(model).attribute(x, "input_x_gradient", target=[0, 1, 2]).scores, theirs)


def maps(method, x):
    model = nn.Sequential(
        nn.AdaptiveAvgPool3d(1) if x.ndim == 5 else nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(2)
    )
    model(x)
    return Explainer(model).attribute(x, method).heatmap()


@pytest.mark.parametrize("space", [(8, 10), (4, 6, 8)])
def test_controls(space):
    x = torch.randn(2, 3, *space)
    edges = [
        np.sqrt(sum(ndimage.sobel(c, axis, mode="nearest") ** 2 for axis in range(len(space)))) for c in x[0].numpy()
    ]
    np.testing.assert_allclose(maps("edges", x)[0].numpy(), np.max(edges, axis=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps("input_norm", x), x.square().sum(1).sqrt())
    assert torch.equal(maps("constant", x), torch.ones(2, *space))
    random = maps("random", x)
    assert torch.equal(random[0], random[1])
    assert not torch.equal(random, maps(Random(seed=1), x))
    centre = maps(Centre(sigma=0.25), x)[0]
    assert torch.equal(centre, centre.flip(tuple(range(len(space)))))
    half = tuple(n // 2 for n in space)
    distance = sum(((place + 0.5) / n - 0.5) ** 2 for place, n in zip(half, space, strict=True))
    assert centre[half].item() == pytest.approx(np.exp(-distance / (2 * 0.25**2)), rel=1e-5)
