"""The layout of a tensor, told by the places that its elements come from."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from attribkit.core.layouts import Layout
from attribkit.core.places.coordinates import Coordinates, Places, clustered, narrowed, unchanging


def layout_of(places: Places) -> Layout | None:
    """How to read a tensor as channels on a grid of the images; None where its places are no grid.

    A map has its grid's axes in order, channels first or last; tokens, (b, n, d), may stand in any order, after or
    between others that come from no place.
    """
    shape, axes = places.rows[0].shape, narrowed(places.rows)[1:]
    if len(shape) == len(axes) + 2:
        for kind, channels in (("channels first", 1), ("channels last", len(shape) - 1)):
            grid = tuple(shape[axis] for axis in range(1, len(shape)) if axis != channels)
            alone = _without(axes, channels)
            if alone is not None and _is_grid(alone, grid):
                return Layout(kind, grid)
    if len(shape) == 3:
        tokens = _without(axes, 2)
        return _of_tokens(tokens) if tokens is not None and len(tokens[0]) == 1 else None
    return None


def on_grid(coordinates: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Int[Tensor, "rows tokens"]] | None:
    """The centres of a grid's cells along each axis, and the cell of each token in reading order; -1 is no place.

    coordinates: along each axis of space, (rows, tokens), NaN is no place. None where the tokens together do not fill a
    grid, or two of a row are the same cell.
    """
    placed = ~torch.stack([each.isnan() for each in coordinates]).any(0)
    if not bool(placed.any()):
        return (), torch.full_like(placed, -1, dtype=torch.long)
    centres, indices = zip(*(clustered(each, placed) for each in coordinates), strict=True)
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
    return [each.select(axis, 0) for each in coordinates] if unchanging(coordinates, axis) else None


def _is_grid(coordinates: Sequence[Tensor], grid: tuple[int, ...]) -> bool:
    """Whether each cell (b, *grid) lies where its index says."""
    if not _is_space(grid):
        return False
    for axis, (coordinate, cells) in enumerate(zip(coordinates, grid, strict=True)):
        index = torch.arange(cells, device=coordinate.device)
        index = index[(...,) + (None,) * (len(grid) - 1 - axis)]
        found = (coordinate * cells).floor()
        if not bool((found == index).all()):
            return False
    return True


def _is_space(grid: tuple[int, ...]) -> bool:
    """Whether there are two cells along each axis; the first of three, of frames or slices, may have one."""
    return min(grid[-2:], default=0) >= 2


def _of_tokens(coordinates: Sequence[Tensor]) -> Layout | None:
    """The grid that the tokens of one image fill, and their order; coordinates: (1, tokens)."""
    found = on_grid(coordinates)
    grid = tuple(map(len, found[0])) if found else ()
    if found is None or not _is_space(grid):
        return None
    cells = found[1][0]
    placed = cells.ge(0).nonzero().flatten()
    order = placed[cells[placed].argsort()].tolist()
    prefix = len(cells) - len(order)
    in_rows = order == list(range(prefix, len(cells)))
    return Layout("tokens", grid, prefix, order=None if in_rows else tuple(order))
