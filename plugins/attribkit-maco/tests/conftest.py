"""The zoo's CNN and scenes, linear models, and a small model without normalisation."""

import math

import pytest
import torch
from torch import nn


class Linear(nn.Module):
    """Logits that are weighted sums of the pixels."""

    def __init__(self, shape, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.shape = shape
        self.head = nn.Linear(math.prod(shape), 3).to(dtype)

    def forward(self, x):
        return self.head(x.flatten(1))


@pytest.fixture
def linear():
    return Linear
