"""Figures of attributions and visualizations of images, with their titles and captions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter
from torch import Tensor

from attribkit._contracts.attribution import Attribution, FailedAttribution
from attribkit._contracts.records import recorded
from attribkit._contracts.visualization import Visualization
from attribkit._core.errors import InvalidInput
from attribkit._core.pictures import to_pictures
from attribkit._core.shapes import Picture, Pictures
from attribkit._display.representations import short_value
from attribkit._targets.logits import ClassLogit, Contrast, Counterfactual, Probability
from attribkit._targets.target import NoTarget
from attribkit.figures._files import PaperFigure
from attribkit.figures._grid import Cell, Scale, check_count, grid


def figure(
    attributions: Attribution | Sequence[Attribution],
    *,
    pictures: Sequence[Picture] | None = None,
    titles: Sequence[str] = (),
    names: Sequence[str] | None = None,
    width: float | str | None = None,
    scale: Scale = "each",
    smooth: float = 0.0,
    mask: Float[Tensor, "b h w"] | Bool[Tensor, "b h w"] | None = None,
    boxes: Sequence[Float[Tensor, "n 4"] | None] | None = None,
    note: str | None = None,
) -> PaperFigure:
    """Draw a row for each image: the picture, then an overlay for each attribution.

    Args:
        attributions: One or more attributions of the same images (b, c, h, w).
        pictures: Pictures to draw, (h, w, 3) bytes, of the region that x shows, in any resolution; the maps are drawn
            at their size. `Preprocessing.photograph` returns such pictures. None uses x, with its values scaled to 0 to
            255.
        titles: Title of each image.
        names: Title of each attribution; None uses the display names of the methods, with the model, the class and the
            options where they differ.
        width: Width of the figure in inches, or a venue, such as "cvpr" (a column) or "cvpr-text" (the page), one of
            `attribkit.figures.VENUES`; None: 1.35 inches a picture.
        scale: What maps are divided by: "each" map's own 99.5th percentile of the magnitudes, the largest of these in
            its "row", or the largest in the figure, "shared".
        smooth: Standard deviation in pixels of x of a Gaussian filter for maps of single pixels, for display only; the
            caption states it.
        mask: Object of each image in any resolution, whose outline is drawn.
        boxes: Boxes of each image, left, top, right and bottom edges in pixels of x; None for an image without boxes.
        note: Text below the figure; None lists the methods with their options and sources, "" omits it.

    Returns:
        The figure, which notebooks show; write it with its method ``save``, which embeds TrueType fonts and gives the
        same bytes each time.

    Raises:
        UnknownName: If `width` is not the name of a venue.
        InvalidInput: If the attributions are not of the same images, or the pictures do not fit them.

    Example:
        >>> maps = explainer.compare(x, ["gradcam", "integrated_gradients"])
        >>> figure(maps, titles=["cat", "dog"], width="cvpr").save("maps.pdf")
    """
    attributions = as_attribution_list(attributions, axes=4)
    pictures = displayed_pictures(attributions[0], pictures)
    outlines = _for_each_image("mask", mask, len(pictures))
    edges = _boxes_in_pictures(_for_each_image("boxes", boxes, len(pictures)), attributions[0], pictures)
    _check_titles("titles", titles, len(pictures), "image")
    _check_titles("names", names or (), len(attributions), "attribution")
    classes = _class_titles(attributions) if names is None else [[""] * len(pictures)] * len(attributions)
    rows = [
        [Cell(picture, None, outline, edge)]
        + [
            Cell(picture, display_map(each, i, picture, smooth), outline, edge, title[i])
            for each, title in zip(attributions, classes, strict=True)
        ]
        for i, (picture, outline, edge) in enumerate(zip(pictures, outlines, edges, strict=True))
    ]
    names = column_titles(attributions) if names is None else names
    text = caption(attributions) if note is None else note
    text = "\n".join(filter(None, [text, smoothing_note(smooth)]))
    return grid(rows, row_titles=titles, column_titles=["", *names], caption=text, width=width, scale=scale)


def _check_titles(name: str, titles: Sequence[str], count: int, what: str) -> None:
    if isinstance(titles, str) or (titles and len(titles) != count):
        raise InvalidInput(f"{name} must contain one title for each {what}, {count}, got {titles!r}.")


def _for_each_image(name: str, values: Any, count: int) -> list[Tensor | None]:
    """Return a tensor or None for each image."""
    if values is None:
        return [None] * count
    if len(values) != count:
        raise InvalidInput(f"{name} must contain one entry for each of the {count} images, got {len(values)}.")
    tensors = [None if value is None else torch.as_tensor(value).detach() for value in values]
    for each in (each for each in tensors if each is not None):
        if name == "boxes" and not (each.numel() == 0 or (each.ndim == 2 and each.shape[1] == 4)):
            raise InvalidInput(f"Each entry of boxes must have the shape (n, 4), got {tuple(each.shape)}.")
        if name == "mask" and not (each.ndim == 2 and min(each.shape) > 1):
            raise InvalidInput(f"Each entry of mask must have the shape (height, width), got {tuple(each.shape)}.")
    return tensors


def _boxes_in_pictures(
    boxes: list[Tensor | None], attribution: Attribution, pictures: Sequence[Picture]
) -> list[Tensor | None]:
    """Return boxes in pixels of the pictures."""
    tall, wide = attribution.x.shape[2:]
    scaled: list[Tensor | None] = []
    for box, picture in zip(boxes, pictures, strict=True):
        ratios = torch.tensor([picture.shape[1] / wide, picture.shape[0] / tall] * 2, dtype=torch.float64)
        scaled.append(None if box is None else box.cpu().reshape(-1, 4) * ratios)
    return scaled


def smoothing_note(sigma: float) -> str:
    """Return what a caption states about the filter; empty for sigma 0."""
    return f"Maps smoothed for display by a Gaussian filter (standard deviation: {sigma:g} px)." if sigma else ""


def _check_smooth(sigma: Any, attribution: Attribution) -> None:
    if not (isinstance(sigma, int | float) and 0 <= sigma < min(attribution.x.shape[2:])):
        raise InvalidInput(f"smooth must be 0 or a number of pixels smaller than the image, got {sigma!r}.")


def display_map(attribution: Attribution, image: int, picture: Picture, sigma: float) -> Tensor:
    """Return the map of one image at the size of its picture, after a Gaussian filter; unchanged for sigma 0."""
    _check_smooth(sigma, attribution)
    size = picture.shape[:2]
    heatmap = attribution[image].heatmap(size=size)[0]
    if sigma == 0:
        return heatmap
    sigmas = [sigma * pixels / side for pixels, side in zip(size, attribution.x.shape[2:], strict=True)]
    return torch.from_numpy(gaussian_filter(heatmap.detach().double().cpu().numpy(), sigmas, mode="reflect"))


_COLUMNS = 6  # pictures in a row


def gallery(
    visualizations: Visualization | Sequence[Visualization], *, titles: Sequence[str] = (), columns: int = _COLUMNS
) -> PaperFigure:
    """Draw the pictures of visualizations in rows; the caption lists the visualizers and their sources.

    Args:
        visualizations: One or more visualizations.
        titles: Title of each picture; without titles, the unit that it was made for and the final response.
        columns: Number of pictures in a row.

    Returns:
        The figure; write it with its method ``save``.

    Raises:
        InvalidInput: If the number of titles is not that of the pictures, or `columns` is not positive.
    """
    check_count("columns", columns)
    visualizations = [visualizations] if isinstance(visualizations, Visualization) else list(visualizations)
    pictures = [picture for each in visualizations for picture in each.pictures()]
    titles = list(titles) or [title for each in visualizations for title in _default_titles(each)]
    if not pictures or len(titles) != len(pictures):
        raise InvalidInput(
            f"A gallery needs at least one picture and a title for each picture, got {len(pictures)} pictures and "
            f"{len(titles)} titles."
        )
    cells = [Cell(picture, title=title) for picture, title in zip(pictures, titles, strict=True)]
    width = min(columns, len(cells))
    blank = Cell(np.full_like(pictures[0], 255))
    cells += [blank] * (-len(cells) % width)
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    lines = dict.fromkeys(f"{each.visualizer!r}: {each.visualizer.source}" for each in visualizations)
    return grid(rows, caption="\n".join(lines))


def caption(attributions: Sequence[Attribution]) -> str:
    """Return a line for each method: its name, the options that are not the default ones, and its source."""
    return "\n".join(dict.fromkeys(map(_described, attributions)))


def _described(attribution: Attribution) -> str:
    record = recorded(attribution.method)
    options = f" ({', '.join(record.options)})" if record.options else ""
    return f"{display_name(attribution)}{options}: {record.source}" if record.source else record.text


def display_name(attribution: Attribution | FailedAttribution) -> str:
    """Return the name of the method in figures."""
    return attribution.method.display_name or attribution.method.name


def column_titles(attributions: Sequence[Attribution]) -> list[str]:
    """Return the display names of the methods, with the models if they differ, and the options of equal names."""
    names = [display_name(each) for each in attributions]
    if len({each.model for each in attributions}) > 1:
        names = [f"{each.model}\n{name}".strip() for each, name in zip(attributions, names, strict=True)]
    if len(set(names)) == len(names) or any(any(titles) for titles in _class_titles(attributions)):
        return names
    options = [", ".join(recorded(each.method).options) for each in attributions]
    return [
        f"{name}\n{option}" if names.count(name) > 1 and option else name
        for name, option in zip(names, options, strict=True)
    ]


def _class_titles(attributions: Sequence[Attribution]) -> list[list[str]]:
    """Return the class that each map is for, if the maps of an image are for different classes."""
    titles = [[target_title(each.target, i) for i in range(len(each))] for each in attributions]
    different = any(len(set(filter(None, of_image))) > 1 for of_image in zip(*titles, strict=True))
    return titles if different else [[""] * len(of_method) for of_method in titles]


_TITLES: dict[type, str] = {
    ClassLogit: "{}",
    Probability: "probability of {}",
    Counterfactual: "against {}",
    Contrast: "{} rather than {}",
}


def target_title(target: Any, image: int, labels: Sequence[str] | None = None) -> str:
    """Return what a map of one image is for: its class or classes, the repr of other targets, "" without a target."""
    if isinstance(target, NoTarget):
        return ""
    if type(target) not in _TITLES:
        return short_value(target)
    fields = [getattr(target, name) for name in ("index", "against") if hasattr(target, name)]
    indices = [int(each[image]) if isinstance(each, Sequence | Tensor) else each for each in fields]
    names = (labels[i] if labels is not None and i < len(labels) else f"class {i}" for i in indices)
    return _TITLES[type(target)].format(*names)


def as_attribution_list(attributions: Attribution | Sequence[Attribution], axes: int) -> list[Attribution]:
    """Return attributions as a list, channels first; raise InvalidInput if their images differ, or in axes."""
    attributions = [attributions] if isinstance(attributions, Attribution) else list(attributions)
    attributions = [each.channels_first() for each in attributions]
    shapes = list(dict.fromkeys(tuple(each.x.shape) for each in attributions))
    if len(shapes) != 1:
        raise InvalidInput(
            f"A figure needs one or more attributions of the same images, got {len(attributions)} attributions of "
            f"images of shapes {shapes}."
        )
    if len(shapes[0]) != axes:
        raise InvalidInput(
            "figure draws images (b, c, h, w); frames, mosaic and animate draw clips and volumes (b, c, d, h, w); got "
            f"images of shape {shapes[0]}."
        )
    for number, other in enumerate(attributions[1:], start=1):
        _check_same_images(attributions[0].x, other.x, number)
    return attributions


_LEAST_CORRELATION = 0.98  # of equal images after other normalisation or interpolation; other crops are below 0.95


def _check_same_images(x: Tensor, other: Tensor, number: int) -> None:
    """Raise InvalidInput if the images differ by more than their normalisation and interpolation."""
    if other is x or torch.equal(x.cpu(), other.cpu()):
        return
    first, second = (_standardised(each) for each in (x, other))
    correlations = (first * second).sum(-1).amin(-1)
    if not bool((correlations >= _LEAST_CORRELATION).all()):
        image = int(correlations.nan_to_num(-1).argmin())
        raise InvalidInput(
            f"A figure needs attributions of the same images, but image {image} of attribution {number} differs from "
            f"that of attribution 0 (their correlation is {float(correlations[image]):.2f}): models with another crop "
            "or resize need a figure each, or preprocess the photographs for all models alike."
        )


def _standardised(x: Tensor) -> Tensor:
    """Return channels with mean 0 and norm 1, (b, c, pixels); a constant channel is constant afterwards, too."""
    values = x.detach().double().cpu().flatten(2)
    centred = values - values.mean(-1, keepdim=True)
    norm = centred.norm(dim=-1, keepdim=True)
    flat = norm < 1e-9 * (1 + values.abs().amax(-1, keepdim=True))
    return torch.where(flat, torch.full_like(values, values.shape[-1] ** -0.5), centred / norm.clamp(min=1e-300))


_LARGEST_STRETCH = 0.02  # relative difference of the aspect ratios of a picture and of x, from rounding


def displayed_pictures(attribution: Attribution, pictures: Sequence[Pictures] | None) -> list[Pictures]:
    """Return the given pictures, checked against the attribution's images, or these images scaled to bytes.

    Pictures of images may have another resolution; frames of clips and slices of volumes have the size of the images.
    """
    if pictures is None:
        return to_pictures(attribution.x)
    if len(pictures) != len(attribution):
        raise InvalidInput(
            f"pictures must contain one picture per image, got {len(pictures)} for {len(attribution)} images."
        )
    space = tuple(attribution.x.shape[2:])
    for picture in pictures:
        _check_picture(picture, space)
    return list(pictures)


def _check_picture(picture: Any, space: tuple[int, ...]) -> None:
    if not isinstance(picture, np.ndarray):
        raise InvalidInput(f"Each picture must be an array, got a {type(picture).__name__}: use np.asarray(image).")
    shape = picture.shape
    if picture.dtype != np.uint8 or len(shape) != len(space) + 1 or shape[-1] != 3:
        raise InvalidInput(f"Each picture must be an array of bytes (*space, 3), got {picture.dtype} of shape {shape}.")
    if len(space) == 2:
        stretch = (shape[0] / shape[1]) / (space[0] / space[1])
        if abs(stretch - 1) > _LARGEST_STRETCH:
            raise InvalidInput(
                f"Each picture must show the region of its image, whose height and width are {space}, got {shape[:2]} "
                "with another aspect ratio: crop it, such as with Preprocessing.photograph(image)."
            )
    elif shape[:-1] != space:
        raise InvalidInput(f"Each picture must have the size {space} of the images, got {shape[:-1]}.")


def _default_titles(visualization: Visualization) -> list[str]:
    """Return the unit that each image was made for, and the final response."""
    names = (name.split(",")[0] if "(" not in name else name for name in visualization.names)
    responses = visualization.responses[-1].tolist()
    return [f"{name}\n{response:.3g}" for name, response in zip(names, responses, strict=True)]
