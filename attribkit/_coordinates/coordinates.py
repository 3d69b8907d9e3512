"""Image coordinates of tensor elements: the image in the batch, and the position along each spatial axis."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_MAX_JOINED = 0.5  # fraction of the image; the midpoint of positions farther apart is unknown
_SAME = 1e-3  # fraction of the image; positions closer than this are equal
_SMALL = 0.05  # fraction of a cell; positions that differ by less, as from uneven padding, are equal

Positions = tuple[Tensor, ...]  # index of the image, then the position along each spatial axis, 0 to 1; NaN is unknown


class Sampling(NamedTuple):
    """The sampling of an image axis by the cells of a grid.

    Positions place the cells of a grid evenly over the cells that they were computed from. The centre of a cell's
    window, which asymmetric or missing padding shifts, is at ``offset + scale * position``.

    Args:
        scale: Factor from positions to window centres.
        offset: Shift from positions to window centres, as a fraction of the image.
        pitch: Distance between neighbouring cells, as a fraction of the image.
    """

    scale: float = 1.0
    offset: float = 0.0
    pitch: float = math.nan


@dataclass(frozen=True, eq=False)
class CellCoordinates:
    """The image coordinates of each element of a tensor.

    Args:
        positions: Position of each element; each coordinate has the tensor's shape. For a product of queries and keys,
            the positions of the queries.
        key_positions: For a product of queries and keys, the positions of the keys.
        sampling: How the cells sample each spatial axis.
        is_attention_output: Whether attention computed the elements. They have the positions of the queries, but their
            values come from the whole image, so when they are added to other tensors, only the sampling of those
            counts.
    """

    positions: Positions
    key_positions: Positions | None = None
    sampling: tuple[Sampling, ...] = ()
    is_attention_output: bool = False

    def rearrange(self, change: Callable[[Tensor], Any]) -> Any:
        """Apply a rearrangement of the tensor to its coordinates; return one object, or a list for a split."""
        positions = [change(each) for each in self.positions]
        key_positions = [change(each) for each in self.key_positions or ()]
        if isinstance(positions[0], Tensor):
            return self.with_positions(tuple(positions), tuple(key_positions) or None)
        parts = zip(*positions, strict=True)
        others = zip(*key_positions, strict=True) if key_positions else [None] * len(positions[0])
        return [self.with_positions(part, other) for part, other in zip(parts, others, strict=True)]

    def with_positions(self, positions: Positions, key_positions: Positions | None = None) -> "CellCoordinates":
        """Return a copy with other positions and the same sampling."""
        return replace(self, positions=positions, key_positions=key_positions)

    @property
    def centres(self) -> Positions:
        """The centres of the elements' windows along each spatial axis."""
        return tuple(
            each if (s.scale, s.offset) == (1.0, 0.0) else each * s.scale + s.offset
            for each, s in zip(self.positions[1:], self.sampling, strict=True)
        )

    def with_centre_positions(self) -> "CellCoordinates":
        """Return a copy whose positions are the centres of the windows."""
        plain = tuple(each._replace(scale=1.0, offset=0.0) for each in self.sampling)
        return replace(self, positions=(self.positions[0], *self.centres), sampling=plain)


def pixel_coordinates(x: Tensor) -> CellCoordinates:
    """Return the coordinates of the pixels of a batch: their centres."""
    indices = [torch.arange(side, device=x.device, dtype=torch.float32) for side in (len(x), *x.shape[2:])]
    images, *axes = indices[0], *((each + 0.5) / len(each) for each in indices[1:])
    grids = torch.meshgrid(images, *axes, indexing="ij")
    pixels = tuple(Sampling(pitch=1 / side) for side in x.shape[2:])
    return CellCoordinates(tuple(each.unsqueeze(1).expand(x.shape) for each in grids), sampling=pixels)


def unknown_positions(like: Tensor, axes: int) -> Positions:
    """Return NaN positions along each of `axes` spatial axes for each element of a tensor."""
    return (torch.full((1,) * like.ndim, math.nan, device=like.device, dtype=torch.float32).expand(like.shape),) * (
        1 + axes
    )


def midpoint(positions: Positions, axes: tuple[int, ...], keep: bool) -> Positions:
    """Compute the midpoint of the known positions along axes, NaN where they are far apart."""
    return _midpoint_and_spread(positions, axes, keep)[0]


def join_cells(coordinates: CellCoordinates, axes: tuple[int, ...], keep: bool) -> CellCoordinates:
    """Return the coordinates after a reduction along axes; joined cells have the size of all of them together."""
    if all(each.stride(axis) == 0 or each.shape[axis] == 1 for each in coordinates.positions for axis in axes):
        return coordinates.with_positions(_midpoint_and_spread(coordinates.positions, axes, keep)[0])
    positions, spreads = _midpoint_and_spread(coordinates.positions, axes, keep)
    pairs = zip(coordinates.sampling, spreads[1:], strict=True)
    sampling = tuple(each._replace(pitch=each.pitch + spread) for each, spread in pairs)
    return replace(coordinates, positions=positions, key_positions=None, sampling=sampling)


def _midpoint_and_spread(positions: Positions, axes: tuple[int, ...], keep: bool) -> tuple[Positions, list[float]]:
    """Compute the midpoint along axes, and the largest distance between joined positions along each spatial axis."""
    narrow = without_expanded_axes(positions)
    low = [each.nan_to_num(math.inf).amin(axes, keepdim=keep) for each in narrow]
    high = [each.nan_to_num(-math.inf).amax(axes, keepdim=keep) for each in narrow]
    is_near = torch.stack([(a <= b) & (b - a < _MAX_JOINED) for a, b in zip(low, high, strict=True)]).all(0)
    spreads = [float((b - a).where(is_near, 0).max()) for a, b in zip(low, high, strict=True)]
    return tuple(((a + b) / 2).where(is_near, math.nan) for a, b in zip(low, high, strict=True)), spreads


def positions_without_axis(positions: Positions, axis: int, output: Tensor) -> Positions | None:
    """Return the positions without an axis along which they are constant, expanded to the output; None if they vary."""
    first = tuple(each.narrow(axis, 0, 1) for each in without_expanded_axes(positions))
    if not is_constant_along(positions, axis) or bool(first[0].isnan().all()):
        return None
    return tuple(each.expand(output.shape) for each in first)


def is_constant_along(positions: Positions, axis: int) -> bool:
    """Return whether the positions are constant along an axis."""
    return all(
        each.stride(axis) == 0 or each.shape[axis] == 1 or bool(coordinates_agree(each, each.narrow(axis, 0, 1)).all())
        for each in without_expanded_axes(positions)
    )


def common_positions(operands: Sequence[Positions]) -> Positions:
    """Merge positions: keep the known ones, and set NaN where two known ones differ."""
    merged, *others = [without_expanded_axes(positions) for positions in operands]
    for other in others:
        alike = torch.stack([coordinates_agree(a, b) for a, b in zip(merged, other, strict=True)]).all(0)
        merged = tuple(
            torch.where(alike | b.isnan(), a, torch.where(a.isnan(), b, math.nan))
            for a, b in zip(merged, other, strict=True)
        )
    return merged


def comparable_coordinates(operands: Sequence[CellCoordinates]) -> list[CellCoordinates]:
    """Bring coordinates to one sampling, to compare their positions.

    If only the window centres agree, and the positions do not, the centres become the positions.
    """
    computed_locally = [coordinates for coordinates in operands if not coordinates.is_attention_output]
    operands = [replace(coordinates, is_attention_output=not computed_locally) for coordinates in operands]
    samplings = {coordinates.sampling for coordinates in operands}
    if len(samplings) == 1:
        return list(operands)
    by_centre = [coordinates.with_centre_positions() for coordinates in operands]
    if _all_agree([coordinates.positions for coordinates in operands]) or not _all_agree(
        [coordinates.positions for coordinates in by_centre]
    ):
        means = [
            _mean(along)
            for along in zip(*(coordinates.sampling for coordinates in computed_locally or operands), strict=True)
        ]
        return [replace(coordinates, sampling=tuple(means)) for coordinates in operands]
    pitches = by_centre[0].sampling
    return [replace(coordinates, sampling=pitches) for coordinates in by_centre]


def _mean(samplings: Sequence[Sampling]) -> Sampling:
    """Average samplings along one axis."""
    return Sampling(*(sum(values) / len(values) for values in zip(*samplings, strict=True)))


def _all_agree(operands: Sequence[Positions]) -> bool:
    """Return whether all known positions agree; positions of different shapes count as agreeing."""
    first, *others = [without_expanded_axes(positions) for positions in operands]
    try:
        alike = [
            coordinates_agree(a, b) | a.isnan() | b.isnan()
            for other in others
            for a, b in zip(first, other, strict=True)
        ]
    except RuntimeError:
        return True  # the shapes differ
    return all(bool(each.all()) for each in alike)


def without_expanded_axes(positions: Positions) -> Positions:
    """Reduce the axes that are copies made by expand() to size one, so that all coordinates have one shape."""
    for axis, size in enumerate(positions[0].shape):
        if size > 1 and all(each.stride(axis) == 0 for each in positions):
            positions = tuple(each.narrow(axis, 0, 1) for each in positions)
    return positions


def coordinates_agree(a: Tensor, b: Tensor) -> Tensor:
    """Return element by element whether two coordinates are equal within a small fraction of a cell, or both NaN."""
    space = torch.broadcast_shapes(a.shape, b.shape)[2:]
    is_near = max(_SAME, _SMALL / max(space)) if len(space) > 1 else _SAME
    return ((a - b).abs() < is_near) | (a.isnan() & b.isnan())


def distinct_values(coordinate: Tensor, defined: Tensor) -> tuple[Tensor, Tensor]:
    """Cluster the values of a coordinate within rounding.

    Args:
        coordinate: Values, NaN where unknown.
        defined: Mask of the elements to cluster.

    Returns:
        The cluster centres in ascending order, and the index of each element's cluster (arbitrary where not defined).
    """
    values = coordinate[defined].unique()
    cluster = torch.cat([values.new_zeros(1), (values.diff() > _SAME).cumsum(0).to(values)]).long()
    sums = values.new_zeros(int(cluster[-1]) + 1).index_add(0, cluster, values)
    centres = sums / cluster.bincount()
    return centres, cluster[torch.searchsorted(values, coordinate.nan_to_num(0)).clamp(max=len(values) - 1)]


def resampled_coordinates(coordinate: Tensor, size: Sequence[int]) -> Tensor:
    """Resample a coordinate, (b, d, *space), at the cell centres of a coarser or finer grid over the same area."""
    if tuple(coordinate.shape[2:]) == tuple(size):
        return coordinate
    defined = ~coordinate.isnan()
    enlarged = any(new > old for new, old in zip(size, coordinate.shape[2:], strict=True))
    if enlarged or bool(defined.all()):
        for axis, cells in enumerate(size, start=2):
            coordinate = _resampled(coordinate, axis, cells)
        return coordinate
    total = F.interpolate(coordinate.where(defined, 0), tuple(size), mode="area")  # the mean excludes padding
    return total / F.interpolate(defined.float(), tuple(size), mode="area")


def without_border(positions: Positions, kernel: Any, stride: Any, size: tuple[int, ...]) -> Positions:
    """Crop positions, (b, d, *space), to the known ones where padding for overlapping windows surrounds them."""
    kernels, strides = (each if isinstance(each, Sequence) else [each] * len(size) for each in (kernel, stride))
    if all(k <= s for k, s in zip(kernels, strides, strict=True)):
        return positions
    defined = ~positions[0].isnan()
    for axis, cells in enumerate(size, start=2):
        others = [each for each in range(defined.ndim) if each != axis]
        along = defined.any(tuple(others)).nonzero().flatten()
        if len(along) and int(along[-1] - along[0]) + 1 >= cells:
            start, length = int(along[0]), int(along[-1] - along[0]) + 1
            positions = tuple(each.narrow(axis, start, length) for each in positions)
            defined = defined.narrow(axis, start, length)
    return positions


def _resampled(coordinate: Tensor, axis: int, cells: int) -> Tensor:
    """Interpolate along an axis, and extrapolate beyond the outermost cells, linearly."""
    old = coordinate.shape[axis]
    if old < 2:
        return coordinate.expand(*coordinate.shape[:axis], cells, *coordinate.shape[axis + 1 :])
    index = (torch.arange(cells, device=coordinate.device, dtype=torch.float32) + 0.5) * old / cells - 0.5
    before = index.floor().long().clamp(0, old - 2)
    weight = (index - before)[(...,) + (None,) * (coordinate.ndim - 1 - axis)]
    low, high = coordinate.index_select(axis, before), coordinate.index_select(axis, before + 1)
    return low + (high - low) * weight
