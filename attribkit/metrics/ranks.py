"""Ranks of values, where equal ones share theirs."""

import torch
from jaxtyping import Float
from torch import Tensor


def average_ranks(values: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """The place of each value in its row, from 1 for the smallest, in float64; equal values get the mean of theirs."""
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    return (below + up_to + 1).double() / 2


def expected_inside(values: Float[Tensor, "b n"], inside: Tensor, count: Tensor) -> Float[Tensor, " b"]:
    """How many of the `count` (b,) largest values of each row are inside, (b, n) bool; in float64.

    Where values are equal at the border of the largest, each of them is among these as often as the others.
    """
    border = values.sort(1, descending=True).values.gather(1, (count - 1).clamp(min=0)[:, None])
    above, level = values > border, values == border
    share = (count - above.sum(1)).double() / level.sum(1)
    return (above & inside).sum(1) + share * (level & inside).sum(1)
