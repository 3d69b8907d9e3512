"""Boxes on images: crops on a lattice, and boxes around the cells of a grid."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Extent = Sequence[tuple[float, float]]  # start and end of a grid along each axis, as fractions of the image

_STRIDE = 0.8  # of the side of a crop, as in the reference implementation


class Box(NamedTuple):
    """A rectangle of an image, in pixels; bottom and right are exclusive."""

    top: int
    bottom: int
    left: int
    right: int


def crop_sides(space: Sequence[int], fraction: float) -> tuple[int, int]:
    """Return height and width of a crop in pixels."""
    height, width = (max(1, round(side * fraction)) for side in space)
    return height, width


def lattice(space: Sequence[int], fraction: float) -> list[Box]:
    """Return the boxes of overlapping crops, evenly spaced from border to border."""
    sides = crop_sides(space, fraction)
    rows, columns = (_starts(side, crop) for side, crop in zip(space, sides, strict=True))
    return [Box(row, row + sides[0], column, column + sides[1]) for row in rows for column in columns]


def _starts(side: int, crop: int) -> list[int]:
    """Return the first pixels of crops whose distance is at most the stride."""
    steps = -(-(side - crop) // max(1, int(_STRIDE * crop)))
    return [round(step * (side - crop) / max(1, steps)) for step in range(steps + 1)]


def boxes_around_cells(grid: Sequence[int], extent: Extent | None, space: Sequence[int], fraction: float) -> list[Box]:
    """Return a box of the size of a crop around each cell of a grid, row by row, moved into the image at its border."""
    sides = crop_sides(space, fraction)
    spans = extent or ((0.0, 1.0),) * 2
    rows, columns = (
        [_around((start + (cell + 0.5) / cells * (end - start)) * side, crop, side) for cell in range(cells)]
        for cells, (start, end), side, crop in zip(grid, spans, space, sides, strict=True)
    )
    return [Box(row, row + sides[0], column, column + sides[1]) for row in rows for column in columns]


def _around(centre: float, crop: int, side: int) -> int:
    return min(max(0, round(centre - crop / 2)), side - crop)


def enlarge(image: Tensor, boxes: Sequence[Box]) -> Tensor:
    """Return the boxes of an image (1, c, h, w), each resized to the size of the image, (boxes, c, h, w)."""
    crops = torch.cat([image[..., box.top : box.bottom, box.left : box.right] for box in boxes])
    return F.interpolate(crops, size=tuple(image.shape[2:]), mode="bilinear", align_corners=False)
