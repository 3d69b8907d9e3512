"""The charts of a report, as SVG."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from attribkit.figures import rankings
from attribkit.figures._curves import CurvePanel, draw_curves
from attribkit.figures._files import PaperFigure, paper_style
from attribkit.figures._summaries import display_labels
from attribkit.report._content import Chart
from attribkit.report._pictures import encode_svg

if TYPE_CHECKING:  # benchmarks need further packages
    from attribkit.benchmark import Summary

_WIDTH, _PANEL_HEIGHT, _LEGEND_ROW = 5.2, 2.0, 0.2  # inches
_LEGEND_COLUMNS = 3
_MARKERS = "osD^v<>P*X"


@dataclass(frozen=True)
class CostPoint:
    """The cost of a method, and its score with the ends of its interval."""

    milliseconds: float
    value: float
    low: float
    high: float


def curve_chart(model: str, panels: Sequence[CurvePanel], confidence: float, seed: int) -> Chart:
    """Draw the mean curves of the methods with bootstrap bands, in a panel for each metric."""
    names = display_labels(dict.fromkeys(method for each in panels for method in each.curves))
    labelled = [
        CurvePanel(each.title, each.fractions, {names[method]: curves for method, curves in each.curves.items()})
        for each in panels
    ]
    url = _encoded(lambda: draw_curves(labelled, width=_WIDTH, confidence=confidence, seed=seed, note=""))
    metrics = ", ".join(f"{each.title} ({each.defined().images} images)" for each in panels)
    return Chart(
        model,
        url,
        f"Mean curves of {metrics} on {model}, one line for each method.",
        f"Means over images with their {confidence:.0%} bootstrap bands.",
    )


def ranking_chart(model: str, summary: "Summary") -> Chart:
    """Draw the mean ranks of the methods by each metric, with bars over methods that do not differ significantly."""
    url = _encoded(lambda: rankings(summary, models=(model,), width=_WIDTH, note=""))
    return Chart(
        model,
        url,
        f"Critical difference diagrams of the methods on {model}, one for each metric; the tables have the numbers.",
        "Mean ranks over images, 1 is the best. A bar joins methods that do not differ significantly (Friedman's test "
        f"and Nemenyi's critical difference CD, {summary.confidence:.0%}).",
    )


def cost_chart(model: str, metrics: Mapping[str, Mapping[str, CostPoint]], methods: Sequence[str]) -> Chart:
    """Draw the scores of the methods over their time for an image, in a panel for each title of a metric."""
    return Chart(
        model,
        _encoded(lambda: _draw_costs(metrics, methods)),
        f"Scores by {', '.join(metrics)} over the milliseconds per image on {model}, one point for each method.",
        "Mean scores with their intervals, over the time to explain an image.",
    )


def _encoded(draw: Callable[[], Figure]) -> str:
    """Return a figure as a data URL."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a label in a script that the font lacks
        return encode_svg(draw())


def _draw_costs(metrics: Mapping[str, Mapping[str, CostPoint]], methods: Sequence[str]) -> Figure:
    names = display_labels(methods)
    below = math.ceil(len(methods) / _LEGEND_COLUMNS) * _LEGEND_ROW
    with paper_style():
        figure = PaperFigure(figsize=(_WIDTH, _PANEL_HEIGHT + below), layout="constrained")
        axes = figure.subplots(1, len(metrics), squeeze=False)[0]
        for ax, (title, points) in zip(axes, metrics.items(), strict=True):
            for k, method in enumerate(methods):
                if method in points:
                    _draw_point(ax, points[method], k, names[method])
            ax.set(title=title, xlabel="milliseconds per image", xscale="log")
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.spines[["top", "right"]].set_visible(False)
        legends = [zip(*ax.get_legend_handles_labels(), strict=True) for ax in figure.axes]
        entries = {label: handle for legend in legends for handle, label in legend}
        figure.legend(
            list(entries.values()), list(entries), loc="outside lower center", ncols=_LEGEND_COLUMNS, frameon=False
        )
    return figure


def _draw_point(ax: Axes, point: CostPoint, k: int, label: str) -> None:
    error = None
    if math.isfinite(point.low) and math.isfinite(point.high):
        error = [[max(0.0, point.value - point.low)], [max(0.0, point.high - point.value)]]
    ax.errorbar(
        [point.milliseconds],
        [point.value],
        error,
        color=f"C{k % 10}",
        marker=_MARKERS[(k + k // 10) % len(_MARKERS)],  # methods of the same colour differ
        markersize=4,
        linestyle="none",
        elinewidth=0.8,
        label=label,
    )
