"""The derivative by the image is the image's, whatever order the gradient comes back in."""

import pytest
import torch
from torch import nn

from attribkit import Explainer


class Stem(nn.Module):
    """A convolution and a norm, then tokens, as in LeViT, XCiT and many others."""

    def __init__(self, norm):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), norm)
        self.tokens = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.stem[1].running_mean.normal_() if self.stem[1].running_mean is not None else None

    def forward(self, x):
        tokens = self.tokens(self.stem(x).flatten(2).transpose(1, 2))
        return self.head(tokens.square().mean(1))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
@pytest.mark.parametrize("images", [1, 2, 5])
def test_the_gradient_is_that_of_differences(norm, images):
    torch.manual_seed(0)
    model = Stem(norm(8)).double().eval()
    x, step = torch.randn(images, 3, 14, 14).double(), 1e-5
    gradient = Explainer(model).attribute(x, "input_x_gradient", target=1).scores / x
    direction = torch.randn_like(x)
    with torch.no_grad():
        difference = (model(x + step * direction) - model(x - step * direction))[:, 1] / (2 * step)
    assert torch.allclose((gradient * direction).sum((1, 2, 3)), difference, rtol=1e-6)


def test_one_image_alone_is_as_in_a_batch():
    torch.manual_seed(0)
    model, x = Stem(nn.BatchNorm2d(8)), torch.randn(3, 3, 14, 14)
    explainer = Explainer(model)
    together = explainer.attribute(x, "saliency", target=2).scores
    alone = torch.cat([explainer.attribute(x[i : i + 1], "saliency", target=2).scores for i in range(3)])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-7)
