"""Pixels that are removed together."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attribkit.core.axes import PerAxis, per_axis, times
from attribkit.core.errors import InvalidInput
from attribkit.core.fingerprint import fingerprint
from attribkit.core.shapes import Heatmaps


@dataclass(frozen=True, eq=False)
class GivenCells:
    """Cells that a user chose, as an option of a metric: told by their shape and a checksum."""

    labels: Int[Tensor, "*space"]  # the number of each pixel's cell, from 0, none left out; the same for every image

    def __repr__(self) -> str:
        return f"GivenCells({fingerprint(self.labels)})"


Cells = PerAxis | GivenCells | None  # so many along each axis, at most its pixels; given ones; None is single pixels


def labels_of(cells: Cells, space: tuple[int, ...]) -> Int[Tensor, "*space"]:
    """The number of each pixel's cell, from 0."""
    if isinstance(cells, GivenCells):
        return _checked(cells.labels, space)
    counts = space if cells is None else per_axis("cells", cells, space)
    labels = torch.zeros(space, dtype=torch.long)
    for axis, (side, count) in enumerate(zip(space, counts, strict=True)):
        fewer = min(side, count)
        along = torch.arange(side) * fewer // side
        labels = labels * fewer + along[(..., *(None,) * (len(space) - axis - 1))]
    return labels


def sums_over(labels: Int[Tensor, "*space"], count: int, heatmaps: Heatmaps) -> Float[Tensor, "b n"]:
    """What a map holds in each of so many cells, in double."""
    values = heatmaps.flatten(1).double()
    return values.new_zeros(len(values), count).index_add(1, labels.flatten(), values)


def _checked(labels: Tensor, space: tuple[int, ...]) -> Tensor:
    if labels.is_floating_point() or labels.dtype == torch.bool or tuple(labels.shape) != space:
        raise InvalidInput(
            f"cells={labels.dtype} {tuple(labels.shape)} must be whole numbers for the {times(space)} pixels."
        )
    known = labels.unique()
    if known.tolist() != list(range(len(known))):
        raise InvalidInput(f"cells are numbered from 0 and none is left out; these are {known.tolist()[:12]}.")
    return labels.long()
