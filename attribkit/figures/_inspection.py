"""Figures of filters, feature maps and receptive fields."""

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from torch import Tensor

from attribkit._core.errors import InvalidInput
from attribkit._core.pictures import ACTIVATIONS, scale_for_display, to_pictures
from attribkit._core.shapes import Picture
from attribkit._inspection.feature_maps import FeatureMaps, Filters
from attribkit._inspection.receptive_field import ReceptiveField
from attribkit.figures._files import PaperFigure
from attribkit.figures._grid import Cell, check_count, grid, tile_pictures

_LARGE = 2.6  # inches, side of a cell that holds tiles
_FRAME = 2  # pixels, width of the analytic field's frame in a picture of 224


def filters(filters: Filters, max_filters: int = 64) -> PaperFigure:
    """Draw a tile for each of the first filters; the title states their number.

    Each filter is scaled by its largest magnitude, with zero as mid-grey. Filters of three channels are drawn in red,
    green and blue, others as the mean over their channels.

    Args:
        filters: The filters of a layer with two spatial axes.
        max_filters: Maximum number of filters that are drawn.
    """
    check_count("max_filters", max_filters)
    return grid([[_filter_cell(filters, max_filters)]], side=_LARGE)


def feature_maps(maps: FeatureMaps, max_channels: int = 8) -> PaperFigure:
    """Draw a row for each image: the picture, then its channels by decreasing mean activation.

    Each map has its own scale; zero and negative values are black.

    Args:
        maps: The feature maps of images (b, c, h, w).
        max_channels: Maximum number of channels that are drawn for each image.
    """
    _check_two_axes(maps.x)
    rows = []
    for i, picture in enumerate(to_pictures(maps.x)):
        channels = _strongest(maps, i, max_channels)
        rows.append([Cell(picture), *(Cell(_colour(maps.values[i, k]), title=f"channel {k}") for k in channels)])
    return grid(rows, caption=_channels_caption(maps, max_channels))


def receptive_field(field: ReceptiveField) -> PaperFigure:
    """Draw the effective field as a heatmap, framed by the analytic field of the same unit; the caption has sizes."""
    return grid([[_field_cell(field)]], caption=_sizes_caption(field), side=_LARGE)


def inspection(
    maps: FeatureMaps, field: ReceptiveField, filters: Filters | None = None, picture: Picture | None = None
) -> PaperFigure:
    """Draw one layer in a row: the image, its filters, the feature maps of the first image, and the receptive field.

    Args:
        maps: Feature maps of the layer, of images (b, c, h, w).
        field: Receptive field of a unit of the layer.
        filters: Filters of the layer; None if it does not have any.
        picture: Picture of the first image, (h, w, 3) bytes; None uses the image, with its values scaled to 0 to 255.
    """
    _check_two_axes(maps.x)
    picture = to_pictures(maps.x)[0] if picture is None else picture
    tiles = [_colour(maps.values[0, k]) for k in _strongest(maps, 0, 36)]
    cells = [
        Cell(picture, title="image"),
        *([_filter_cell(filters, 64)] if filters else []),
        Cell(tile_pictures(tiles), title=f"the {len(tiles)} strongest of {maps.values.shape[1]} feature maps"),
        _field_cell(field),
    ]
    return grid([cells], caption=f"{maps.layer}\n{_sizes_caption(field)}", side=_LARGE)


def _filter_cell(filters: Filters, max_filters: int) -> Cell:
    if filters.weights.ndim != 4:
        raise InvalidInput(
            f"Only kernels with two spatial axes can be drawn, got weights of shape {tuple(filters.weights.shape)} of "
            f"{filters.layer!r}: draw slices of Filters.weights yourself."
        )
    count = len(filters.weights)
    number = f"{min(max_filters, count)} of {count}" if max_filters < count else f"{count}"
    tiles = [_filter_tile(each) for each in filters.weights[:max_filters]]
    return Cell(tile_pictures(tiles), title=f"{number} filters")


def _filter_tile(weights: Float[Tensor, "channels h w"]) -> Picture:
    """Draw zero as mid-grey, and the largest magnitude as black or white."""
    colours = weights.double() if len(weights) == 3 else weights.double().mean(0, keepdim=True).expand(3, -1, -1)
    levels = 127.5 + 127.5 * colours / colours.abs().max().clamp(min=1e-12)
    return levels.round().byte().permute(1, 2, 0).cpu().numpy()


def _strongest(maps: FeatureMaps, image: int, max_channels: int) -> list[int]:
    """Return the channels by decreasing mean activation."""
    order: list[int] = maps.values[image].flatten(1).mean(1).argsort(descending=True)[:max_channels].tolist()
    return order


def _channels_caption(maps: FeatureMaps, max_channels: int) -> str:
    count = maps.values.shape[1]
    return f"{maps.layer}: the {min(max_channels, count)} of {count} channels with the largest mean activation"


def _colour(values: Float[Tensor, "h w"]) -> Picture:
    colours = colormaps[ACTIVATIONS](scale_for_display(values.clamp(min=0)))[..., :3]
    return np.round(255 * colours).astype(np.uint8)


def _field_cell(field: ReceptiveField) -> Cell:
    if field.effective.ndim != 2:
        raise InvalidInput(
            f"Only receptive fields with two spatial axes can be drawn, got {field.effective.ndim} axes for "
            f"{field.layer!r}: draw slices of ReceptiveField.effective yourself."
        )
    picture = _colour(field.effective.sqrt())
    if field.box is not None:
        (top, bottom), (left, right) = field.box
        edge = max(1, _FRAME * max(picture.shape[:2]) // 224)
        frame = np.zeros(picture.shape[:2], bool)
        frame[max(0, top - edge) : bottom + edge, max(0, left - edge) : right + edge] = True
        frame[top:bottom, left:right] = False
        picture[frame] = 255
    return Cell(picture, title=f"receptive field of unit {', '.join(map(str, field.unit))}")


def _sizes_caption(field: ReceptiveField) -> str:
    """Describe the sizes of the analytic and of the effective field."""
    effective_pixels = field.pixels()
    if field.whole_image_because:
        analytic = f"analytic field: the whole image, through {field.whole_image_because}"
    elif field.size is None:
        analytic = f"analytic field unknown: {field.unknown_because}"
    else:
        inside = field.box is not None and tuple(end - first for first, end in field.box) == field.size
        remark = "framed" if inside else "extends beyond the image"
        analytic = f"analytic field: {'x'.join(map(str, field.size))} pixels, {remark}"
    return f"{analytic}\n95 % of the gradient (drawn as its square root) is in {effective_pixels} pixels"


def _check_two_axes(x: Tensor) -> None:
    if x.ndim != 4:
        raise InvalidInput(
            f"Only feature maps of images (b, c, h, w) can be drawn, got images of shape {tuple(x.shape)}: draw "
            "sections of FeatureMaps.values yourself."
        )
