"""[core/places/located] Where rows of cells lie on the image, found by derivatives: for maps whose elements could not be followed.
[core/places/checked] Where the cells of a map lie, found by derivatives: for maps whose elements could not be followed.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit.core.autograd import operation_name, reachable
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


def locate_grid(output: Tensor, image: Tensor, layout: Layout) -> Layout | None:
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


_BLOCKS = 8  # of the image along each axis
_AGREES = 0.8  # correlation between where the cells should lie and where their derivatives are
_CLOSING = {"Clamp", "ClampMax", "ClampMin", "Hardtanh", "Relu", "Threshold"}
_POOLS: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


def verify_layout(output: Tensor, image: Tensor, layout: Layout) -> Layout | None:
    """The layout that the shape suggests, or with its axes exchanged or mirrored, as the derivatives have it.

    output: in the graph of image, (1, c, *space). The gradient of a weighted sum of all cells shows which cells depend
    on a pixel; with each cell multiplied by its index along an axis, it shows their index. Costs one backward per axis,
    one more, and those of `located`. ReLUs pass all gradients, so that the result does not depend on which of them the
    image activates. Returns the layout marked as inferred if the gradient is missing or zero, and None if the order of
    the cells cannot be undone.
    """
    with _open_relus(output):
        return _checked(output, image, layout)


def _checked(output: Tensor, image: Tensor, layout: Layout) -> Layout | None:
    axes = [axis for axis, cells in enumerate(layout.grid) if cells > 1]
    found = _indices(output, image, layout, axes)
    if found is None:
        return replace(layout, inferred=True)
    centres = _centres(found, len(image.shape) - 2)
    there = found.isfinite().all(0)
    correlations = torch.corrcoef(torch.cat([found[:, there], centres[:, there]]))[: len(axes), len(axes) :]
    correlations = correlations.nan_to_num()
    nearest = correlations.abs().argmax(1).tolist()
    strength = correlations.abs().amax(1)
    if sorted(nearest) != axes or bool((strength < _AGREES).any()):
        return None
    mirrored = [axes[k] for k, axis in enumerate(nearest) if float(correlations[k, axis]) < 0]
    exchanged = list(range(len(layout.grid)))
    for k, axis in enumerate(nearest):
        exchanged[axis] = axes[k]
    layout = replace(layout, inferred=False)
    if mirrored or exchanged != sorted(exchanged):
        layout = _rearranged(layout, mirrored, exchanged, _cells(layout))
    return locate_grid(output, image, layout)


def _indices(output: Tensor, image: Tensor, layout: Layout, axes: list[int]) -> Tensor | None:
    """The index, from -1 to 1 along each axis, of the cells that see each block of the image, (axes, *blocks)."""
    if not output.requires_grad:
        return None
    like = torch.zeros(output.shape, device=output.device, requires_grad=True, dtype=torch.float32)
    with torch.enable_grad():
        on_grid = layout.to_grid(like)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(on_grid.shape[1], generator=generator, dtype=torch.float32, device="cpu")
    weights = weights.to(output.device).view(-1, *(1,) * len(layout.grid))  # equal ones cancel behind some norms
    ramps = [
        torch.ones((), device=output.device, dtype=torch.float32),
        *(_ramp(layout, axis, output.device) for axis in axes),
    ]
    derivatives: list[Tensor] = []
    for ramp in ramps:
        (direction,) = torch.autograd.grad(on_grid, like, (weights * ramp).expand_as(on_grid), retain_graph=True)
        found: Sequence[Tensor | None] = torch.autograd.grad(
            output, [image], direction.to(output), retain_graph=True, allow_unused=True
        )
        derivatives += [each.detach().float() for each in found if each is not None]
    if len(derivatives) < len(ramps):
        return None
    plain, *weighted = derivatives
    blocks = tuple(min(side, _BLOCKS) for side in image.shape[2:])
    pool = _POOLS[len(blocks)]
    energy = pool((plain * plain).sum(1), blocks)
    if not bool(energy.isfinite().all()) or float(energy.max()) == 0:
        return None
    return torch.cat([pool((each * plain).sum(1), blocks) / energy for each in weighted])


@contextmanager
def _open_relus(output: Tensor) -> Iterator[None]:
    """Let the gradient through ReLUs and clamps below an output, whatever the sign of their input."""
    nodes = [node for node in reachable(output.grad_fn) if operation_name(node) in _CLOSING]
    handles = [node.register_hook(lambda below, above: (above[0], *below[1:])) for node in nodes]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _ramp(layout: Layout, axis: int, device: torch.device) -> Tensor:
    steps = torch.linspace(-1, 1, layout.grid[axis], device=device, dtype=torch.float32)
    return steps.view(-1, *(1,) * (len(layout.grid) - 1 - axis))


def _centres(found: Tensor, axes: int) -> Tensor:
    """The centres of the blocks of the image along each axis, (axes, *blocks)."""
    along = [torch.arange(side, device=found.device, dtype=torch.float32) for side in found.shape[-axes:]]
    return torch.stack(torch.meshgrid(*along, indexing="ij"))


def _cells(layout: Layout) -> Tensor:
    """The number of each cell's element in the output, on the grid."""
    if layout.order is not None:
        return torch.tensor(layout.order, device="cpu").view(layout.grid)
    return layout.prefix + torch.arange(math.prod(layout.grid), device="cpu").view(layout.grid)


def _rearranged(layout: Layout, mirrored: list[int], exchanged: list[int], cells: Tensor) -> Layout:
    cells = cells.flip(mirrored).permute(exchanged)
    return replace(layout, grid=tuple(cells.shape), order=tuple(cells.flatten().tolist()), ambiguous=False)
