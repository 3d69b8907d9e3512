"""SmoothGrad against a slow loop and closed forms."""

import pytest
import torch
from torch import nn

from attribkit import Explainer
from attribkit.methods._gradients import SmoothGrad
from attribkit.testing import tiny_cnn


@pytest.mark.parametrize("average", ["mean", "square", "variance"])
def test_equals_a_slow_loop(average):
    model, x = tiny_cnn().eval(), torch.randn(2, 3, 16, 16)
    generator = torch.Generator().manual_seed(3)
    gradients = []
    for _ in range(7):
        noise = torch.randn(3, 16, 16, generator=generator)
        noisy = torch.stack([image + 0.2 * (image.max() - image.min()) * noise for image in x]).requires_grad_()
        gradients.append(torch.autograd.grad(model(noisy)[:, 1].sum(), noisy)[0])
    stack = torch.stack(gradients)
    expected = {"mean": stack.mean(0), "square": stack.square().mean(0), "variance": stack.var(0, unbiased=False)}[
        average
    ]
    method = SmoothGrad(samples=7, sigma=0.2, average=average, seed=3)
    scores = Explainer(model).attribute(x, method, target=1).scores
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-6 * float(stack.abs().max()))


def test_of_a_linear_model_it_is_the_gradient_without_variance():
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.randn(1, 3, 2, 2)
    explainer = Explainer(model)
    torch.testing.assert_close(
        explainer.attribute(x, "smoothgrad", target=1).scores, model[1].weight[1].reshape(1, 3, 2, 2).detach()
    )
    variance = explainer.attribute(x, "smoothgrad", target=1, average="variance").scores
    torch.testing.assert_close(variance, torch.zeros(1, 3, 2, 2), rtol=0, atol=1e-6)


def test_without_noise_it_is_the_gradient():
    model, x = tiny_cnn(), torch.randn(2, 3, 16, 16)
    explainer = Explainer(model)
    smooth = explainer.attribute(x, "smoothgrad", target=1, sigma=0.0).scores
    torch.testing.assert_close(x * smooth, explainer.attribute(x, "input_x_gradient", target=1).scores)


def test_seeds():
    model, x = tiny_cnn(), torch.randn(1, 3, 16, 16)
    explainer = Explainer(model)
    scores = [explainer.attribute(x, "smoothgrad", seed=seed).scores for seed in (0, 0, 1)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])
