"""Pearson's and Spearman's correlation of many rows at once, on the device of the values."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Correlation = Literal["pearson", "spearman"]


def pearson_correlation(one: Float[Tensor, "*rows k"], other: Float[Tensor, "*rows k"]) -> Float[Tensor, "*rows"]:
    """Compute Pearson's correlation along the last axis, in float64.

    The correlation of a row with itself is exactly 1. It is NaN where either row is constant up to rounding.
    """
    first, second = _centred(one), _centred(other)
    return (first * second).sum(-1) / (first.square().sum(-1) * second.square().sum(-1)).sqrt()


def spearman_correlation(one: Float[Tensor, "*rows k"], other: Float[Tensor, "*rows k"]) -> Float[Tensor, "*rows"]:
    """Compute Spearman's rank correlation along the last axis, in float64.

    It is Pearson's correlation of the ranks, where equal values have their mean rank. It is NaN where either row is
    constant up to rounding, or contains NaN.
    """
    undefined = _is_constant(one) | _is_constant(other) | (one.isnan() | other.isnan()).any(-1)
    return pearson_correlation(average_ranks(one), average_ranks(other)).masked_fill(undefined, torch.nan)


def average_ranks(values: Float[Tensor, "*rows k"]) -> Float[Tensor, "*rows k"]:
    """Return the rank of each value along the last axis, in float64: 1 is the smallest, equal values get their mean."""
    values = values.contiguous()
    ordered = values.sort(-1).values
    first, end = (torch.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (first + end + 1).double() / 2


def rounding_error(precision: torch.dtype) -> float:
    """Return the relative difference up to which scores or sums of this precision count as equal."""
    return 1e-12 if precision == torch.float64 else 1e-6


def _centred(values: Tensor) -> Tensor:
    """Subtract the mean; return NaN where the values are constant."""
    precise = values.double()
    return (precise - precise.mean(-1, keepdim=True)).masked_fill(_is_constant(values)[..., None], torch.nan)


def _is_constant(values: Tensor) -> Tensor:
    low, high = values.aminmax(dim=-1)
    return high - low <= rounding_error(values.dtype) * torch.maximum(low.abs(), high.abs())
