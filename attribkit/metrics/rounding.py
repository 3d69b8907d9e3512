"""What of a number is rounding."""

import torch


def rounding(precision: torch.dtype) -> float:
    """The share of a number of this precision, a model's score or a map's sum, below which differences say nothing."""
    return 1e-12 if precision == torch.float64 else 1e-6
