"""Places as numbers: which image, and where along each axis of space."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_WIDE = 0.5  # share of the image; what is joined from places farther apart comes from no place
_ALIKE = 1e-3  # share of the image; places closer than this are the same
_SMALL = 0.05  # of a cell; branches that differ by less, as by uneven padding, are at the same place

Coordinates = tuple[Tensor, ...]  # which image, then the place along each axis of space, 0 to 1; NaN is no place


class Sampling(NamedTuple):
    """How the cells of a grid lie along an axis of space.

    Coordinates spread the cells of a grid evenly over what they were made of. The centre of a cell's window, which
    padding on one side or none shifts, is at ``offset + scale * coordinate``.
    """

    scale: float = 1.0
    offset: float = 0.0
    pitch: float = math.nan  # from cell to cell, as a share of the image


@dataclass(frozen=True, eq=False)
class CellCoordinates:
    """Where on the images each element of a tensor comes from; every coordinate has the tensor's shape.

    A product of queries and keys comes from two places: ``rows`` is then the query's, ``columns`` the key's. What
    attention gathers has the query's place, but its values are from all over the images: where it is added to other
    tensors, their sampling counts.
    """

    rows: Coordinates
    columns: Coordinates | None = None
    sampling: tuple[Sampling, ...] = ()  # along each axis of space
    gathered: bool = False  # by attention

    def moved(self, change: Callable[[Tensor], Any]) -> Any:
        """The places of what a rearrangement of the tensor makes: one tensor, or several."""
        rows = [change(each) for each in self.rows]
        columns = [change(each) for each in self.columns or ()]
        if isinstance(rows[0], Tensor):
            return self.put(tuple(rows), tuple(columns) or None)
        parts = zip(*rows, strict=True)
        others = zip(*columns, strict=True) if columns else [None] * len(rows[0])
        return [self.put(part, other) for part, other in zip(parts, others, strict=True)]

    def put(self, rows: Coordinates, columns: Coordinates | None = None) -> "CellCoordinates":
        """Other coordinates, sampled alike."""
        return replace(self, rows=rows, columns=columns)

    @property
    def centres(self) -> Coordinates:
        """Along each axis of space, the centres of the windows that the elements see."""
        return tuple(
            each if (s.scale, s.offset) == (1.0, 0.0) else each * s.scale + s.offset
            for each, s in zip(self.rows[1:], self.sampling, strict=True)
        )

    def at_centres(self) -> "CellCoordinates":
        """The same, with the centres for coordinates."""
        plain = tuple(each._replace(scale=1.0, offset=0.0) for each in self.sampling)
        return replace(self, rows=(self.rows[0], *self.centres), sampling=plain)


def pixel_coordinates(x: Tensor) -> CellCoordinates:
    """The places of the pixels' own centres."""
    steps = [torch.arange(side, device=x.device, dtype=torch.float32) for side in (len(x), *x.shape[2:])]
    numbers, *axes = steps[0], *((each + 0.5) / len(each) for each in steps[1:])
    grids = torch.meshgrid(numbers, *axes, indexing="ij")
    pixels = tuple(Sampling(pitch=1 / side) for side in x.shape[2:])
    return CellCoordinates(tuple(each.unsqueeze(1).expand(x.shape) for each in grids), sampling=pixels)


def no_coordinates(like: Tensor, axes: int) -> Coordinates:
    """No place for each element of a tensor; axes: of space."""
    return (torch.full((1,) * like.ndim, math.nan, device=like.device, dtype=torch.float32).expand(like.shape),) * (
        1 + axes
    )


def midpoint(coordinates: Coordinates, axes: tuple[int, ...], keep: bool) -> Coordinates:
    """The middle along axes of what has a place, where all of that is near; none elsewhere."""
    return _middle(coordinates, axes, keep)[0]


def join_cells(places: CellCoordinates, axes: tuple[int, ...], keep: bool) -> CellCoordinates:
    """The places of what is made of all along some axes; cells that are made one are as large as they were together."""
    if all(each.stride(axis) == 0 or each.shape[axis] == 1 for each in places.rows for axis in axes):
        return places.put(_middle(places.rows, axes, keep)[0])
    rows, spreads = _middle(places.rows, axes, keep)
    pairs = zip(places.sampling, spreads[1:], strict=True)
    sampling = tuple(each._replace(pitch=each.pitch + spread) for each, spread in pairs)
    return replace(places, rows=rows, columns=None, sampling=sampling)


def _middle(coordinates: Coordinates, axes: tuple[int, ...], keep: bool) -> tuple[Coordinates, list[float]]:
    """The middle, and how far apart what is made one lies at most, along each axis."""
    narrow = without_expanded_axes(coordinates)
    low = [each.nan_to_num(math.inf).amin(axes, keepdim=keep) for each in narrow]
    high = [each.nan_to_num(-math.inf).amax(axes, keepdim=keep) for each in narrow]
    near = torch.stack([(a <= b) & (b - a < _WIDE) for a, b in zip(low, high, strict=True)]).all(0)
    spreads = [float((b - a).where(near, 0).max()) for a, b in zip(low, high, strict=True)]
    return tuple(((a + b) / 2).where(near, math.nan) for a, b in zip(low, high, strict=True)), spreads


def constant(coordinates: Coordinates, axis: int, output: Tensor) -> Coordinates | None:
    """The coordinates without an axis along which they do not change, as wide as the output; None if they change."""
    first = tuple(each.narrow(axis, 0, 1) for each in without_expanded_axes(coordinates))
    if not is_constant_along(coordinates, axis) or bool(first[0].isnan().all()):
        return None
    return tuple(each.expand(output.shape) for each in first)


def is_constant_along(coordinates: Coordinates, axis: int) -> bool:
    """Whether the coordinates are the same all along an axis."""
    return all(
        each.stride(axis) == 0 or each.shape[axis] == 1 or bool(coordinates_agree(each, each.narrow(axis, 0, 1)).all())
        for each in without_expanded_axes(coordinates)
    )


def common_coordinates(several: Sequence[Coordinates]) -> Coordinates:
    """The coordinates that all have which have any; none where two that have some differ."""
    both, *others = [without_expanded_axes(coordinates) for coordinates in several]
    for other in others:
        alike = torch.stack([coordinates_agree(a, b) for a, b in zip(both, other, strict=True)]).all(0)
        both = tuple(
            torch.where(alike | b.isnan(), a, torch.where(a.isnan(), b, math.nan))
            for a, b in zip(both, other, strict=True)
        )
    return both


def comparable_coordinates(several: Sequence[CellCoordinates]) -> list[CellCoordinates]:
    """Places that are compared with each other: by their coordinates, or, where only those agree, by their centres."""
    followed = [places for places in several if not places.gathered]
    several = [replace(places, gathered=not followed) for places in several]
    samplings = {places.sampling for places in several}
    if len(samplings) == 1:
        return list(several)
    by_centre = [places.at_centres() for places in several]
    if _agree([places.rows for places in several]) or not _agree([places.rows for places in by_centre]):
        means = [_mean(along) for along in zip(*(places.sampling for places in followed or several), strict=True)]
        return [replace(places, sampling=tuple(means)) for places in several]
    pitches = by_centre[0].sampling
    return [replace(places, sampling=pitches) for places in by_centre]


def _mean(samplings: Sequence[Sampling]) -> Sampling:
    return Sampling(*(sum(values) / len(values) for values in zip(*samplings, strict=True)))


def _agree(several: Sequence[Coordinates]) -> bool:
    """Whether no place is lost by bringing these together, as far as they have the same shape."""
    first, *others = [without_expanded_axes(coordinates) for coordinates in several]
    try:
        alike = [
            coordinates_agree(a, b) | a.isnan() | b.isnan()
            for other in others
            for a, b in zip(first, other, strict=True)
        ]
    except RuntimeError:
        return True  # of different shapes
    return all(bool(each.all()) for each in alike)


def without_expanded_axes(coordinates: Coordinates) -> Coordinates:
    """The coordinates without the copies that expand() made, all of one shape."""
    for axis, size in enumerate(coordinates[0].shape):
        if size > 1 and all(each.stride(axis) == 0 for each in coordinates):
            coordinates = tuple(each.narrow(axis, 0, 1) for each in coordinates)
    return coordinates


def coordinates_agree(a: Tensor, b: Tensor) -> Tensor:
    """Whether two coordinates are the same but for a small part of a cell, or both none, element by element."""
    space = torch.broadcast_shapes(a.shape, b.shape)[2:]
    near = max(_ALIKE, _SMALL / max(space)) if len(space) > 1 else _ALIKE
    return ((a - b).abs() < near) | (a.isnan() & b.isnan())


def distinct_values(coordinate: Tensor, placed: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct values of a coordinate in order, rounding aside, and which of them each element has.

    placed: which elements have a place; of the others nothing is told.
    """
    values = coordinate[placed].unique()
    cluster = torch.cat([values.new_zeros(1), (values.diff() > _ALIKE).cumsum(0).to(values)]).long()
    sums = values.new_zeros(int(cluster[-1]) + 1).index_add(0, cluster, values)
    centres = sums / cluster.bincount()
    return centres, cluster[torch.searchsorted(values, coordinate.nan_to_num(0)).clamp(max=len(values) - 1)]


def resampled_coordinates(coordinate: Tensor, size: Sequence[int]) -> Tensor:
    """A coordinate, (b, d, *space), at the centres of a coarser or finer grid over the same space."""
    if tuple(coordinate.shape[2:]) == tuple(size):
        return coordinate
    placed = ~coordinate.isnan()
    enlarged = any(new > old for new, old in zip(size, coordinate.shape[2:], strict=True))
    if enlarged or bool(placed.all()):
        for axis, cells in enumerate(size, start=2):
            coordinate = _resampled(coordinate, axis, cells)
        return coordinate
    total = F.interpolate(coordinate.where(placed, 0), tuple(size), mode="area")  # padding does not count
    return total / F.interpolate(placed.float(), tuple(size), mode="area")


def without_border(coordinates: Coordinates, kernel: Any, stride: Any, size: tuple[int, ...]) -> Coordinates:
    """Coordinates, (b, d, *space), without a border of no place that windows which overlap were given, to fit in."""
    kernels, strides = (each if isinstance(each, Sequence) else [each] * len(size) for each in (kernel, stride))
    if all(k <= s for k, s in zip(kernels, strides, strict=True)):
        return coordinates
    placed = ~coordinates[0].isnan()
    for axis, cells in enumerate(size, start=2):
        others = [each for each in range(placed.ndim) if each != axis]
        along = placed.any(tuple(others)).nonzero().flatten()
        if len(along) and int(along[-1] - along[0]) + 1 >= cells:
            start, length = int(along[0]), int(along[-1] - along[0]) + 1
            coordinates = tuple(each.narrow(axis, start, length) for each in coordinates)
            placed = placed.narrow(axis, start, length)
    return coordinates


def _resampled(coordinate: Tensor, axis: int, cells: int) -> Tensor:
    """Linear between the cells along an axis, and beyond the outermost of them."""
    old = coordinate.shape[axis]
    if old < 2:
        return coordinate.expand(*coordinate.shape[:axis], cells, *coordinate.shape[axis + 1 :])
    place = (torch.arange(cells, device=coordinate.device, dtype=torch.float32) + 0.5) * old / cells - 0.5
    before = place.floor().long().clamp(0, old - 2)
    share = (place - before)[(...,) + (None,) * (coordinate.ndim - 1 - axis)]
    low, high = coordinate.index_select(axis, before), coordinate.index_select(axis, before + 1)
    return low + (high - low) * share
