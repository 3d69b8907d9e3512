"""The layout of a tensor, decided by the places that its elements come from."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from attribkit.coordinates.coordinates import (
    CellCoordinates,
    Coordinates,
    Sampling,
    distinct_values,
    is_constant_along,
    without_expanded_axes,
)
from attribkit.core.layouts import Extent, Layout

_OWN = 0.55  # of a cell; centres within that of an even grid over the image are drawn there, as all libraries do
_MISSING = 0.75  # of a cell; a grid that lacks more is a part of one
_UNEVEN = 0.3  # of a step from centre to centre
_STRETCHED = 1.3  # images; cells that would cover more are a sample of a grid, not one


def layout_of(places: CellCoordinates) -> Layout | None:
    """How to read a tensor as channels on a grid of the images; None where its places are no grid.

    The tensor is that of one image. A map has its channels first or last, and its cells may stand in any order, axes
    exchanged or mirrored; so may tokens, (b, n, d), after or between others that come from no place. Frames of a clip
    may stand along the first axis. A grid that covers a part of the image has an extent.
    """
    shape, rows = places.rows[0].shape, without_expanded_axes(places.rows)
    spread, centres = rows[1:], without_expanded_axes(places.put(rows).at_centres().rows)[1:]
    if len(shape) == len(centres) + 2:
        for kind, channels in (("channels first", 1), ("channels last", len(shape) - 1)):
            grid = tuple(shape[axis] for axis in range(1, len(shape)) if axis != channels)
            alone, even = _without(centres, channels), _without(spread, channels)
            if alone is None or even is None or math.prod(grid) < 2 or len(alone[0]) > 1:
                continue
            if _is_all_over(even, alone, grid, places.sampling):
                return Layout(kind, grid)
            if layout := _of_map(alone, kind, grid, places.sampling):
                return layout
    if len(shape) == len(centres) + 1 and len(centres) == 3 and shape[0] > 1:
        return _of_frames(places)
    if len(shape) == 3:
        tokens = _without(centres, 2)
        return _of_tokens(tokens, places.sampling) if tokens is not None and len(tokens[0]) == 1 else None
    return None


def on_grid(coordinates: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Int[Tensor, "rows tokens"]] | None:
    """The centres of a grid's cells along each axis, and the cell of each token in reading order; -1 is no place.

    coordinates: along each axis of space, (rows, tokens), NaN is no place. None where the tokens together do not fill a
    grid, or two of a row are the same cell.
    """
    placed = ~torch.stack([each.isnan() for each in coordinates]).any(0)
    if not bool(placed.any()):
        return (), torch.full_like(placed, -1, dtype=torch.long)
    centres, indices = zip(*(distinct_values(each, placed) for each in coordinates), strict=True)
    cells = torch.zeros_like(placed, dtype=torch.long)
    for along, index in zip(centres, indices, strict=True):
        cells = cells * len(along) + index
    cells = cells.where(placed, -1)
    ordered = cells.where(placed, -1 - torch.arange(cells.shape[1], device=cells.device)).sort(1).values
    twice = bool((ordered[:, 1:] == ordered[:, :-1]).any())
    full = len(cells[placed].unique()) == math.prod(map(len, centres))
    return (centres, cells) if full and not twice else None


def _without(coordinates: Coordinates, axis: int) -> list[Tensor] | None:
    """The coordinates without an axis that they do not depend on; None if they do."""
    return [each.select(axis, 0) for each in coordinates] if is_constant_along(coordinates, axis) else None


def _of_map(
    centres: Sequence[Tensor], kind: str, cells: tuple[int, ...], sampling: Sequence[Sampling]
) -> Layout | None:
    """The grid of the cells of a map; centres: (1, *cells), narrowed."""
    wide = [each.expand(1, *cells) for each in centres]
    found = _ordered([each.flatten(1) for each in wide], sampling) if _is_box(~wide[0][0].isnan()) else None
    return found and Layout(kind, found[0], order=_unless_plain(found[1], math.prod(cells)), extent=found[2])


def _is_box(placed: Tensor) -> bool:
    """Whether the cells of a map that have a place are all within a border of those that have none."""
    where = placed.nonzero()
    sides = where.amax(0) - where.amin(0) + 1 if len(where) else where.new_zeros(1)
    return len(where) == int(sides.prod())


def _of_frames(places: CellCoordinates) -> Layout | None:
    """The layout of frames along the first axis, channels first or last."""
    frames = len(places.rows[0])
    for axis in (1, 0):  # channels first: the frames go behind the channels
        layout = layout_of(places.moved(partial(_unfolded, to=1 + axis)))
        if layout and layout.kind == ("channels first" if axis else "channels last"):
            return replace(layout, frames=frames)
    return None


def _unfolded(coordinate: Tensor, to: int) -> Tensor:
    return coordinate[None].transpose(1, to)


def _of_tokens(centres: Sequence[Tensor], sampling: Sequence[Sampling]) -> Layout | None:
    """The grid that the tokens of one image fill, and their order; centres: (1, tokens)."""
    found = _ordered(centres, sampling)
    if not found:
        return None
    grid, order, extent = found
    count = centres[0].shape[1]
    prefix = count - len(order)
    in_rows = order == list(range(prefix, count))
    return Layout("tokens", grid, prefix, order=None if in_rows else tuple(order), extent=extent)


def _ordered(
    coordinates: Sequence[Tensor], sampling: Sequence[Sampling]
) -> tuple[tuple[int, ...], list[int], Extent | None] | None:
    """The grid that elements of one image, (1, n), fill, the elements row by row, and where the grid lies."""
    found = on_grid(coordinates)
    if not found or math.prod(map(len, found[0])) < 2 or not all(map(_is_even, found[0])):
        return None
    cells = found[1][0]
    placed = cells.ge(0).nonzero().flatten()
    order = placed[cells[placed].argsort()].tolist()
    extent = tuple(_extent(along.tolist(), each) for along, each in zip(found[0], sampling, strict=True))
    return tuple(map(len, found[0])), order, None if all(map(_is_own, found[0], sampling)) else extent


def _is_all_over(
    spread: Sequence[Tensor], centres: Sequence[Tensor], grid: tuple[int, ...], sampling: Sequence[Sampling]
) -> bool:
    """Whether each cell lies where its index puts it on a grid over the whole image.

    spread, centres: coordinates and centres, (b, *grid). Cells that were made of a larger one may share its place.
    """
    for axis, (even, centre, cells) in enumerate(zip(spread, centres, grid, strict=True)):
        index = torch.arange(cells, device=even.device)[(...,) + (None,) * (len(grid) - 1 - axis)]
        if not bool(((even * cells - index - 0.5).abs() <= _OWN).all()):
            return False
        largest = max(1 / cells, sampling[axis].pitch)
        if bool(((centre - even).abs() > _OWN * largest).any()):
            return False
        if _is_part(float(centre.min()), float(centre.max()), cells, sampling[axis]):
            return False
    return True


def _is_even(centres: Tensor) -> bool:
    """Whether the centres along an axis, in order, stand in equal steps."""
    count = len(centres)
    if count < 2:
        return True
    step = (centres[-1] - centres[0]) / (count - 1)
    even = centres[0] + step * torch.arange(count, device=centres.device, dtype=torch.float32)
    return bool(((centres - even).abs() <= _UNEVEN * step).all()) and float(step) * count <= _STRETCHED


def _extent(centres: Sequence[float], sampling: Sampling) -> tuple[float, float]:
    """Where cells with these centres begin and end."""
    pitch = sampling.pitch * abs(sampling.scale)
    step = (centres[-1] - centres[0]) / (len(centres) - 1) if len(centres) > 1 else pitch
    half = 0.5 * step if math.isfinite(step) else 0.5
    return centres[0] - half, centres[-1] + half


def _is_own(centres: Tensor, sampling: Sampling) -> bool:
    """Whether the cells along an axis lie close enough to those of as many over the whole image."""
    count, first, last = len(centres), float(centres[0]), float(centres[-1])
    if _is_part(first, last, count, sampling):
        return False
    return abs(first * count - 0.5) <= _OWN and abs(last * count - count + 0.5) <= _OWN


def _is_part(first: float, last: float, count: int, sampling: Sampling) -> bool:
    """Whether so many cells are less than the image has along an axis."""
    step = (last - first) / (count - 1) / abs(sampling.scale) if count > 1 else sampling.pitch
    return count * step < 1 - _MISSING * max(step, sampling.pitch)


def _unless_plain(order: list[int], count: int) -> tuple[int, ...] | None:
    return None if order == list(range(count)) else tuple(order)
