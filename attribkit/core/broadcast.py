"""Numbers of each image beside the images themselves."""

from torch import Tensor


def beside(values: Tensor, like: Tensor) -> Tensor:
    """The values, (b, ...), with axes of one element behind, so that they broadcast over (b, ..., *space)."""
    return values[(...,) + (None,) * (like.ndim - values.ndim)]


def extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value of each image (b, ...), each (b, 1, ...)."""
    low, high = x.flatten(1).aminmax(dim=1)
    return beside(low, x), beside(high, x)
