"""RISE against a slow loop that was written from the paper, and where its answer is known."""

import math

import numpy as np
import pytest
import torch
from skimage.transform import resize
from torch import nn

from attribkit import AttribkitError, Explainer
from attribkit.methods._rise import RISE


def test_its_masks_are_the_papers():
    """Coarse grids enlarged to (s + 1) cells, cropped at an offset of less than a cell; each pixel seen with p."""
    x = torch.zeros(1, 3, 60, 45)
    masks = torch.cat(list(RISE(masks=300, cells=6, probability=0.3)._blocks(x)))
    assert masks.shape == (300, 1, 60, 45)
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-6
    assert abs(float(masks.mean()) - 0.3) < 0.01
    random = torch.Generator().manual_seed(0)
    grid = (torch.rand(1, 1, 6, 6, generator=random) < 0.3).double()[0, 0].numpy()
    wide = resize(grid, (7 * 10, 7 * 8), order=1, mode="edge", anti_aliasing=False)
    top, left = (int(torch.randint(n, (), generator=random)) for n in (10, 8))
    np.testing.assert_allclose(masks[0, 0], wide[top : top + 60, left : left + 45], atol=1e-6)


@pytest.mark.parametrize("probability", [0.5, 0.2])
def test_equals_a_slow_loop(cnn, probability):
    x = torch.randn(2, 3, 128, 128)
    method = RISE(masks=70, cells=5, probability=probability, seed=3)
    ours = Explainer(cnn).attribute(x, method, target=[1, 4]).scores
    total = torch.zeros(2, 1, 128, 128)
    for mask in torch.cat(list(method._blocks(x))):
        with torch.no_grad():
            scores = cnn(x * mask).softmax(1)[[0, 1], [1, 4]]
        total += scores[:, None, None, None] * mask
    torch.testing.assert_close(ours, total / 70 / probability)


def test_finds_the_only_pixels_that_matter():
    class Corner(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return torch.stack([self.scale * x[:, :, :16, 48:].mean((1, 2, 3)), 0 * x.sum((1, 2, 3))], 1)

    x = torch.full((1, 1, 64, 64), 4.0)
    heatmap = Explainer(Corner()).attribute(x, "rise", target=0, masks=1500, cells=4).heatmap()[0]
    row, column = divmod(int(heatmap.argmax()), 64)
    assert row < 16
    assert column >= 48


@pytest.mark.slow
def test_a_constant_score_gives_how_often_each_pixel_is_seen(cnn):
    scores = Explainer(cnn).attribute(torch.randn(1, 3, 128, 128), "rise", target=lambda y: 0 * y[:, 0] + 1, masks=600)
    assert abs(float(scores.scores.mean()) - 1) < 0.02
    assert float(scores.scores.std()) < 4 * math.sqrt(0.5 * 0.5 / 600) / 0.5


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("options", [{"masks": 0}, {"cells": 0}, {"probability": 0.0}, {"probability": 1.0}])
def test_bad_options(cnn, options):
    words = "must be a finite number > 0 and < 1" if "probability" in options else "must be an integer >= 1"
    with pytest.raises(AttribkitError, match=words):
        Explainer(cnn).attribute(torch.randn(1, 3, 128, 128), "rise", **options)
