"""The largest pixels of a map, and where they are."""

from jaxtyping import Bool, Float, Int
from torch import Tensor


def expected_inside(
    values: Float[Tensor, "b n"], inside: Bool[Tensor, "b n"], count: Int[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """How many of the `count` largest values of each row are inside, in float64.

    Where values are equal at the border of the largest, each of them is among these as often as the others.
    """
    border = values.sort(1, descending=True).values.gather(1, (count - 1).clamp(min=0)[:, None])
    above, level = values > border, values == border
    share = (count - above.sum(1)).double() / level.sum(1)
    return (above & inside).sum(1) + share * (level & inside).sum(1)
