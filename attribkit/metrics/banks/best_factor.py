"""How far what maps let expect is from what the model does, whatever the units of the maps."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

Sign = Literal["positive", "any"]
Factor = Sign | None  # by which a map is multiplied: the best one from 0 up, the best of all, or none
Expected = Float[Tensor, "m b k"]  # by how much the scores of the maps say that the model's score falls


def mean_square(expected: Expected, falls: Float[Tensor, "b k"], factor: Factor) -> Float[Tensor, "m b"]:
    """The mean square of what each map lets expect, times its factor, less the falls; in double."""
    expected, falls = expected.double(), falls.double()
    if factor is not None:
        expected = expected * _best(expected, falls, factor)
    return (expected - falls).square().mean(-1)


def _best(expected: Expected, falls: Float[Tensor, "b k"], sign: Sign) -> Float[Tensor, "m b 1"]:
    """The factor of each map that makes the mean square least; any does for a map of zeros."""
    squares = expected.square().sum(-1, keepdim=True)
    best = (expected * falls).sum(-1, keepdim=True) / squares.masked_fill(squares == 0, 1)
    return best.clamp(min=0) if sign == "positive" else best
