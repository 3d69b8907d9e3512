"""Positions of the windows of convolutions and poolings."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit._coordinates.coordinates import (
    CellCoordinates,
    Positions,
    Sampling,
    resampled_coordinates,
    without_expanded_axes,
)

_MAX_DEVIATION = 0.1  # fraction of a step; coordinates that deviate more do not form a line
_MAX_SCATTER = 1.6  # cells; positions joined from cells farther apart are unknown

_POOLS: dict[int, Callable[..., Any]] = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}

WindowCentre = Callable[
    [int, int], float
]  # (spatial axis, index of an output cell) -> input index at the centre of its window


class EvenLine(NamedTuple):
    """Positions that change evenly along one axis of a tensor.

    Args:
        start: Position at index 0, extrapolated if that element has none.
        step: Distance between neighbours.
        cells: Number of elements with a position.
    """

    start: float
    step: float
    cells: int

    def at(self, index: float) -> float:
        """Return the position at an index."""
        return self.start + self.step * index


def window_centres(
    kernel: Any, stride: Any, padding: Any, dilation: Any, axes: int, taps: Sequence[float] | None = None
) -> WindowCentre:
    """Return the window centres of a convolution or pooling; `taps` is the middle of the nonzero weights per axis."""
    kernels, strides, dilations = (_per_axis(value, axes) for value in (kernel, stride, dilation))
    pads = [d * (k - 1) // 2 for k, d in zip(kernels, dilations, strict=True)]
    pads = [0] * axes if padding == "valid" else pads if padding == "same" else _per_axis(padding, axes)
    taps = taps or [(each - 1) / 2 for each in kernels]

    def centre(axis: int, cell: int) -> float:
        return cell * strides[axis] - pads[axis] + dilations[axis] * taps[axis]

    return centre


def transposed_window_centres(
    stride: Any, padding: Any, dilation: Any, axes: int, taps: Sequence[float]
) -> WindowCentre:
    """Return the window centres of a transposed convolution, as indices of its input."""
    strides, pads, dilations = (_per_axis(value, axes) for value in (stride, padding, dilation))

    def centre(axis: int, cell: int) -> float:
        return (cell + pads[axis] - dilations[axis] * taps[axis]) / strides[axis]

    return centre


def middle_taps(weight: Tensor) -> list[float]:
    """Return, for each axis of a kernel, (o, i, *kernel), the middle index of its nonzero entries.

    A partly masked kernel, such as that of a causal convolution, is off centre.
    """
    counts = weight.detach().ne(0).flatten(0, 1).any(0)
    taps: list[float] = []
    for axis in range(counts.ndim):
        size = counts.shape[axis]
        nonzero = counts.movedim(axis, 0).reshape(size, -1).any(1).nonzero().flatten()
        taps.append(float(nonzero[0] + nonzero[-1]) / 2 if len(nonzero) else (size - 1) / 2)
    return taps


def sample_cells(before: CellCoordinates, after: Positions, window: WindowCentre | None = None) -> tuple[Sampling, ...]:
    """Compute the sampling of an output's cells, (b, d, *space), whose positions spread over those of the input.

    window: None if the windows are centred on the positions.
    """
    positions, shape = without_expanded_axes(before.positions), after[0].shape
    coarser = max(old / new for old, new in zip(positions[0].shape[2:], shape[2:], strict=True))
    samplings = []
    for coordinate, new, sampling in zip(positions[1:], after[1:], before.sampling, strict=True):
        lines = [(axis, line) for axis in range(2, len(shape)) if (line := line_along(coordinate, axis))]
        if lines:
            axis, line = lines[0]
            centre = partial(window, axis - 2) if window else None
            samplings.append(_axis_sampling(sampling, line, _central_profile(new, axis).tolist(), centre))
        else:
            samplings.append(sampling if coordinate.numel() == 1 else sampling._replace(pitch=sampling.pitch * coarser))
    return tuple(samplings)


def _axis_sampling(
    sampling: Sampling, line: EvenLine, spread: list[float], centre: Callable[[int], float] | None
) -> Sampling:
    """Compute the sampling of cells along one axis from their positions and the centres of their windows."""
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
    """Fit a line to a coordinate along an axis of a tensor; None if it is uneven or varies along other axes."""
    values = _central_profile(coordinate, axis)
    defined = ~values.isnan()
    index = defined.nonzero().flatten()
    if len(index) < 2:
        return None
    first, last = int(index[0]), int(index[-1])
    step = float(values[last] - values[first]) / (last - first)
    line = EvenLine(float(values[first]) - step * first, step, last - first + 1)
    straight = line.start + step * torch.arange(len(values), device=values.device, dtype=torch.float32)
    is_uneven = (
        (coordinate - straight[(...,) + (None,) * (coordinate.ndim - 1 - axis)]).abs() > _MAX_DEVIATION * abs(step)
    ).any()
    return None if step == 0 or bool(is_uneven) else line


def gather_cells(coordinates: CellCoordinates, positions: Positions, size: Sequence[int]) -> Positions:
    """Resample positions, (b, d, *space), on another grid; all are NaN if one cell joins distant positions."""
    coarse = tuple(resampled_coordinates(each, size) for each in positions)
    old = tuple(positions[0].shape[2:])
    if old == tuple(size) or all(_is_even(each) for each in positions[1:]):
        return coarse
    ratio = max(1.0, *(a / b for a, b in zip(old, size, strict=True)))
    is_near = torch.ones((), dtype=torch.bool, device=positions[0].device)
    for each, sampling in zip(positions[1:], coordinates.sampling, strict=True):
        low, high = (sign * _POOLS[len(size)]((sign * each).nan_to_num(-math.inf), tuple(size)) for sign in (-1, 1))
        is_near = is_near & ~(high - low > _MAX_SCATTER * ratio * sampling.pitch)
    return tuple(each.where(is_near.all(), math.nan) for each in coarse)


def _is_even(coordinate: Tensor) -> bool:
    axes = range(2, coordinate.ndim)
    return coordinate.numel() == 1 or any(line_along(coordinate, axis) for axis in axes)


def _central_profile(coordinate: Tensor, axis: int) -> Tensor:
    """Return the values along an axis, at index 0 of batch and channels and in the middle of the other axes."""
    index = [0 if dim < 2 else size // 2 for dim, size in enumerate(coordinate.shape)]
    return coordinate[tuple(slice(None) if dim == axis else at for dim, at in enumerate(index))]


def _per_axis(value: Any, axes: int) -> list[int]:
    if not isinstance(value, Sequence):
        return [value] * axes
    return list(value) * axes if len(value) == 1 else list(value)
