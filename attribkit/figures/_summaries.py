"""Figures of a benchmark's summary: scores with intervals, and the agreement of metrics."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from attribkit import registry
from attribkit._core.errors import InvalidInput
from attribkit._core.pictures import SCORES
from attribkit.figures._files import PaperFigure, paper_style
from attribkit.figures._page import PAD, SMALL, TITLE, figure_width, text_width, wrap

if TYPE_CHECKING:
    from attribkit.benchmark import Summary

LINE = 0.17  # inches per bar, or per line of text
_METHOD, _CONTROL = "#33659b", "#a9a9a9"  # their luminances differ, for grey print
_TRUTH = "truth"  # label of the masks as maps
_LONGEST = 1.3  # inches, of the name of a method or metric


def bars(
    summary: "Summary",
    *,
    metrics: Sequence[str] = (),
    models: Sequence[str] = (),
    subset: str = "all",
    width: float | str = "cvpr",
    note: str | None = None,
) -> PaperFigure:
    """Draw the mean score of each method with its bootstrap interval; a row for each model, a column for each metric.

    Methods are sorted by their mean rank over the metrics that are shown, best first; controls are grey.

    Args:
        summary: The summary of a benchmark, such as ``Summary.load("run/summary.json")``.
        metrics: Labels of the metrics; empty selects all.
        models: Labels of the models; empty selects all.
        subset: "all", or the name of a subset of the images.
        width: Width of the figure in inches, or a name of `VENUES`.
        note: Text below the figure; None describes the intervals, "" omits it.

    Returns:
        The figure; write it with its method ``save``.

    Raises:
        InvalidInput: If there are not any scores of these metrics and models.
    """
    scores = [s for s in summary.scores if s.statistic == "mean" and s.subset == subset and not s.inverted]
    names, models = selected(scores, "metric", metrics), selected(scores, "model", models)
    table = {(s.model, s.metric, s.method): s for s in scores}
    methods = _by_mean_rank(scores, names, models)
    text = _interval_note(summary) if note is None else note
    total = figure_width(width)
    labels = [_short(display_label(each)) for each in methods]
    panel = _panel_width(total, labels, len(models), len(names))
    with paper_style():
        caption = wrap(text, total - 2 * PAD, SMALL)
        height = len(models) * (len(methods) * LINE + 0.55) + 0.16 * len(caption.splitlines())
        figure = PaperFigure(figsize=(total, height), layout="constrained")
        axes = figure.subplots(len(models), len(names), squeeze=False, sharex="col", sharey=True)
        for i, model in enumerate(models):
            for j, metric in enumerate(names):
                _draw_bars(axes[i, j], [table.get((model, metric, method)) for method in methods], panel)
                axes[i, j].set_title(_metric_title(table, metric, panel) if i == 0 else "", fontsize=TITLE)
            axes[i, 0].set_yticks(range(len(methods)), labels)
            if len(models) > 1:
                axes[i, 0].set_ylabel(wrap(model, len(methods) * LINE + 0.3, TITLE, 2))
        axes[0, 0].set_ylim(len(methods) - 0.4, -0.6)
        figure.supxlabel(caption, x=PAD / total, ha="left", fontsize=SMALL)
    return figure


_LEAST_PANEL, _TICK = 0.4, 0.35  # inches, of a panel and between ticks


def _panel_width(total: float, labels: Sequence[str], models: int, metrics: int) -> float:
    """Return the width of a panel of bars, in inches; raise InvalidInput if it is too small."""
    beside = max(text_width(label, SMALL) for label in labels) + 0.15 + 0.2 * (models > 1)
    panel = (total - beside) / metrics - 0.12
    if panel < _LEAST_PANEL:
        raise InvalidInput(
            f"A figure of {total:g} inches is too narrow for the bars of {metrics} metrics, which would be "
            f"{max(panel, 0):.2f} inches wide: use a larger width or fewer metrics."
        )
    return panel


def selected(records: Iterable[Any], field: str, wanted: Sequence[str]) -> list[str]:
    """Return the wanted labels, or all; raise InvalidInput for labels without records."""
    known = list(dict.fromkeys(getattr(each, field) for each in records))
    if unknown := [label for label in wanted if label not in known]:
        raise InvalidInput(
            f"The summary does not have the {field} {unknown[0]!r}; it has {', '.join(known) or 'none'}."
        )
    if not known:
        raise InvalidInput("The summary does not have records of this kind for this subset: see its fields and notes.")
    return list(wanted) or known


def _by_mean_rank(scores: Iterable[Any], metrics: Sequence[str], models: Sequence[str]) -> list[str]:
    """Return the methods by their mean rank over metrics and models."""
    shown = [s for s in scores if s.metric in metrics and s.model in models]
    ranks: dict[str, list[float]] = {}
    for key in dict.fromkeys((s.model, s.metric) for s in shown):
        column = [s for s in shown if (s.model, s.metric) == key]
        column.sort(key=lambda s: _badness(s.estimate.value, s.higher_is_better))
        for rank, score in enumerate(column):
            ranks.setdefault(score.method, []).append(rank)
    return sorted(ranks, key=lambda method: float(np.mean(ranks[method])))


def _badness(value: float, higher_is_better: bool | None) -> float:
    if math.isnan(value):
        return math.inf
    return value if higher_is_better is False else -value


def _draw_bars(ax: Axes, scores: Sequence[Any], panel: float) -> None:
    """Draw a bar for each score; none for a missing or undefined one."""
    for row, score in enumerate(scores):
        if score is None or math.isnan(score.estimate.value):
            continue
        estimate = score.estimate
        ax.barh(row, estimate.value, height=0.7, color=_METHOD if score.role == "method" else _CONTROL)
        if not math.isnan(estimate.low):
            ax.plot([estimate.low, estimate.high], [row, row], color="black", linewidth=0.8, marker="|", markersize=3)
    ax.axvline(0, color="black", linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=SMALL, length=2)
    ax.locator_params(axis="x", nbins=max(1, int(panel / _TICK)))


def _metric_title(table: dict[Any, Any], metric: str, width: float) -> str:
    """Return the label of a metric, with its direction."""
    directions = {score.higher_is_better for (_, each, _), score in table.items() if each == metric}
    arrow = {frozenset({True}): " ↑", frozenset({False}): " ↓"}.get(frozenset(directions), "")
    return wrap(f"{metric}{arrow}", width, TITLE, 3)


def _interval_note(summary: "Summary") -> str:
    return (
        f"Means over images with {summary.confidence:.0%} bootstrap intervals, sorted by the mean rank. Grey: controls."
    )


def display_label(label: str) -> str:
    """Return the display name of a method whose label in a benchmark is its name, and other labels unchanged."""
    if label == _TRUTH:
        return "Ground truth"
    methods = registry.methods()
    return (methods[label].display_name or label) if label in methods else label


def display_labels(labels: Iterable[str]) -> dict[str, str]:
    """Return the display names of methods, or their labels if two names are equal.

    A space precedes an underscore, since legends of matplotlib omit labels that begin with one.
    """
    names = {label: display_label(label) for label in labels}
    names = names if len(set(names.values())) == len(names) else {label: label for label in names}
    return {label: f" {name}" if name.startswith("_") else name for label, name in names.items()}


def _short(label: str) -> str:
    return wrap(label, _LONGEST, SMALL, 1)


def agreement(
    summary: "Summary",
    *,
    metrics: Sequence[str] = (),
    models: Sequence[str] = (),
    subset: str = "all",
    width: float | str = "cvpr",
    note: str | None = None,
) -> PaperFigure:
    """Draw the rank correlations of the metrics as a matrix for each model: Kendall's tau of the methods' mean ranks.

    Args:
        summary: The summary of a benchmark.
        metrics: Labels of the metrics; empty selects all.
        models: Labels of the models; empty selects all.
        subset: "all", or the name of a subset of the images.
        width: Width of the figure in inches, or a name of `VENUES`.
        note: Text below the figure; None explains the numbers, "" omits it.

    Returns:
        The figure; write it with its method ``save``.

    Raises:
        InvalidInput: If there are fewer than two metrics of these models, or more than fit into the width.
    """
    records = [each for each in summary.agreements if each.subset == subset]
    models = selected(records, "model", models)
    known = list(dict.fromkeys(metric for each in records for metric in (each.first, each.second)))
    names = list(metrics) or known
    _check_metrics(names, known)
    text = _AGREEMENT_NOTE if note is None else note
    total = figure_width(width)
    column = (total - max(text_width(_short(name), SMALL) for name in names) - 2 * PAD) / (len(names) - 1)
    if column < _NUMBER:
        raise InvalidInput(
            f"A figure of {total:g} inches is too narrow for {len(names)} metrics: use a larger width or fewer metrics."
        )
    with paper_style():
        caption = wrap(text, total - 2 * PAD, SMALL)
        below = max(text_width(_short(name), SMALL) for name in names) + 0.16 * len(caption.splitlines()) + 0.2
        height = len(models) * (LINE * 1.2 * (len(names) - 1) + 0.3) + below
        figure = PaperFigure(figsize=(total, height), layout="constrained")
        for ax, model in zip(figure.subplots(len(models), 1, squeeze=False, sharex=True)[:, 0], models, strict=True):
            _draw_matrix(ax, [each for each in records if each.model == model], names)
            ax.set_title(wrap(model, total - 2 * PAD, TITLE, 1) if len(models) > 1 else "", fontsize=TITLE)
        figure.supxlabel(caption, x=PAD / total, ha="left", fontsize=SMALL)
    return figure


_AGREEMENT_NOTE = "Kendall's tau-b of the methods' mean ranks; 1: both metrics rank the methods alike."
_NUMBER = 0.28  # inches, of a correlation


def _check_metrics(names: Sequence[str], known: Sequence[str]) -> None:
    if len(names) < 2 or set(names) - set(known):
        raise InvalidInput(f"metrics must be at least two of {', '.join(known) or 'none'}, got {list(names)}.")


def _draw_matrix(ax: Axes, agreements: Sequence[Any], metrics: Sequence[str]) -> None:
    """Draw the lower triangle of the matrix of correlations, with their values."""
    values = np.full((len(metrics), len(metrics)), np.nan)
    for each in agreements:
        if {each.first, each.second} <= set(metrics):
            low, high = sorted((metrics.index(each.first), metrics.index(each.second)))
            values[high, low] = each.kendall
    shown = values[1:, :-1]
    ax.imshow(np.ma.masked_invalid(shown), cmap=SCORES, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(shown):
        if not math.isnan(value):
            colour = "black" if value > _BRIGHT else "white"
            text = f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
            ax.text(column, row, text, ha="center", va="center", fontsize=SMALL, color=colour)
    labels = [_short(metric) for metric in metrics]
    ax.set_yticks(range(len(metrics) - 1), labels[1:], fontsize=SMALL)
    ax.set_xticks(range(len(metrics) - 1), labels[:-1], fontsize=SMALL, rotation=90)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


_BRIGHT = 0.4  # correlation above which the colour is bright
