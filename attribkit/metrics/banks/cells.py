"""Pixels that are removed together."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attribkit.core.axes import PerAxis, per_axis, times
from attribkit.core.errors import InvalidInput
from attribkit.core.fingerprint import Fingerprinted
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Heatmaps, Images


@dataclass(frozen=True, eq=False, repr=False)
class GivenCells(Fingerprinted):
    """Cells that a user chose, as an option of a metric; kept on the CPU, where they are counted."""

    tensor: Int[Tensor, "*space"]  # the number of each pixel's cell, from 0, none left out; the same for every image

    def __post_init__(self) -> None:
        labels = self.tensor
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise InvalidInput(f"cells={labels.dtype} must be whole numbers, one for each pixel.")
        known = labels.unique()
        if known.tolist() != list(range(len(known))):
            raise InvalidInput(f"cells are numbered from 0 and none is left out; these are {known.tolist()[:12]}.")
        object.__setattr__(self, "tensor", labels.cpu().long())


Cells = PerAxis | GivenCells | None  # so many along each axis, at most its pixels; given ones; None is single pixels
Settled = tuple[int, ...] | GivenCells  # what they are for images of one space: equal where they mean the same


@dataclass(frozen=True, eq=False)
class Partition:
    """The cells of the images that are being explained."""

    labels: Int[Tensor, "*space"]  # the number of each pixel's cell, from 0
    count: int

    def sums(self, heatmaps: Heatmaps) -> Float[Tensor, "b n"]:
        """What a map holds in each cell, in double."""
        values = heatmaps.flatten(1).double()
        return values.new_zeros(len(values), self.count).index_add(1, self.labels.flatten(), values)


def settled(cells: Cells, space: tuple[int, ...]) -> Settled:
    """The cells of images of this space; raises InvalidInput where they do not fit."""
    if isinstance(cells, GivenCells):
        if cells.tensor.shape != space:
            given = times(cells.tensor.shape)
            raise InvalidInput(f"cells are {given} labels for {times(space)} pixels: give one for each.")
        return cells
    counts = space if cells is None else per_axis("cells", cells, space)
    return tuple(map(min, space, counts))


def partition(model: HookedModel, x: Images, cells: Settled) -> Partition:
    """The cells on the device of the images; made once for all metrics that share them."""

    def made() -> Partition:
        labels, count = labels_of(cells, tuple(x.shape[2:]))
        return Partition(labels.to(x.device), count)

    return model.remembered(("cells", cells), made)


def labels_of(cells: Settled, space: tuple[int, ...]) -> tuple[Int[Tensor, "*space"], int]:
    """The number of each pixel's cell, from 0, and how many there are; on the CPU, so that no device is waited for."""
    if isinstance(cells, GivenCells):
        return cells.tensor, int(cells.tensor.max()) + 1
    labels = torch.zeros(space, dtype=torch.long, device="cpu")
    for axis, (side, count) in enumerate(zip(space, cells, strict=True)):
        along = torch.arange(side, device="cpu") * count // side
        labels = labels * count + along[(..., *(None,) * (len(space) - axis - 1))]
    return labels, math.prod(cells)
