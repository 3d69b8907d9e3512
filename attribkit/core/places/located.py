"""Where rows of cells lie on the image, found by derivatives: for maps whose elements could not be followed."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from attribkit.core.layouts import Layout

_ROWS = 7  # along each axis, at most
_BORDER = 0.15  # share of the cells along an axis, at each end, that are left out
_LOCAL = 1.5  # cells: the width of the derivatives of a row that looks at little more than its own pixels
_UNEVEN = 0.5  # cells by which a local row may lie beside an even grid
_MOVED = 0.55  # cells, or else the width of the derivatives, by which a grid may lie beside one over the whole image


class _Row(NamedTuple):
    """The cells with one index along an axis; lengths are shares of the image."""

    middle: float  # of the cells on the grid, 0 to 1
    centre: float  # of the squares of the derivatives along the axis
    width: float  # their standard deviation


def located(output: Tensor, image: Tensor, layout: Layout) -> Layout | None:
    """Return the layout, with the extent of the grid if it does not cover the whole image.

    output: in the graph of image, (1, c, *space). Costs one backward for each of up to seven rows of cells per axis.
    Rows with a small receptive field determine start and end of the grid; rows with a large one only its shift. Returns
    None if rows with a small receptive field are not evenly spaced.
    """
    with torch.enable_grad():
        on_grid = layout.to_grid(output)
    extents = [_extent(list(_rows(on_grid, image, axis)), cells) for axis, cells in enumerate(layout.grid)]
    if None in extents:
        return None
    whole = all(extent == (0.0, 1.0) for extent in extents)
    return layout if whole else replace(layout, extent=tuple(each for each in extents if each is not None))


def _rows(on_grid: Tensor, image: Tensor, axis: int) -> Iterator[_Row]:
    """Some rows of cells along an axis, from the first to the last, that depend on the image."""
    cells, side = on_grid.shape[2 + axis], image.shape[2 + axis]
    weights = torch.randn(on_grid.shape[1], generator=torch.Generator().manual_seed(0), device="cpu").to(on_grid)
    shares = (torch.arange(side, dtype=torch.float64, device=image.device) + 0.5) / side
    for index in _spaced(cells):
        score = torch.tensordot(on_grid.select(2 + axis, index), weights, ([1], [0])).sum()
        (gradient,) = torch.autograd.grad(score, [image], retain_graph=True)
        energy = gradient.double().square().movedim(2 + axis, 0).flatten(1).sum(1)
        total = float(energy.sum())
        if math.isfinite(total) and total > 0:
            centre = float(energy @ shares) / total
            variance = float(energy @ (shares - centre).square()) / total
            yield _Row((index + 0.5) / cells, centre, math.sqrt(variance))


def _spaced(cells: int) -> list[int]:
    """The indices of rows evenly spaced, and away from the borders, which cut off what a row looks at."""
    first = round(cells * _BORDER)
    count = min(cells - 2 * first, _ROWS)
    return [round(first + i * (cells - 1 - 2 * first) / max(count - 1, 1)) for i in range(count)]


def _extent(rows: Sequence[_Row], cells: int) -> tuple[float, float] | None:
    """Return where the cells begin and end along an axis; (0, 1) if they cover the image within the precision."""
    if len(rows) < 2:
        return 0.0, 1.0
    width = sum(row.width for row in rows) / len(rows)
    found = _by_line(rows, cells) if width * cells <= _LOCAL else _by_their_mean(rows, cells)
    if found is None or max(abs(found[0]), abs(found[1] - 1)) > max(_MOVED / cells, width):
        return found
    return 0.0, 1.0


def _by_line(rows: Sequence[_Row], cells: int) -> tuple[float, float] | None:
    """Start and end, by the line through the centres of local rows."""
    indices = torch.tensor([row.middle for row in rows], dtype=torch.float64, device="cpu")
    centres = torch.tensor([row.centre for row in rows], dtype=torch.float64, device="cpu")
    start, length = torch.linalg.lstsq(torch.stack([torch.ones_like(indices), indices], 1), centres).solution.tolist()
    far = (centres - start - length * indices).abs().amax()
    return None if length <= 0 or float(far) > _UNEVEN * length / cells else (start, start + length)


def _by_their_mean(rows: Sequence[_Row], cells: int) -> tuple[float, float]:
    """The grid over the whole image, moved by as much as all rows are, if all are seen."""
    moved = sum(row.centre - row.middle for row in rows) / len(rows) if len(rows) == len(_spaced(cells)) else 0.0
    return moved, 1 + moved
