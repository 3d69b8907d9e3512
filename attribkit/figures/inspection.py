"""Filters, feature maps and receptive fields as figures."""

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.pictures import SEQUENTIAL, scaled, stretched
from attribkit.core.shapes import Picture
from attribkit.figures.grid import Cell, grid, tiled
from attribkit.inspection.feature_maps import FeatureMaps, Filters
from attribkit.inspection.receptive_field import ReceptiveField

_LARGE = 2.6  # inches, side of a cell that holds tiles
_BOX = 2  # pixels of the analytic field's frame, in a picture of 224


def draw_filters(filters: Filters, most: int = 64) -> Figure:
    """A tile for each of the first filters, `most` of them; the title says how many are left out.

    Each is scaled by its own largest magnitude, zero is mid grey. Filters that see three channels are drawn in red,
    green and blue; others as the mean over their channels.
    """
    return grid([[_filter_cell(filters, most)]], side=_LARGE)


def draw_feature_maps(maps: FeatureMaps, most: int = 8) -> Figure:
    """A row for each image: the picture, then its channels with the largest mean activation, the largest first.

    Each map is scaled for itself; zero and less are black.
    """
    _check_flat(maps.x)
    rows = []
    for i, picture in enumerate(stretched(maps.x)):
        channels = _strongest(maps, i, most)
        rows.append([Cell(picture), *(Cell(_heat(maps.values[i, k]), title=f"channel {k}") for k in channels)])
    return grid(rows, caption=_of_how_many(maps, most))


def draw_receptive_field(field: ReceptiveField) -> Figure:
    """The effective field as a heatmap, framed by the analytic field of the same unit; the caption has the sizes."""
    return grid([[_field_cell(field)]], caption=_sizes(field), side=_LARGE)


def draw_inspection(
    maps: FeatureMaps, field: ReceptiveField, filters: Filters | None = None, picture: Picture | None = None
) -> Figure:
    """One layer in a row: the picture, the filters if it has such, the feature maps of the first image, and the field.

    picture: (h, w, 3) bytes; None stretches the image.
    """
    _check_flat(maps.x)
    shown = stretched(maps.x)[0] if picture is None else picture
    tiles = [_heat(maps.values[0, k]) for k in _strongest(maps, 0, 36)]
    cells = [
        Cell(shown, title="image"),
        *([_filter_cell(filters, 64)] if filters else []),
        Cell(tiled(tiles), title=f"the {len(tiles)} strongest of {maps.values.shape[1]} feature maps"),
        _field_cell(field),
    ]
    return grid([cells], caption=f"{maps.layer}\n{_sizes(field)}", side=_LARGE)


def _filter_cell(filters: Filters, most: int) -> Cell:
    if filters.weights.ndim != 4:
        raise InvalidInput(
            f"The kernels of {filters.layer!r} have the shape {tuple(filters.weights.shape)}, and tiles show those of "
            "two axes: draw slices of Filters.weights yourself."
        )
    count = len(filters.weights)
    told = f"{min(most, count)} of {count}" if most < count else f"{count}"
    return Cell(tiled([_filter_tile(each) for each in filters.weights[:most]]), title=f"{told} filters")


def _filter_tile(weights: Float[Tensor, "channels h w"]) -> Picture:
    """Zero is mid grey, the largest magnitude black or white."""
    seen = weights.double() if len(weights) == 3 else weights.double().mean(0, keepdim=True).expand(3, -1, -1)
    levels = 127.5 + 127.5 * seen / seen.abs().max().clamp(min=1e-12)
    return levels.round().byte().permute(1, 2, 0).cpu().numpy()


def _strongest(maps: FeatureMaps, image: int, most: int) -> list[int]:
    """The channels of the largest mean activation."""
    order: list[int] = maps.values[image].flatten(1).mean(1).argsort(descending=True)[:most].tolist()
    return order


def _of_how_many(maps: FeatureMaps, most: int) -> str:
    count = maps.values.shape[1]
    return f"{maps.layer}: the {min(most, count)} of {count} channels with the largest mean activation"


def _heat(values: Float[Tensor, "h w"]) -> Picture:
    colours = colormaps[SEQUENTIAL](scaled(values.clamp(min=0)))[..., :3]
    return np.round(255 * colours).astype(np.uint8)


def _field_cell(field: ReceptiveField) -> Cell:
    if field.effective.ndim != 2:
        raise InvalidInput(
            f"The receptive field of {field.layer!r} has {field.effective.ndim} axes of space, and a figure shows two: "
            "draw slices of ReceptiveField.effective yourself."
        )
    picture = _heat(field.effective.sqrt())
    if field.box is not None:
        (top, bottom), (left, right) = field.box
        edge = max(1, _BOX * max(picture.shape[:2]) // 224)
        frame = np.zeros(picture.shape[:2], bool)
        frame[max(0, top - edge) : bottom + edge, max(0, left - edge) : right + edge] = True
        frame[top:bottom, left:right] = False
        picture[frame] = 255
    return Cell(picture, title=f"what unit {', '.join(map(str, field.unit))} sees")


def _sizes(field: ReceptiveField) -> str:
    """The analytic field in words, and how much of it the effective one fills."""
    held = field.pixels()
    if field.whole_image_because:
        analytic = f"analytic field: the whole image, through {field.whole_image_because}"
    elif field.size is None:
        analytic = f"analytic field unknown: {field.unknown_because}"
    else:
        whole = field.box is not None and tuple(end - first for first, end in field.box) == field.size
        shown = "framed" if whole else "more than lies inside of the image"
        analytic = f"analytic field: {'x'.join(map(str, field.size))} pixels, {shown}"
    return f"{analytic}\n95 % of the gradient (drawn as its root) lies in {held} pixels"


def _check_flat(x: Tensor) -> None:
    if x.ndim != 4:
        raise InvalidInput(
            f"A figure shows feature maps of images (b, c, h, w), got {tuple(x.shape)}: take sections of "
            "FeatureMaps.values yourself."
        )
