"""[metrics/rounding] What of a number is rounding.
[metrics/correlation] Correlations, many at once and on the device.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


def rounding_error(precision: torch.dtype) -> float:
    """The share of a number of this precision, a model's score or a map's sum, below which differences say nothing."""
    return 1e-12 if precision == torch.float64 else 1e-6


Correlation = Literal["pearson", "spearman"]


def pearson_correlation(one: Float[Tensor, "*rows k"], other: Float[Tensor, "*rows k"]) -> Float[Tensor, "*rows"]:
    """Pearson's correlation along the last axis, in double; NaN where either side is constant but for rounding.

    Exactly 1 of a side and itself.
    """
    first, second = _centred(one), _centred(other)
    return (first * second).sum(-1) / (first.square().sum(-1) * second.square().sum(-1)).sqrt()


def spearman_correlation(one: Float[Tensor, "*rows k"], other: Float[Tensor, "*rows k"]) -> Float[Tensor, "*rows"]:
    """Spearman's correlation along the last axis: Pearson's of the ranks; NaN as there."""
    undefined = _is_constant(one) | _is_constant(other) | (one.isnan() | other.isnan()).any(-1)
    return pearson_correlation(average_ranks(one), average_ranks(other)).masked_fill(undefined, torch.nan)


def average_ranks(values: Float[Tensor, "*rows k"]) -> Float[Tensor, "*rows k"]:
    """The place of each value along the last axis, from 1 for the smallest, in double; equal ones share their mean."""
    values = values.contiguous()
    ordered = values.sort(-1).values
    first, beyond = (torch.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (first + beyond + 1).double() / 2


def _centred(values: Tensor) -> Tensor:
    """Less their mean; NaN where they are constant."""
    precise = values.double()
    return (precise - precise.mean(-1, keepdim=True)).masked_fill(_is_constant(values)[..., None], torch.nan)


def _is_constant(values: Tensor) -> Tensor:
    low, high = values.aminmax(dim=-1)
    return high - low <= rounding_error(values.dtype) * torch.maximum(low.abs(), high.abs())
