"""Where the windows of convolutions and poolings lie."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit.coordinates.coordinates import (
    CellCoordinates,
    Coordinates,
    Sampling,
    resampled_coordinates,
    without_expanded_axes,
)

_UNEVEN = 0.1  # of a step; coordinates that stray farther from a line are on none
_SCATTERED = 1.6  # cells; what is made one from cells farther apart than its own size comes from no place

_POOLS: dict[int, Callable[..., Any]] = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}

WindowCentre = Callable[
    [int, int], float
]  # an axis of space and a cell of the output, to the index that its window centres


class EvenLine(NamedTuple):
    """Coordinates that change evenly along one axis of a tensor."""

    start: float  # at index 0, beyond what has a place too
    step: float
    cells: int  # how many have a place

    def at(self, index: float) -> float:
        return self.start + self.step * index


def window_centres(
    kernel: Any, stride: Any, padding: Any, dilation: Any, axes: int, taps: Sequence[float] | None = None
) -> WindowCentre:
    """The centres of a convolution's or a pooling's windows; taps: the middle of those that count, for each axis."""
    kernels, strides, dilations = (_each(value, axes) for value in (kernel, stride, dilation))
    pads = [d * (k - 1) // 2 for k, d in zip(kernels, dilations, strict=True)]
    pads = [0] * axes if padding == "valid" else pads if padding == "same" else _each(padding, axes)
    taps = taps or [(each - 1) / 2 for each in kernels]

    def centre(axis: int, cell: int) -> float:
        return cell * strides[axis] - pads[axis] + dilations[axis] * taps[axis]

    return centre


def transposed_window_centres(
    stride: Any, padding: Any, dilation: Any, axes: int, taps: Sequence[float]
) -> WindowCentre:
    """The same of a transposed convolution: the indices of the input that reach a cell of the output."""
    strides, pads, dilations = (_each(value, axes) for value in (stride, padding, dilation))

    def centre(axis: int, cell: int) -> float:
        return (cell + pads[axis] - dilations[axis] * taps[axis]) / strides[axis]

    return centre


def middle_taps(weight: Tensor) -> list[float]:
    """For each axis of a kernel, the index in the middle of its entries that are not all zero; weight: (o, i, *kernel).

    A kernel of which a part is masked, as that of a causal convolution, looks to one side.
    """
    counts = weight.detach().ne(0).flatten(0, 1).any(0)
    found: list[float] = []
    for axis in range(counts.ndim):
        size = counts.shape[axis]
        places = counts.movedim(axis, 0).reshape(size, -1).any(1).nonzero().flatten()
        found.append(float(places[0] + places[-1]) / 2 if len(places) else (size - 1) / 2)
    return found


def sample_cells(
    before: CellCoordinates, after: Coordinates, window: WindowCentre | None = None
) -> tuple[Sampling, ...]:
    """How the cells of an output lie, (b, d, *space), whose coordinates spread over those of the input.

    window: None is where the coordinates are.
    """
    rows, shape = without_expanded_axes(before.rows), after[0].shape
    coarser = max(old / new for old, new in zip(rows[0].shape[2:], shape[2:], strict=True))
    found = []
    for coordinate, new, sampling in zip(rows[1:], after[1:], before.sampling, strict=True):
        lines = [(axis, line) for axis in range(2, len(shape)) if (line := line_along(coordinate, axis))]
        if lines:
            axis, line = lines[0]
            centre = partial(window, axis - 2) if window else None
            found.append(_along(sampling, line, _through_the_middle(new, axis).tolist(), centre))
        else:
            found.append(sampling if coordinate.numel() == 1 else sampling._replace(pitch=sampling.pitch * coarser))
    return tuple(found)


def _along(sampling: Sampling, line: EvenLine, spread: list[float], centre: Callable[[int], float] | None) -> Sampling:
    """The sampling along one axis, of cells at these coordinates; centre: that of each cell's window, as an index."""
    first, last = spread[0], spread[-1]
    if not math.isfinite(first + last):
        return sampling
    pitch = abs(last - first) / (len(spread) - 1) if len(spread) > 1 else abs(line.step) * line.cells
    if centre is None:
        return sampling._replace(pitch=pitch)
    start, end = line.at(centre(0)), line.at(centre(len(spread) - 1))
    scale = (end - start) / (last - first) if last != first else 1.0
    offset = start - scale * first
    return Sampling(sampling.scale * scale, sampling.offset + sampling.scale * offset, pitch)


def line_along(coordinate: Tensor, axis: int) -> EvenLine | None:
    """The line that a coordinate follows along an axis of a tensor, if it follows one and no other axis."""
    values = _through_the_middle(coordinate, axis)
    placed = ~values.isnan()
    index = placed.nonzero().flatten()
    if len(index) < 2:
        return None
    first, last = int(index[0]), int(index[-1])
    step = float(values[last] - values[first]) / (last - first)
    line = EvenLine(float(values[first]) - step * first, step, last - first + 1)
    straight = line.start + step * torch.arange(len(values), device=values.device, dtype=torch.float32)
    far = ((coordinate - straight[(...,) + (None,) * (coordinate.ndim - 1 - axis)]).abs() > _UNEVEN * abs(step)).any()
    return None if step == 0 or bool(far) else line


def gather_cells(places: CellCoordinates, coordinates: Coordinates, size: Sequence[int]) -> Coordinates:
    """Coordinates, (b, d, *space), at the cells of another grid; none at all if one is made of what lies far apart."""
    coarse = tuple(resampled_coordinates(each, size) for each in coordinates)
    old = tuple(coordinates[0].shape[2:])
    if old == tuple(size) or all(_is_even(each) for each in coordinates[1:]):
        return coarse
    ratio = max(1.0, *(a / b for a, b in zip(old, size, strict=True)))
    near = torch.ones((), dtype=torch.bool, device=coordinates[0].device)
    for each, sampling in zip(coordinates[1:], places.sampling, strict=True):
        low, high = (sign * _POOLS[len(size)]((sign * each).nan_to_num(-math.inf), tuple(size)) for sign in (-1, 1))
        near = near & ~(high - low > _SCATTERED * ratio * sampling.pitch)
    return tuple(each.where(near.all(), math.nan) for each in coarse)


def _is_even(coordinate: Tensor) -> bool:
    axes = range(2, coordinate.ndim)
    return coordinate.numel() == 1 or any(line_along(coordinate, axis) for axis in axes)


def _through_the_middle(coordinate: Tensor, axis: int) -> Tensor:
    """The values along an axis, at the first index of what is not space and in the middle of the rest."""
    index = [0 if dim < 2 else size // 2 for dim, size in enumerate(coordinate.shape)]
    return coordinate[tuple(slice(None) if dim == axis else at for dim, at in enumerate(index))]


def _each(value: Any, axes: int) -> list[int]:
    if not isinstance(value, Sequence):
        return [value] * axes
    return list(value) * axes if len(value) == 1 else list(value)
