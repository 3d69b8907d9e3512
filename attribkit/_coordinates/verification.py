"""Verify layouts by derivatives, for maps whose coordinates could not be tracked."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit._core.autograd import operation_name, reachable_nodes
from attribkit._core.layouts import Layout

_ROWS = 7  # maximum number of rows along each axis
_BORDER = 0.15  # fraction of the cells along an axis to leave out at each end
_LOCAL = 1.5  # cells: largest width of the derivatives of a row with a small receptive field
_MAX_DEVIATION = 0.5  # cells by which a row with a small receptive field may deviate from an even grid
_MAX_SHIFT = 0.55  # cells, or else the width of the derivatives, by which a grid over the whole image may be shifted
_BLOCKS = 8  # number of image blocks along each axis
_MIN_CORRELATION = 0.8  # between the positions of the cells and those of their derivatives
_GATING = {"Clamp", "ClampMax", "ClampMin", "Hardtanh", "Relu", "Threshold"}
_POOLS: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


class _Row(NamedTuple):
    """The cells with one index along an axis.

    Args:
        middle: Position of the cells on the grid, 0 to 1.
        centre: Centre of the squared derivatives along the axis, as a fraction of the image.
        width: Standard deviation of the squared derivatives, as a fraction of the image.
    """

    middle: float
    centre: float
    width: float


def locate_grid(output: Tensor, image: Tensor, layout: Layout) -> Layout | None:
    """Return the layout, with the extent of the grid if it does not cover the whole image.

    Costs one backward for each of up to seven rows of cells per axis. Rows with a small receptive field determine start
    and end of the grid; rows with a large one determine only its shift.

    Args:
        output: Map in the graph of the image.
        image: One image, (1, c, *space).
        layout: Layout of the output.

    Returns:
        The layout, or None if rows with a small receptive field are not evenly spaced.
    """
    with torch.enable_grad():
        on_grid = layout.to_grid(output)
    extents = [_extent(list(_rows(on_grid, image, axis)), cells) for axis, cells in enumerate(layout.grid)]
    if None in extents:
        return None
    covers_image = all(extent == (0.0, 1.0) for extent in extents)
    return layout if covers_image else replace(layout, extent=tuple(each for each in extents if each is not None))


def _rows(on_grid: Tensor, image: Tensor, axis: int) -> Iterator[_Row]:
    """Yield evenly spaced rows of cells along an axis that depend on the image."""
    cells, side = on_grid.shape[2 + axis], image.shape[2 + axis]
    weights = torch.randn(on_grid.shape[1], generator=torch.Generator().manual_seed(0), device="cpu").to(on_grid)
    pixels = (torch.arange(side, dtype=torch.float64, device=image.device) + 0.5) / side
    for index in _spaced(cells):
        score = torch.tensordot(on_grid.select(2 + axis, index), weights, ([1], [0])).sum()
        (gradient,) = torch.autograd.grad(score, [image], retain_graph=True)
        energy = gradient.double().square().movedim(2 + axis, 0).flatten(1).sum(1)
        total = float(energy.sum())
        if math.isfinite(total) and total > 0:
            centre = float(energy @ pixels) / total
            variance = float(energy @ (pixels - centre).square()) / total
            yield _Row((index + 0.5) / cells, centre, math.sqrt(variance))


def _spaced(cells: int) -> list[int]:
    """Return the indices of evenly spaced rows, away from the borders, which cut off receptive fields."""
    first = round(cells * _BORDER)
    count = min(cells - 2 * first, _ROWS)
    return [round(first + i * (cells - 1 - 2 * first) / max(count - 1, 1)) for i in range(count)]


def _extent(rows: Sequence[_Row], cells: int) -> tuple[float, float] | None:
    """Return where the cells begin and end along an axis; (0, 1) if they cover the image within the precision."""
    if len(rows) < 2:
        return 0.0, 1.0
    width = sum(row.width for row in rows) / len(rows)
    extent = _by_line(rows, cells) if width * cells <= _LOCAL else _by_mean_shift(rows, cells)
    if extent is None or max(abs(extent[0]), abs(extent[1] - 1)) > max(_MAX_SHIFT / cells, width):
        return extent
    return 0.0, 1.0


def _by_line(rows: Sequence[_Row], cells: int) -> tuple[float, float] | None:
    """Compute start and end by a line through the centres of rows with a small receptive field."""
    indices = torch.tensor([row.middle for row in rows], dtype=torch.float64, device="cpu")
    centres = torch.tensor([row.centre for row in rows], dtype=torch.float64, device="cpu")
    start, length = torch.linalg.lstsq(torch.stack([torch.ones_like(indices), indices], 1), centres).solution.tolist()
    far = (centres - start - length * indices).abs().amax()
    return None if length <= 0 or float(far) > _MAX_DEVIATION * length / cells else (start, start + length)


def _by_mean_shift(rows: Sequence[_Row], cells: int) -> tuple[float, float]:
    """Return start and end of a grid over the whole image, shifted as the rows are on average, if all are available."""
    shift = sum(row.centre - row.middle for row in rows) / len(rows) if len(rows) == len(_spaced(cells)) else 0.0
    return shift, 1 + shift


def verify_layout(output: Tensor, image: Tensor, layout: Layout) -> Layout | None:
    """Verify by derivatives the layout that the shape suggests; correct exchanged or mirrored axes.

    The gradient of a weighted sum of all cells shows which cells depend on a pixel; with each cell multiplied by its
    index along an axis, it shows their index. Costs one backward per axis, one more, and those of `locate_grid`. ReLUs
    pass all gradients, so the result does not depend on which of them the image activates.

    Args:
        output: Map in the graph of the image.
        image: One image, (1, c, *space).
        layout: Layout that the shape suggests.

    Returns:
        The layout, marked as inferred if the gradient is missing or zero; None if the order of the cells cannot be
        undone.
    """
    with _transparent_relus(output):
        return _verified(output, image, layout)


def _verified(output: Tensor, image: Tensor, layout: Layout) -> Layout | None:
    axes = [axis for axis, cells in enumerate(layout.grid) if cells > 1]
    indices = _indices(output, image, layout, axes)
    if indices is None:
        return replace(layout, inferred=True)
    centres = _block_centres(indices, len(image.shape) - 2)
    defined = indices.isfinite().all(0)
    correlations = torch.corrcoef(torch.cat([indices[:, defined], centres[:, defined]]))[: len(axes), len(axes) :]
    correlations = correlations.nan_to_num()
    nearest = correlations.abs().argmax(1).tolist()
    strength = correlations.abs().amax(1)
    if sorted(nearest) != axes or bool((strength < _MIN_CORRELATION).any()):
        return None
    mirrored = [axes[k] for k, axis in enumerate(nearest) if float(correlations[k, axis]) < 0]
    permutation = list(range(len(layout.grid)))
    for k, axis in enumerate(nearest):
        permutation[axis] = axes[k]
    layout = replace(layout, inferred=False)
    if mirrored or permutation != sorted(permutation):
        layout = _reordered(layout, mirrored, permutation, _element_numbers(layout))
    return locate_grid(output, image, layout)


def _indices(output: Tensor, image: Tensor, layout: Layout, axes: list[int]) -> Tensor | None:
    """Compute the index, -1 to 1 along each axis, of the cells that depend on each image block, (axes, *blocks)."""
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
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            output, [image], direction.to(output), retain_graph=True, allow_unused=True
        )
        derivatives += [each.detach().float() for each in gradients if each is not None]
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
def _transparent_relus(output: Tensor) -> Iterator[None]:
    """Pass all gradients through ReLUs and clamps below an output, whatever the sign of their input."""
    nodes = [node for node in reachable_nodes(output.grad_fn) if operation_name(node) in _GATING]
    handles = [node.register_hook(lambda below, above: (above[0], *below[1:])) for node in nodes]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _ramp(layout: Layout, axis: int, device: torch.device) -> Tensor:
    steps = torch.linspace(-1, 1, layout.grid[axis], device=device, dtype=torch.float32)
    return steps.view(-1, *(1,) * (len(layout.grid) - 1 - axis))


def _block_centres(indices: Tensor, axes: int) -> Tensor:
    """Return the centres of the blocks of the image along each axis, (axes, *blocks)."""
    along = [torch.arange(side, device=indices.device, dtype=torch.float32) for side in indices.shape[-axes:]]
    return torch.stack(torch.meshgrid(*along, indexing="ij"))


def _element_numbers(layout: Layout) -> Tensor:
    """Return the number of each cell's element in the output, on the grid."""
    if layout.order is not None:
        return torch.tensor(layout.order, device="cpu").view(layout.grid)
    return layout.prefix + torch.arange(math.prod(layout.grid), device="cpu").view(layout.grid)


def _reordered(layout: Layout, mirrored: list[int], permutation: list[int], cells: Tensor) -> Layout:
    cells = cells.flip(mirrored).permute(permutation)
    return replace(layout, grid=tuple(cells.shape), order=tuple(cells.flatten().tolist()), ambiguous=False)
