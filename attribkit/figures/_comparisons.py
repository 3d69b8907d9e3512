"""Figures of maps in columns: layers, classes, two models, and the heads of attention layers."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attribkit._contracts.attribution import Attribution, resize_map
from attribkit._contracts.records import Recorded, recorded
from attribkit._core.errors import InvalidInput
from attribkit._core.layouts import Extent
from attribkit._core.pictures import to_pictures
from attribkit._core.shapes import Images, Picture
from attribkit._display.representations import short_value
from attribkit._tracing.attention import AttentionLayer
from attribkit._tracing.attention_grid import Tokens
from attribkit.figures._figure import (
    as_attribution_list,
    caption,
    display_name,
    displayed_pictures,
    figure,
    target_title,
)
from attribkit.figures._files import PaperFigure
from attribkit.figures._grid import Cell, Scale, check_count, grid

_COLUMNS = 6  # overlays in a row


def overlay(
    attribution: Attribution,
    *,
    pictures: Sequence[Picture] | None = None,
    titles: Sequence[str] = (),
    columns: int = _COLUMNS,
    width: float | str | None = None,
    scale: Scale = "each",
    note: str | None = None,
) -> PaperFigure:
    """Draw the overlays of many images in rows, without the photographs.

    Args:
        attribution: Attribution of images (b, c, h, w).
        pictures: As in `figure`.
        titles: Title of each image, above it.
        columns: Number of overlays in a row.
        width: As in `figure`.
        scale: As in `figure`.
        note: As in `figure`.

    Returns:
        The figure; write it with its method ``save``.

    Raises:
        InvalidInput: If the pictures do not fit the images, or `columns` is not positive.
    """
    (attribution,) = as_attribution_list(attribution, axes=4)
    check_count("columns", columns)
    shown = displayed_pictures(attribution, pictures)
    labels = [*titles, *[""] * len(shown)]
    cells = [
        Cell(picture, one.heatmap(size=picture.shape[:2])[0], title=title)
        for picture, one, title in zip(shown, attribution, labels, strict=False)
    ]
    wide = min(columns, len(cells))
    blank = Cell(np.full_like(shown[0], 255))
    cells += [blank] * (-len(cells) % wide)
    rows = [cells[start : start + wide] for start in range(0, len(cells), wide)]
    text = caption([attribution]) if note is None else note
    return grid(rows, caption=text, width=width, scale=scale)


def layers(attributions: Sequence[Attribution], **options: Any) -> PaperFigure:
    """Draw the maps of one method at several layers, a column for each layer.

    Args:
        attributions: Attributions of the same images by one method with different values of its option `layer`.
        **options: Options of `figure`, such as `pictures`, `titles` and `width`.

    Returns:
        The figure; write it with its method ``save``.

    Raises:
        InvalidInput: If the attributions are not by one method that has an option `layer`, or an option is not valid.

    Example:
        >>> maps = [explainer.attribute(x, "gradcam", layer=name) for name in ("layer1", "layer2", "layer3", "layer4")]
        >>> layers(maps, width="cvpr").save("layers.pdf")
    """
    attributions = as_attribution_list(attributions, axes=4)
    _check_one_method(attributions, "layers")
    names = [_layer(each) for each in attributions]
    text = caption([replace(each, method=_without_layer(each)) for each in attributions])
    return figure(attributions, **({"names": names, "note": text} | options))


def _without_layer(attribution: Attribution) -> Recorded:
    """Return the record of the method without its layer, which the title of the column states."""
    record = recorded(attribution.method)
    return replace(record, options=tuple(each for each in record.options if not each.startswith("layer=")))


def _check_one_method(attributions: Sequence[Attribution], what: str) -> None:
    names = list(dict.fromkeys(display_name(each) for each in attributions))
    if len(names) > 1:
        raise InvalidInput(f"{what} compares maps of one method, got maps of {', '.join(names)}: use figure for these.")


def _layer(attribution: Attribution) -> str:
    """Return the name of the layer that the method read."""
    record = recorded(attribution.method)
    if "layer=" not in record.text:
        raise InvalidInput(f"layers compares maps of a method with the option layer, got a map of {record!r}.")
    layers = [each.removeprefix("layer=") for each in record.options if each.startswith("layer=")]
    return layers[0].strip("'\"") if layers else "default layer"


def classes(attributions: Sequence[Attribution], labels: Sequence[str] | None = None, **options: Any) -> PaperFigure:
    """Draw the maps of one method for several classes, a column for each class, with one scale for each image.

    Args:
        attributions: Attributions of the same images by one method for different targets, such as classes and a
            `Contrast` of two of them.
        labels: Names of all classes of the model, by index; None uses "class 3".
        **options: Options of `figure`, such as `pictures`, `titles` and `width`.

    Returns:
        The figure; write it with its method ``save``.

    Raises:
        InvalidInput: If the attributions are not by one method, or an option is not valid.

    Example:
        >>> targets = [281, 207, Contrast(281, 207)]
        >>> classes(explainer.compare(x, ["gradcam"], targets=targets), labels, width="cvpr").save("classes.pdf")
    """
    attributions = as_attribution_list(attributions, axes=4)
    _check_one_method(attributions, "classes")
    names = [_shared_title(each, labels) for each in attributions]
    return figure(attributions, **({"names": names, "scale": "row"} | options))


def _shared_title(attribution: Attribution, labels: Sequence[str] | None) -> str:
    """Return what the maps are for, if it is the same for all images, or the repr of the target."""
    titles = {target_title(attribution.target, i, labels) for i in range(len(attribution))}
    return titles.pop() if len(titles) == 1 else short_value(attribution.target)


def before_after(
    before: Attribution, after: Attribution, *, names: Sequence[str] = ("before", "after"), **options: Any
) -> PaperFigure:
    """Draw the maps of two models or checkpoints and their difference, with one scale for each image.

    Args:
        before: Attribution by one method for the first model.
        after: Attribution of the same images by the same method for the second model.
        names: Names of the two models.
        **options: Options of `figure`, such as `pictures`, `titles` and `width`.

    Returns:
        The figure; write it with its method ``save``.

    Raises:
        InvalidInput: If the attributions are not of the same images by one method, or an option is not valid.

    Example:
        >>> maps = [Explainer(model).attribute(x, "gradcam", target=3) for model in (pretrained, finetuned)]
        >>> before_after(*maps, width="cvpr").save("finetuning.pdf")
    """
    first, second = as_attribution_list([before, after], axes=4)
    _check_one_method([first, second], "before_after")
    if not torch.equal(first.x.cpu(), second.x.cpu()):
        raise InvalidInput("before_after compares maps of the same images, but the images x of both differ.")
    if repr(first.target) != repr(second.target):
        raise InvalidInput(
            f"before_after compares maps for the same class, got {short_value(first.target)} and "
            f"{short_value(second.target)}: pass target=... to both calls of attribute."
        )
    scores = second.heatmap()[:, None] - first.heatmap().to(second.scores)[:, None]
    difference = replace(second, scores=scores, extent=None)
    titles = [*names, f"{names[1]} \N{MINUS SIGN} {names[0]}"]
    text = f"{caption([first, second])}\nScores of different architectures may have different units."
    return figure([first, second, difference], **({"names": titles, "scale": "row", "note": text} | options))


def attention(
    attention_layers: Sequence[AttentionLayer],
    x: Images,
    *,
    query: int | Sequence[int] = 0,
    image: int = 0,
    heads: Sequence[int] | None = None,
    picture: Picture | None = None,
    width: float | str | None = None,
    scale: Scale = "row",
) -> PaperFigure:
    """Draw where one query attends: a row for each layer, a column for each head and for the mean of all heads.

    A query with a position on the image is framed.

    Args:
        attention_layers: Layers of ``explainer.attention(x)``, all or some.
        x: The images, (b, c, h, w).
        query: A cell of the queries' grid, such as (row, column), or the number of a token without a position: 0 is the
            class token of most models.
        image: Index of the image.
        heads: Heads to draw; None draws all.
        picture: Picture to draw, (h, w, 3) bytes; None uses x, with its values scaled to 0 to 255.
        width: As in `figure`.
        scale: As in `figure`.

    Returns:
        The figure; write it with its method ``save``.

    Raises:
        InvalidInput: If there are not any layers, or image, heads or query do not exist.

    Example:
        >>> found = explainer.attention(x)
        >>> attention(found[-3:], x, query=(3, 5), width="neurips").save("attention.pdf")
    """
    chosen = list(attention_layers)
    query = query if isinstance(query, int) else tuple(query)
    if not chosen or x.ndim != 4 or not -len(x) <= image < len(x):
        raise InvalidInput(
            f"attention needs at least one layer and an image of x, (b, c, h, w), got {len(chosen)} layers, x of shape "
            f"{tuple(x.shape)} and image {image}."
        )
    shown = to_pictures(x)[image] if picture is None else picture
    numbers = _heads(chosen, heads)
    rows = [_attention_row(layer, query, image, numbers, shown) for layer in chosen]
    columns = [f"head {number}" for number in numbers]
    return grid(
        rows,
        row_titles=[layer.name for layer in chosen],
        column_titles=["query" if isinstance(query, tuple) else "", *columns, "mean of all heads"],
        caption=f"Attention of {_query_name(query)} to the image.",
        width=width,
        scale=scale,
        quantity="attention",
    )


def _heads(layers: Sequence[AttentionLayer], heads: Sequence[int] | None) -> list[int]:
    """Return the heads to draw, which each layer must have."""
    fewest = min(layer.windows.shape[2] for layer in layers)
    most = max(layer.windows.shape[2] for layer in layers)
    numbers = list(range(most)) if heads is None else list(heads)
    if any(not 0 <= number < fewest for number in numbers):
        raise InvalidInput(
            f"The layers have {fewest} to {most} heads, got heads {numbers}: select heads that all layers have."
        )
    return numbers


def _attention_row(
    layer: AttentionLayer, query: int | tuple[int, ...], image: int, heads: Sequence[int], picture: Picture
) -> list[Cell]:
    maps = layer.attention_from(query)[image]
    maps = torch.cat([maps[list(heads)], maps.mean(0, keepdim=True)])
    size, extent = picture.shape[:2], _extent(layer.keys)
    overlays = resize_map(maps[:, None].float(), size, extent)[:, 0]
    frame = _cell_box(layer.queries, query, size) if isinstance(query, tuple) else None
    return [Cell(picture, boxes=frame), *(Cell(picture, each, boxes=frame) for each in overlays)]


def _extent(tokens: Tokens) -> Extent | None:
    """Return the part of the image that the cells of a grid cover; None if a centre is unknown."""
    edges = [_edges(centres) for centres in tokens.centres]
    return None if any(each is None for each in edges) else tuple((each[0], each[-1]) for each in edges if each)


def _edges(centres: Tensor) -> list[float] | None:
    """Return the edges of cells with these centres along an axis, halfway between neighbours."""
    values = centres.tolist()
    if len(values) < 2:
        return [0.0, 1.0]
    middles = [(low + high) / 2 for low, high in pairwise(values)]
    return [2 * values[0] - middles[0], *middles, 2 * values[-1] - middles[-1]]


def _cell_box(tokens: Tokens, cell: tuple[int, ...], size: tuple[int, ...]) -> Float[Tensor, "1 4"] | None:
    """Return the box of a grid cell in pixels: left, top, right and bottom."""
    edges = [_edges(centres) for centres in tokens.centres]
    if len(edges) != 2 or edges[0] is None or edges[1] is None:
        return None
    (top, bottom), (left, right) = ((axis[i], axis[i + 1]) for axis, i in zip((edges[0], edges[1]), cell, strict=True))
    tall, wide = size
    return torch.tensor([[left * wide, top * tall, right * wide, bottom * tall]])


def _query_name(query: int | tuple[int, ...]) -> str:
    if isinstance(query, tuple):
        return f"the query in row {query[0]}, column {query[1]}"
    return f"token {query}" + " (the class token of most models)" * (query == 0)
