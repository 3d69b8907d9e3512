"""Ranks of values, where equal ones share theirs."""

import torch
from jaxtyping import Float
from torch import Tensor


def average_ranks(values: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """The place of each value in its row, from 0 for the smallest, in float64; equal ones share their mean."""
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    return (below + up_to - 1).double() / 2
