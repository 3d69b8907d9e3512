"""The layout of a tensor, told by the places that its elements come from."""

from collections.abc import Sequence

import torch
from torch import Tensor

from attribkit.core.layouts import Layout
from attribkit.core.places.coordinates import Places, narrowed


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
        return _of_tokens([each[0] for each in tokens]) if tokens is not None and len(tokens[0]) == 1 else None
    return None


def _without(coordinates: Sequence[Tensor], axis: int) -> list[Tensor] | None:
    """The coordinates without an axis that they do not depend on; None if they do."""
    first = [each.select(axis, 0) for each in coordinates]
    same = all(
        each.shape[axis] == 1 or each.allclose(one.unsqueeze(axis).expand_as(each), equal_nan=True)
        for each, one in zip(coordinates, first, strict=True)
    )
    return first if same else None


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
    """The grid that tokens of one image fill, and their order."""
    placed = ~torch.stack([each.isnan() for each in coordinates]).any(0)
    columns = [each[placed] for each in coordinates]
    levels = [_levels(each) for each in columns]
    grid = tuple(len(each) for each in levels)
    if not _is_space(grid) or int(placed.sum()) != torch.Size(grid).numel():
        return None
    cell = torch.zeros_like(columns[0], dtype=torch.long)
    for each, level, cells in zip(columns, levels, grid, strict=True):
        cell = cell * cells + (each[:, None] - level).abs().argmin(1)
    if len(cell.unique()) < len(cell):
        return None
    order = placed.nonzero().flatten()[cell.argsort()].tolist()
    prefix = len(placed) - len(order)
    in_rows = order == list(range(prefix, len(placed)))
    return Layout("tokens", grid, prefix, order=None if in_rows else tuple(order))


def _levels(coordinate: Tensor) -> Tensor:
    """The different values of a coordinate, rounding aside."""
    values = coordinate.unique()  # sorted
    return values[torch.cat([torch.ones_like(values[:1], dtype=torch.bool), values.diff() > 1e-4])]
