"""[core/layouts] Where the image lies in a layer's output: channels first, channels last, or a row of tokens.
[core/placement] Where the grids of the layers that were read lie on the images.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from attribkit.core.errors import UnsupportedModel
from attribkit.core.shapes import LayerMaps

Extent = tuple[tuple[float, float], ...]  # start and end along each axis of space, 0 to 1 from edge to edge

_MOST_PREFIX_TOKENS = 5  # DINOv3 has a class token and four registers


@dataclass(frozen=True)
class Layout:
    """How to read a layer's output as channels on a grid."""

    kind: str  # "channels first", "channels last" or "tokens"
    grid: tuple[int, ...]  # cells per axis of space
    prefix: int = 0  # tokens before those of the grid: class, distillation and register tokens
    ambiguous: bool = False  # the shape alone would allow the other order of axes as well
    order: tuple[int, ...] | None = None  # of the tokens or cells, those of the grid row by row; None is as they stand
    extent: Extent | None = None  # where the grid lies on the image; None is all over it
    frames: int = 0  # entries of the first axis for each image, where that axis holds time or depth too
    inferred: bool = False  # whether the shape alone decides; where elements come from is not known

    def to_grid(self, output: Tensor) -> LayerMaps:
        """Channels first on the grid, (b, d, *grid)."""
        if self.frames:
            output = output.unflatten(0, (-1, self.frames))
            output = output.transpose(1, 2) if self.kind == "channels first" else output
        if self.kind == "tokens":
            tokens = output[:, self.prefix :] if self.order is None else output[:, self.order]
            return tokens.transpose(1, 2).unflatten(2, self.grid)
        maps = output.movedim(-1, 1) if self.kind == "channels last" else output
        return maps if self.order is None else maps.flatten(2)[..., self.order].unflatten(2, self.grid)

    def __str__(self) -> str:
        after = f" after {self.prefix} prefix" if self.prefix else ""
        order = " in an order of their own" if self.order is not None else ""
        frames = ", frames along the first axis" if self.frames else ""
        return f"{self.kind}{after}{order}{frames}"


def find_layout(
    shape: tuple[int, ...],
    space: tuple[int, ...],
    *,
    prefix_tokens: int | None = None,
    channels_last: bool = False,
    patch: tuple[int, ...] | None = None,
) -> Layout | None:
    """The layout in which an output can be a map of the image, or None where there is none or tokens allow several.

    shape: the output's, batch first; space: the image's, in pixels; prefix_tokens: None where it is not known;
    channels_last: whether the family is known for it; patch: pixels per token along each axis (their ratio counts).
    A grid is a map of the image only if one stride fits all its axes. Where both orders of four axes fit equally well,
    channels first is taken unless the family says otherwise, and the layout is marked as ambiguous.
    """
    base = tuple(pixels / side for pixels, side in zip(space, patch or (1,) * len(space), strict=True))
    if len(shape) == len(space) + 2 and math.prod(shape[2:]) > 1:  # else pooled to one cell, channels first
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
    """How unequal the strides along the axes are; infinite where no one stride gives this grid, rounded up or down.

    A first axis of three, frames or slices, may have a stride of its own; it only decides between equals.
    """
    if len(base) == 3:
        own = abs(math.log(base[0] / grid[0] / (base[1] / grid[1])))
        if max(grid[1:]) < 2 <= grid[0]:
            return 1e-6 * own if grid[0] <= base[0] else math.inf
        return _misfit(grid[1:], base[1:]) + 1e-6 * own if grid[0] <= base[0] else math.inf
    if max(grid) < 2 or min(grid) < 1 or any(cells > side for cells, side in zip(grid, base, strict=True)):
        return math.inf
    least = max(side / (cells + 1) for cells, side in zip(grid, base, strict=True))
    most = min(side / (cells - 1) for cells, side in zip(grid, base, strict=True) if cells > 1)
    strides = [side / cells for cells, side in zip(grid, base, strict=True)]
    return math.log(max(strides) / min(strides)) if least < most else math.inf


def _token_grid(count: int, base: tuple[float, ...]) -> tuple[int, ...] | None:
    """The grid of so many tokens that has the image's proportions."""
    if count < 4:
        return None
    scale = math.sqrt(math.prod(base) / count)
    grid = tuple(round(side / scale) for side in base)
    return grid if math.prod(grid) == count and _misfit(grid, base) < math.inf else None


_Grid = tuple[int, ...]


@dataclass
class Extents:
    """The extents of layers, by the names that they were asked for by; None is the default one."""

    by_layer: dict[str | None, list[tuple[_Grid, Extent | None]]] = field(default_factory=dict)

    def keep(self, layer: str | None, layout: Layout) -> None:
        """Remember where a layer's grid lies."""
        own = self.by_layer.setdefault(layer, [])
        if (layout.grid, layout.extent) not in own:
            own.append((layout.grid, layout.extent))

    def add(self, others: "Extents", layers: Iterable[str | None]) -> None:
        """Remember those of some layers as well."""
        for layer in layers:
            own = self.by_layer.setdefault(layer, [])
            own.extend(each for each in others.by_layer.get(layer, []) if each not in own)

    def of(self, layer: str | None, grid: Sequence[int] | None = None) -> Extent | None:
        """Where a layer's grid lies; None is all over the images, and for scores on another grid than its own.

        Raises UnsupportedModel where it lies elsewhere for one image than for another.
        """
        own = self.by_layer.get(layer, [])
        extents = list(dict.fromkeys(extent for cells, extent in own if grid is None or tuple(grid) == cells))
        if len(extents) > 1:
            raise UnsupportedModel(
                f"The cells of the layer lie at different parts of these images ({extents[0]} and {extents[1]}): "
                "explain one image at a time."
            )
        return extents[0] if extents else None
