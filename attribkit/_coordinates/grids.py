"""Decide the layout of a tensor by the image coordinates of its elements."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from attribkit._coordinates.coordinates import (
    CellCoordinates,
    Positions,
    Sampling,
    distinct_values,
    is_constant_along,
    without_expanded_axes,
)
from attribkit._core.layouts import Extent, Layout

_REGULAR_TOLERANCE = 0.55  # fraction of a cell; centres this close to an even grid over the image count as that grid
_MAX_MISSING = 0.75  # fraction of a cell; a grid that lacks more covers only a part of the image
_MAX_UNEVENNESS = 0.3  # fraction of the distance between centres
_MAX_LENGTH = 1.3  # image sizes; cells that would cover more are samples of a grid


def layout_of(coordinates: CellCoordinates) -> Layout | None:
    """Decide how to read a tensor of one image as channels on a grid; None if its positions do not form a grid.

    A map has its channels first or last, and its cells in any order, with axes exchanged or mirrored. Tokens, (b, n,
    d), may be in any order too, after or between tokens without a position. Frames of a clip may be the first axis. A
    grid that covers a part of the image has an extent.
    """
    shape, positions = coordinates.positions[0].shape, without_expanded_axes(coordinates.positions)
    spatial, centres = (
        positions[1:],
        without_expanded_axes(coordinates.with_positions(positions).with_centre_positions().positions)[1:],
    )
    if len(shape) == len(centres) + 2:
        for kind, channels in (("channels first", 1), ("channels last", len(shape) - 1)):
            grid = tuple(shape[axis] for axis in range(1, len(shape)) if axis != channels)
            cell_centres, cell_positions = _drop_axis(centres, channels), _drop_axis(spatial, channels)
            if cell_centres is None or cell_positions is None or math.prod(grid) < 2 or len(cell_centres[0]) > 1:
                continue
            if _is_regular_map(cell_positions, cell_centres, grid, coordinates.sampling):
                return Layout(kind, grid)
            if layout := _map_layout(cell_centres, kind, grid, coordinates.sampling):
                return layout
    if len(shape) == len(centres) + 1 and len(centres) == 3 and shape[0] > 1:
        return _frames_layout(coordinates)
    if len(shape) == 3:
        tokens = _drop_axis(centres, 2)
        return _token_layout(tokens, coordinates.sampling) if tokens is not None and len(tokens[0]) == 1 else None
    return None


def on_grid(positions: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Int[Tensor, "rows tokens"]] | None:
    """Find the grid that tokens fill.

    Args:
        positions: Along each spatial axis, (rows, tokens); NaN where unknown.

    Returns:
        The cell centres of the grid along each axis, and the cell of each token in reading order, -1 where unknown.
        None if the tokens do not fill a grid, or two tokens of a row are the same cell.
    """
    defined = ~torch.stack([each.isnan() for each in positions]).any(0)
    if not bool(defined.any()):
        return (), torch.full_like(defined, -1, dtype=torch.long)
    centres, indices = zip(*(distinct_values(each, defined) for each in positions), strict=True)
    cells = torch.zeros_like(defined, dtype=torch.long)
    for along, index in zip(centres, indices, strict=True):
        cells = cells * len(along) + index
    cells = cells.where(defined, -1)
    ordered = cells.where(defined, -1 - torch.arange(cells.shape[1], device=cells.device)).sort(1).values
    has_duplicates = bool((ordered[:, 1:] == ordered[:, :-1]).any())
    is_full = len(cells[defined].unique()) == math.prod(map(len, centres))
    return (centres, cells) if is_full and not has_duplicates else None


def _drop_axis(positions: Positions, axis: int) -> list[Tensor] | None:
    """Return the positions without an axis that they do not depend on; None if they depend on it."""
    return [each.select(axis, 0) for each in positions] if is_constant_along(positions, axis) else None


def _map_layout(
    centres: Sequence[Tensor], kind: str, cells: tuple[int, ...], sampling: Sequence[Sampling]
) -> Layout | None:
    """Find the grid of the cells of a map, given their centres, (1, *cells), without expanded axes."""
    wide = [each.expand(1, *cells) for each in centres]
    found = _grid_order([each.flatten(1) for each in wide], sampling) if _is_box(~wide[0][0].isnan()) else None
    return found and Layout(kind, found[0], order=_order_unless_sequential(found[1], math.prod(cells)), extent=found[2])


def _is_box(defined: Tensor) -> bool:
    """Return whether the cells of a map with a known position form a box."""
    where = defined.nonzero()
    sides = where.amax(0) - where.amin(0) + 1 if len(where) else where.new_zeros(1)
    return len(where) == int(sides.prod())


def _frames_layout(coordinates: CellCoordinates) -> Layout | None:
    """Find the layout of frames along the first axis, channels first or last."""
    frames = len(coordinates.positions[0])
    for axis in (1, 0):  # channels first: the frames go behind the channels
        layout = layout_of(coordinates.rearrange(partial(_with_frame_axis, to=1 + axis)))
        if layout and layout.kind == ("channels first" if axis else "channels last"):
            return replace(layout, frames=frames)
    return None


def _with_frame_axis(coordinate: Tensor, to: int) -> Tensor:
    return coordinate[None].transpose(1, to)


def _token_layout(centres: Sequence[Tensor], sampling: Sequence[Sampling]) -> Layout | None:
    """Find the grid that the tokens of one image fill, and their order, given their centres, (1, tokens)."""
    found = _grid_order(centres, sampling)
    if not found:
        return None
    grid, order, extent = found
    count = centres[0].shape[1]
    prefix = count - len(order)
    in_rows = order == list(range(prefix, count))
    return Layout("tokens", grid, prefix, order=None if in_rows else tuple(order), extent=extent)


def _grid_order(
    positions: Sequence[Tensor], sampling: Sequence[Sampling]
) -> tuple[tuple[int, ...], list[int], Extent | None] | None:
    """Return the grid that elements of one image, (1, n), fill, the elements in reading order, and the extent."""
    found = on_grid(positions)
    if not found or math.prod(map(len, found[0])) < 2 or not all(map(_is_even, found[0])):
        return None
    cells = found[1][0]
    defined = cells.ge(0).nonzero().flatten()
    order = defined[cells[defined].argsort()].tolist()
    extent = tuple(_extent(along.tolist(), each) for along, each in zip(found[0], sampling, strict=True))
    return tuple(map(len, found[0])), order, None if all(map(_covers_image, found[0], sampling)) else extent


def _is_regular_map(
    positions: Sequence[Tensor], centres: Sequence[Tensor], grid: tuple[int, ...], sampling: Sequence[Sampling]
) -> bool:
    """Return whether the position of each cell matches its index on a grid over the whole image.

    `positions` and `centres` are (b, *grid). Cells computed from one larger cell may share its position.
    """
    for axis, (position, centre, cells) in enumerate(zip(positions, centres, grid, strict=True)):
        index = torch.arange(cells, device=position.device)[(...,) + (None,) * (len(grid) - 1 - axis)]
        if not bool(((position * cells - index - 0.5).abs() <= _REGULAR_TOLERANCE).all()):
            return False
        largest = max(1 / cells, sampling[axis].pitch)
        if bool(((centre - position).abs() > _REGULAR_TOLERANCE * largest).any()):
            return False
        if _is_partial(float(centre.min()), float(centre.max()), cells, sampling[axis]):
            return False
    return True


def _is_even(centres: Tensor) -> bool:
    """Return whether the sorted centres along an axis are evenly spaced."""
    count = len(centres)
    if count < 2:
        return True
    step = (centres[-1] - centres[0]) / (count - 1)
    even = centres[0] + step * torch.arange(count, device=centres.device, dtype=torch.float32)
    return bool(((centres - even).abs() <= _MAX_UNEVENNESS * step).all()) and float(step) * count <= _MAX_LENGTH


def _extent(centres: Sequence[float], sampling: Sampling) -> tuple[float, float]:
    """Compute where cells with these centres begin and end."""
    pitch = sampling.pitch * abs(sampling.scale)
    step = (centres[-1] - centres[0]) / (len(centres) - 1) if len(centres) > 1 else pitch
    half = 0.5 * step if math.isfinite(step) else 0.5
    return centres[0] - half, centres[-1] + half


def _covers_image(centres: Tensor, sampling: Sampling) -> bool:
    """Return whether the cells along an axis match those of an even grid over the whole image."""
    count, first, last = len(centres), float(centres[0]), float(centres[-1])
    if _is_partial(first, last, count, sampling):
        return False
    return abs(first * count - 0.5) <= _REGULAR_TOLERANCE and abs(last * count - count + 0.5) <= _REGULAR_TOLERANCE


def _is_partial(first: float, last: float, count: int, sampling: Sampling) -> bool:
    """Return whether the cells cover only a part of the image along an axis."""
    step = (last - first) / (count - 1) / abs(sampling.scale) if count > 1 else sampling.pitch
    return count * step < 1 - _MAX_MISSING * max(step, sampling.pitch)


def _order_unless_sequential(order: list[int], count: int) -> tuple[int, ...] | None:
    return None if order == list(range(count)) else tuple(order)
