"""Attributions of a small model, and the path of the plugin, which need not be installed."""

# mypy: allow-untyped-defs

import sys
from pathlib import Path

import pytest
import torch

from attribkit import Explainer
from attribkit.testing import tiny_cnn

sys.path.append(str(Path(__file__).parents[1]))


@pytest.fixture
def x():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def explainer():
    return Explainer(tiny_cnn())


@pytest.fixture
def attribution(explainer, x):
    return explainer.attribute(x, "gradcam", target=[3, 1])


@pytest.fixture
def comparison(explainer, x):
    return explainer.compare(x, ["gradcam", "saliency"], targets=[3, 1])
