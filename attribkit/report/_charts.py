"""The charts of a report, as SVG."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attribkit.figures._grid import paper_figure, paper_style
from attribkit.report._content import Chart
from attribkit.report._pictures import encode_figure

_PANEL_WIDTH, _PANEL_HEIGHT = 3.0, 2.5  # inches
_PANELS, _LEGEND_COLUMNS = 3, 4
_LEGEND_ROW = 0.2  # inches
_RESAMPLES = 1000
_STYLES = ("-", "--", ":", "-.")  # lines also differ in grey print
_MARKERS = "osD^v<>P*X"


@dataclass(frozen=True, eq=False)
class CurveSet:
    """The curves of one method by one metric.

    Args:
        fractions: Fraction of the changed pixels at each step.
        curves: A curve for each sample.
        groups: Group of each sample, which the bootstrap resamples.
    """

    fractions: Float64[np.ndarray, " steps"]
    curves: Float64[np.ndarray, "samples steps"]
    groups: Int64[np.ndarray, " samples"]


@dataclass(frozen=True)
class CostPoint:
    """The cost of a method and its score; the score has an interval."""

    milliseconds: float
    value: float
    low: float
    high: float


def draw_curves(
    model: str, metrics: Mapping[str, Mapping[str, CurveSet]], methods: Sequence[str], confidence: float, seed: int
) -> Chart:
    """Draw the mean curves of the methods with bootstrap bands, in a panel for each metric."""
    figure, panels = _panels(len(metrics), len(methods))
    with paper_style(), rc_context({"svg.fonttype": "path"}):
        for ax, (metric, of_methods) in zip(panels, metrics.items(), strict=True):
            for k, method in enumerate(methods):
                if method in of_methods:
                    _draw_band(ax, of_methods[method], _style(k, len(methods)), method, confidence, seed)
            ax.set(title=_plain(metric), xlabel="fraction of the pixels", ylabel="score of the target", xlim=(0, 1))
        url = _finish(figure, panels)
    return Chart(
        model,
        url,
        f"Mean curves of {', '.join(metrics)} on {model}, one line for each of {len(methods)} methods.",
        f"Means over the samples with their {confidence:.0%} bootstrap bands ({_RESAMPLES} resamples of images).",
    )


def draw_costs(
    model: str, metrics: Mapping[str, Mapping[str, CostPoint]], arrows: Mapping[str, str], methods: Sequence[str]
) -> Chart:
    """Draw the scores of the methods over their time for an image, in a panel for each metric."""
    figure, panels = _panels(len(metrics), len(methods))
    with paper_style(), rc_context({"svg.fonttype": "path"}):
        for ax, (metric, points) in zip(panels, metrics.items(), strict=True):
            for k, method in enumerate(methods):
                if method in points:
                    _draw_point(ax, points[method], k, len(methods), method)
            label = f"{_plain(metric)} {arrows[metric]}".strip()
            ax.set(title=_plain(metric), xlabel="milliseconds per image", ylabel=label, xscale="log")
        url = _finish(figure, panels)
    return Chart(
        model,
        url,
        f"Scores by {', '.join(metrics)} over the milliseconds per image on {model}, one point for each method.",
        "Mean scores with their intervals, over the time to explain an image.",
    )


def _panels(count: int, entries: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with this number of panels and room for a legend."""
    columns = min(count, _PANELS)
    rows = math.ceil(count / columns)
    legend = math.ceil(entries / _LEGEND_COLUMNS) * _LEGEND_ROW
    with paper_style():
        figure = paper_figure((_PANEL_WIDTH * max(columns, 2), _PANEL_HEIGHT * rows + legend), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[:count]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.5)
    return figure, axes[:count]


def _finish(figure: Figure, panels: Sequence[Axes]) -> str:
    """Add a legend of all panels, and return the figure as a data URL."""
    entries = {label: handle for ax in panels for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=_LEGEND_COLUMNS, frameon=False
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a label in a script that the font lacks
        return encode_figure(figure)


def _plain(label: str) -> str:
    """Return a label for matplotlib, which typesets text between dollar signs and omits labels with an underscore."""
    escaped = label.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def _style(k: int, count: int) -> dict[str, object]:
    """Return the colour and the dashes of a method."""
    table = colormaps["tab10"] if count <= 10 else colormaps["tab20"]
    return {"color": table(k % table.N), "linestyle": _STYLES[k % len(_STYLES)]}


def _draw_band(
    ax: Axes, chosen: CurveSet, style: Mapping[str, object], name: str, confidence: float, seed: int
) -> None:
    ax.plot(chosen.fractions, chosen.curves.mean(0), label=_plain(name), linewidth=1.2, **style)  # type: ignore[arg-type]
    _, groups = np.unique(chosen.groups, return_inverse=True)
    count = int(groups.max()) + 1
    if count < 2:
        return
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), _RESAMPLES)
    weights = drawn[:, groups]
    means = weights @ chosen.curves / weights.sum(1, keepdims=True)
    low, high = np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2), axis=0)
    ax.fill_between(chosen.fractions, low, high, color=style["color"], alpha=0.15, linewidth=0)  # type: ignore[arg-type]


def _draw_point(ax: Axes, point: CostPoint, k: int, count: int, name: str) -> None:
    error = None
    if math.isfinite(point.low) and math.isfinite(point.high):
        error = [[max(0.0, point.value - point.low)], [max(0.0, point.high - point.value)]]
    ax.errorbar(
        [point.milliseconds],
        [point.value],
        error,
        color=_style(k, count)["color"],  # type: ignore[arg-type]
        marker=_MARKERS[k % len(_MARKERS)],
        markersize=4,
        linestyle="none",
        elinewidth=0.8,
        label=_plain(name),
    )
