"""Where the cells of a map lie, found by derivatives: for maps whose elements could not be followed."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit.core.graph import operation, reachable
from attribkit.core.layouts import Layout
from attribkit.core.places.located import located

_BLOCKS = 8  # of the image along each axis
_AGREES = 0.8  # correlation between where the cells should lie and where their derivatives are
_CLOSING = {"Clamp", "ClampMax", "ClampMin", "Hardtanh", "Relu", "Threshold"}
_POOLS: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


def checked(output: Tensor, image: Tensor, layout: Layout) -> Layout | None:
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
    return located(output, image, layout)


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
    nodes = [node for node in reachable(output.grad_fn) if operation(node) in _CLOSING]
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
