"""Figures of attributions and visualizations of images, and of the curves of metrics."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter
from torch import Tensor

from attribkit._contracts.attribution import Attribution, FailedAttribution
from attribkit._contracts.method import Method
from attribkit._contracts.visualization import Visualization
from attribkit._core.errors import InvalidInput
from attribkit._core.pictures import to_pictures
from attribkit._core.shapes import Picture, Pictures
from attribkit._runs.measurement import MetricResult
from attribkit.figures._grid import Cell, Scale, figure_width, grid, paper_figure, paper_style


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
) -> Figure:
    """Draw a row for each image: the picture, then an overlay for each attribution.

    Args:
        attributions: One or more attributions of the same images (b, c, h, w).
        pictures: Pictures to draw, (h, w, 3) bytes of the size of x; None uses x, with its values scaled to 0 to 255.
        titles: Title of each image.
        names: Title of each attribution; None uses the names of the methods.
        width: Width of the figure in inches, or a venue, such as "cvpr" (a column) or "cvpr-text" (the page), one of
            `attribkit.figures.VENUES`; None: 1.35 inches a picture.
        scale: What maps are divided by: "each" map's own 99.5th percentile of the magnitudes, the largest of these in
            its "row", or the largest in the figure, "shared".
        smooth: Standard deviation in pixels of a Gaussian filter for maps of single pixels, for display only; the
            caption states it.
        mask: Object of each image, whose outline is drawn.
        boxes: Boxes of each image, left, top, right and bottom edges in pixels; None for an image without boxes.
        note: Text below the figure; None lists the methods with their options and sources, "" omits it.

    Returns:
        The figure, which notebooks show; write it with `attribkit.figures.save_figure` or its ``savefig``, which embed
        TrueType fonts and give the same bytes each time.

    Raises:
        UnknownName: If `width` is not the name of a venue.
        InvalidInput: If the attributions are not of the same images, or the pictures do not fit them.
    """
    attributions = as_attribution_list(attributions, axes=4)
    pictures = displayed_pictures(attributions[0], pictures)
    heatmaps = [_smoothed(each.heatmap(), smooth) for each in attributions]
    outlines, edges = _for_each_image("mask", mask, pictures), _for_each_image("boxes", boxes, pictures)
    rows = [
        [Cell(picture, each, outline, edge) for each in (None, *(maps[i] for maps in heatmaps))]
        for i, (picture, outline, edge) in enumerate(zip(pictures, outlines, edges, strict=True))
    ]
    names = list(map(display_name, attributions)) if names is None else names
    text = caption(attributions) if note is None else note
    if smooth:
        text = f"{text}\nMaps smoothed for display by a Gaussian filter of {smooth:g} pixels.".strip()
    return grid(rows, row_titles=titles, column_titles=["", *names], caption=text, width=width, scale=scale)


def _for_each_image(
    name: str, values: Sequence[Any] | Tensor | None, pictures: Sequence[Picture]
) -> Sequence[Any] | Tensor:
    """Return a value for each image, or None for each."""
    if values is None:
        return [None] * len(pictures)
    if len(values) != len(pictures):
        raise InvalidInput(f"{name} must contain one entry for each of the {len(pictures)} images, got {len(values)}.")
    return values


def _smoothed(heatmaps: Tensor, sigma: float) -> Tensor:
    """Return heatmaps, (b, h, w), after a Gaussian filter; unchanged for sigma 0."""
    if not (isinstance(sigma, int | float) and 0 <= sigma < min(heatmaps.shape[1:])):
        raise InvalidInput(f"smooth must be 0 or a number of pixels smaller than the image, got {sigma!r}.")
    if sigma == 0:
        return heatmaps
    smoothed = gaussian_filter(heatmaps.detach().double().cpu().numpy(), (0, sigma, sigma), mode="reflect")
    return torch.from_numpy(smoothed)


_COLUMNS = 6  # pictures in a row


def gallery(
    visualizations: Visualization | Sequence[Visualization], *, titles: Sequence[str] = (), columns: int = _COLUMNS
) -> Figure:
    """Draw the pictures of visualizations in rows; the caption lists the visualizers and their sources.

    Args:
        visualizations: One or more visualizations.
        titles: Title of each picture; without titles, the unit that it was made for and the final response.
        columns: Number of pictures in a row.

    Returns:
        The figure; write it with `attribkit.figures.save_figure` or its ``savefig``.

    Raises:
        InvalidInput: If the number of titles is not that of the pictures, or `columns` is not positive.
    """
    visualizations = [visualizations] if isinstance(visualizations, Visualization) else list(visualizations)
    pictures = [picture for each in visualizations for picture in each.pictures()]
    titles = list(titles) or [title for each in visualizations for title in _default_titles(each)]
    if not pictures or len(titles) != len(pictures) or columns < 1:
        raise InvalidInput(
            f"A gallery needs at least one picture, a title for each picture and a positive number of columns, got "
            f"{len(pictures)} pictures, {len(titles)} titles and columns={columns}."
        )
    cells = [Cell(picture, title=title) for picture, title in zip(pictures, titles, strict=True)]
    width = min(columns, len(cells))
    blank = Cell(np.full_like(pictures[0], 255))
    cells += [blank] * (-len(cells) % width)
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    lines = dict.fromkeys(f"{each.visualizer!r}: {each.visualizer.source}" for each in visualizations)
    return grid(rows, caption="\n".join(lines))


def curves(
    results: MetricResult | Sequence[MetricResult],
    names: Sequence[str],
    *,
    width: float | str = "cvpr",
    confidence: float = 0.95,
    seed: int = 0,
) -> Figure:
    """Draw the mean curve of each attribution over the images, with bootstrap bands; a panel for each metric.

    The band of a point is the percentile interval of the mean, from 1000 samples of the images with replacement.

    Args:
        results: Results of `Explainer.measure` for metrics with curves, such as deletion and insertion.
        names: Name of each attribution.
        width: Width of the figure in inches, or a name of `VENUES`.
        confidence: Confidence level of the bands; 0 omits them.
        seed: Seed of the bootstrap.

    Returns:
        The figure; write it with `attribkit.figures.save_figure` or its ``savefig``.

    Raises:
        InvalidInput: If a metric does not have curves, or `names` or `confidence` does not fit.
    """
    results = [results] if isinstance(results, MetricResult) else list(results)
    _check_curves(results, names, confidence)
    total = figure_width(width)
    rows = -(-len(names) // max(1, int(total / _LEGEND_WIDTH)))
    with paper_style():
        height = 0.8 * total / len(results) + 0.16 * rows + 0.3
        drawn = paper_figure((total, height), layout="constrained")
        for ax, result in zip(drawn.subplots(1, len(results), squeeze=False)[0], results, strict=True):
            for i, name in enumerate(names):
                _draw_curve(ax, result, i, name, confidence, seed)
            ax.set(title=result.metric.name, xlabel="fraction of the pixels", xlim=(0, 1))
        drawn.axes[0].set_ylabel("score of the target")
        handles, labels = drawn.axes[0].get_legend_handles_labels()
        columns = -(-len(names) // rows)
        drawn.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=7, frameon=False)
    return drawn


_LEGEND_WIDTH = 1.5  # inches of an entry of the legend
_STYLES = ("-", "--", ":", "-.")  # curves also differ in grey print


def _check_curves(results: Sequence[MetricResult], names: Sequence[str], confidence: float) -> None:
    if not results or not 0 <= confidence < 1:
        raise InvalidInput(
            f"curves needs at least one result and a confidence from 0 to below 1, got {len(results)} results and "
            f"confidence={confidence!r}."
        )
    for result in results:
        if not {"curve", "fractions"} <= set(result.details):
            raise InvalidInput(
                f"The metric {result.metric.name!r} does not have curves: pass results of metrics such as 'deletion' "
                "and 'insertion'."
            )
        if len(names) != len(result.values):
            raise InvalidInput(
                f"names must name each of the {len(result.values)} attributions, got {len(names)} names."
            )


def _draw_curve(ax: Axes, result: MetricResult, i: int, name: str, confidence: float, seed: int) -> None:
    curve, fractions = (result.details[key][i].double().cpu().numpy() for key in ("curve", "fractions"))  # (b, steps)
    line = ax.plot(fractions[0], curve.mean(0), label=name, linewidth=1, linestyle=_STYLES[i % len(_STYLES)])[0]
    if confidence and len(curve) > 1:
        samples = np.random.default_rng(seed).integers(0, len(curve), (_RESAMPLES, len(curve)))
        means = np.stack([curve[sample].mean(0) for sample in samples])
        low, high = np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2), axis=0)
        ax.fill_between(fractions[0], low, high, color=line.get_color(), alpha=0.2, linewidth=0)


_RESAMPLES = 1000


def caption(attributions: Sequence[Attribution]) -> str:
    """Return a line for each method: its name, the options that are not the default ones, and its source."""
    return "\n".join(dict.fromkeys(map(_described, attributions)))


def _described(attribution: Attribution) -> str:
    method = attribution.method
    if not isinstance(method, Method):
        return f"{method!r}, loaded from a file"
    changed = [f"{name}={value!r}" for name, value in _changed_options(method)]
    options = f" ({', '.join(changed)})" if changed else ""
    return f"{display_name(attribution)}{options}: {method.source}"


def _changed_options(method: Method) -> Iterator[tuple[str, Any]]:
    for field in fields(method):  # type: ignore[arg-type]
        if (value := getattr(method, field.name)) != field.default:
            yield field.name, value


def display_name(attribution: Attribution | FailedAttribution) -> str:
    """Return the name of the method in figures."""
    return getattr(attribution.method, "display_name", "") or attribution.method.name


def as_attribution_list(attributions: Attribution | Sequence[Attribution], axes: int) -> list[Attribution]:
    """Return attributions as a list, channels first; raise InvalidInput if their images differ in shape, or in axes."""
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
            "figure draws images (b, c, h, w); strip, mosaic and animate draw clips and volumes (b, c, d, h, w); got "
            f"images of shape {shapes[0]}."
        )
    return attributions


def displayed_pictures(attribution: Attribution, pictures: Sequence[Pictures] | None) -> list[Pictures]:
    """Return the given pictures, checked against the attribution's images, or these images scaled to bytes."""
    if pictures is None:
        return to_pictures(attribution.x)
    if len(pictures) != len(attribution):
        raise InvalidInput(
            f"pictures must contain one picture per image, got {len(pictures)} for {len(attribution)} images."
        )
    space = tuple(attribution.x.shape[2:])
    for picture in pictures:
        if picture.shape[:-1] != space:
            raise InvalidInput(f"Each picture must have the size {space} of the images, got {picture.shape[:-1]}.")
    return list(pictures)


def _default_titles(visualization: Visualization) -> list[str]:
    """Return the unit that each image was made for, and the final response."""
    names = (name.split(",")[0] if "(" not in name else name for name in visualization.names)
    responses = visualization.responses[-1].tolist()
    return [f"{name}\n{response:.3g}" for name, response in zip(names, responses, strict=True)]
