"""Layouts of layer outputs (channels first, channels last or tokens) and the image regions that their grids cover."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from attribkit._core.errors import UnsupportedModel
from attribkit._core.shapes import LayerMaps

Extent = tuple[tuple[float, float], ...]  # start and end along each spatial axis; the image reaches from 0 to 1

_MOST_PREFIX_TOKENS = 5  # DINOv3 has a class token and four registers


@dataclass(frozen=True)
class Layout:
    """The interpretation of a layer's output as channels on a spatial grid.

    Args:
        kind: "channels first", "channels last" or "tokens".
        grid: Number of grid cells along each spatial axis.
        prefix: Number of tokens before the grid tokens: class, distillation and register tokens.
        ambiguous: Whether the shape also allows the other order of axes.
        order: Indices of the tokens or grid cells in row-major order of the grid; None if stored in that order.
        extent: Region of the image that the grid covers; None means the whole image.
        frames: Number of entries of the first axis per image if that axis also holds time or depth, else 0.
        inferred: Whether the layout is inferred from the shape alone, not verified by the coordinates of the elements.
    """

    kind: str
    grid: tuple[int, ...]
    prefix: int = 0
    ambiguous: bool = False
    order: tuple[int, ...] | None = None
    extent: Extent | None = None
    frames: int = 0
    inferred: bool = False

    def to_grid(self, output: Tensor) -> LayerMaps:
        """Return the output as channels on the grid, (b, d, *grid)."""
        if self.frames:
            output = output.unflatten(0, (-1, self.frames))
            output = output.transpose(1, 2) if self.kind == "channels first" else output
        if self.kind == "tokens":
            tokens = output[:, self.prefix :] if self.order is None else output[:, self.order]
            return tokens.transpose(1, 2).unflatten(2, self.grid)
        maps = output.movedim(-1, 1) if self.kind == "channels last" else output
        return maps if self.order is None else maps.flatten(2)[..., self.order].unflatten(2, self.grid)

    def __str__(self) -> str:
        prefix = f" after {self.prefix} prefix tokens" if self.prefix else ""
        order = " in a permuted order" if self.order is not None else ""
        frames = ", frames along the first axis" if self.frames else ""
        return f"{self.kind}{prefix}{order}{frames}"


def find_layout(
    shape: tuple[int, ...],
    space: tuple[int, ...],
    *,
    prefix_tokens: int | None = None,
    channels_last: bool = False,
    patch: tuple[int, ...] | None = None,
) -> Layout | None:
    """Infer the layout of an output as a map of the image from its shape.

    A grid is a map of the image only if a single stride fits all of its axes. If channels first and channels last fit
    equally well, `channels_last` decides, and the layout is marked as ambiguous.

    Args:
        shape: Shape of the output, batch first.
        space: Sizes of the image in pixels.
        prefix_tokens: Number of tokens before the grid tokens; None if unknown.
        channels_last: Whether the architecture is known to use channels last.
        patch: Pixels per token along each axis; only their ratio matters.

    Returns:
        The layout; None if the output is not a map of the image, or if its tokens fit several grids.
    """
    base = tuple(pixels / side for pixels, side in zip(space, patch or (1,) * len(space), strict=True))
    if len(shape) == len(space) + 2 and math.prod(shape[2:]) > 1:  # a single cell is a pooled output
        orders = [Layout("channels first", shape[2:]), Layout("channels last", shape[1:-1])]
        misfits = [_misfit(layout.grid, base) for layout in orders]
        if min(misfits) < math.inf:
            tie = misfits[0] == misfits[1]
            best = orders[channels_last if tie else misfits.index(min(misfits))]
            return replace(best, ambiguous=tie)
    if len(shape) == 3 and len(base) == 2:
        prefixes = range(_MOST_PREFIX_TOKENS + 1) if prefix_tokens is None else [prefix_tokens]
        grids = [(prefix, _token_grid(shape[1] - prefix, base)) for prefix in prefixes]
        tokens = [Layout("tokens", grid, prefix) for prefix, grid in grids if grid]
        return tokens[0] if len(tokens) == 1 else None
    return None


def _misfit(grid: tuple[int, ...], base: tuple[float, ...]) -> float:
    """Return how unequal the strides along the axes are; infinite if no single stride gives this grid with rounding.

    The first of three axes (frames or slices) may have another stride, which only breaks ties.
    """
    if len(base) == 3:
        tie_breaker = 1e-6 * abs(math.log(base[0] / grid[0] / (base[1] / grid[1])))
        if max(grid[1:]) < 2 <= grid[0]:
            return tie_breaker if grid[0] <= base[0] else math.inf
        return _misfit(grid[1:], base[1:]) + tie_breaker if grid[0] <= base[0] else math.inf
    if max(grid) < 2 or min(grid) < 1 or any(cells > side for cells, side in zip(grid, base, strict=True)):
        return math.inf
    minimum = max(side / (cells + 1) for cells, side in zip(grid, base, strict=True))
    maximum = min(side / (cells - 1) for cells, side in zip(grid, base, strict=True) if cells > 1)
    strides = [side / cells for cells, side in zip(grid, base, strict=True)]
    return math.log(max(strides) / min(strides)) if minimum < maximum else math.inf


def _token_grid(count: int, base: tuple[float, ...]) -> tuple[int, ...] | None:
    """Return the grid of `count` tokens with the proportions of the image; None if there is none."""
    if count < 4:
        return None
    scale = math.sqrt(math.prod(base) / count)
    grid = tuple(round(side / scale) for side in base)
    return grid if math.prod(grid) == count and _misfit(grid, base) < math.inf else None


@dataclass
class Extents:
    """The regions of the images that the grids of layers cover.

    Args:
        by_layer: Grids and their extents by the requested name of the layer; None means the default layer.
    """

    by_layer: dict[str | None, list[tuple[tuple[int, ...], Extent | None]]] = field(default_factory=dict)

    def keep(self, layer: str | None, layout: Layout) -> None:
        """Record the extent of a layer's grid."""
        entries = self.by_layer.setdefault(layer, [])
        if (layout.grid, layout.extent) not in entries:
            entries.append((layout.grid, layout.extent))

    def add(self, others: "Extents", layers: Iterable[str | None]) -> None:
        """Add the recorded extents of some layers."""
        for layer in layers:
            entries = self.by_layer.setdefault(layer, [])
            entries.extend(entry for entry in others.by_layer.get(layer, []) if entry not in entries)

    def of(self, layer: str | None, grid: Sequence[int] | None = None) -> Extent | None:
        """Return the extent of a layer's grid; None means the whole image, or scores on another grid.

        Args:
            layer: Requested name of the layer; None means the default layer.
            grid: Grid of the scores; None means any grid of the layer.

        Raises:
            UnsupportedModel: The extent differs between images.
        """
        entries = self.by_layer.get(layer, [])
        extents = list(dict.fromkeys(extent for cells, extent in entries if grid is None or tuple(grid) == cells))
        if len(extents) > 1:
            raise UnsupportedModel(
                f"The grid of the layer covers different regions of these images ({extents[0]} and {extents[1]}). "
                "Explain one image at a time."
            )
        return extents[0] if extents else None
