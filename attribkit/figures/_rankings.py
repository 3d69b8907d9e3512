"""Critical difference diagrams of a benchmark's rankings."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from attribkit._core.errors import InvalidInput
from attribkit.figures._files import PaperFigure, paper_style
from attribkit.figures._page import PAD, SMALL, TITLE, figure_width, text_width, wrap
from attribkit.figures._summaries import LINE, display_label, selected

if TYPE_CHECKING:
    from attribkit.benchmark import Summary


def rankings(
    summary: "Summary",
    *,
    metrics: Sequence[str] = (),
    models: Sequence[str] = (),
    subset: str = "all",
    width: float | str = "cvpr",
    note: str | None = None,
) -> PaperFigure:
    """Draw a critical difference diagram for each model and metric: mean ranks, and bars over methods that are alike.

    Source: Demsar, JMLR 2006, sec. 3.2.2 and fig. 1. Friedman's test, then Nemenyi's critical difference.

    Args:
        summary: The summary of a benchmark.
        metrics: Labels of the metrics; empty selects all.
        models: Labels of the models; empty selects all.
        subset: "all", or the name of a subset of the images.
        width: Width of the figure in inches, or a name of `VENUES`.
        note: Text below the figure; None describes the diagram, "" omits it.

    Returns:
        The figure; write it with its method ``save``.

    Raises:
        InvalidInput: If there are not any rankings of these metrics and models.
    """
    records = [each for each in summary.rankings if each.subset == subset]
    names, models = selected(records, "metric", metrics), selected(records, "model", models)
    shown = [each for each in records if each.metric in names and each.model in models]
    text = _ranking_note(summary) if note is None else note
    total = figure_width(width)
    titles = [f"{each.model}, {each.metric}" if len(models) > 1 else each.metric for each in shown]
    margin = max(_margin(each, _labels(each, total), total) for each in shown)  # all diagrams have axes of one length
    most = max(len(each.methods) for each in shown)
    if (inch := (total - 2 * margin) / max(1, most - 1)) < _LEAST_RANK:
        raise InvalidInput(
            f"A figure of {total:g} inches is too narrow for {most} methods, whose ranks would be {max(inch, 0):.2f} "
            "inches apart: use a larger width."
        )
    diagrams = [partial(_draw_ranking, each, title, margin) for each, title in zip(shown, titles, strict=True)]
    return _stack(diagrams, [_ranking_height(each) for each in shown], total, text)


def _ranking_note(summary: "Summary") -> str:
    return (
        "Mean ranks over images, 1 is the best. A bar joins methods that do not differ significantly (Friedman's test "
        f"and Nemenyi's critical difference CD, {summary.confidence:.0%})."
    )


def _stack(draw: Sequence[Callable[[Axes], None]], heights: Sequence[float], width: float, text: str) -> PaperFigure:
    """Draw axes without frames below each other, whose coordinates are inches from their upper left corners."""
    with paper_style():
        caption = wrap(text, width - 2 * PAD, SMALL)
        below = 0.13 * len(caption.splitlines()) + 2 * PAD
        total = sum(heights) + below
        figure = PaperFigure(figsize=(width, total))
        top = total
        for height, draw_axes in zip(heights, draw, strict=True):
            ax = figure.add_axes((0, (top - height) / total, 1, height / total))
            ax.set(xlim=(0, width), ylim=(height, 0))
            ax.set_axis_off()
            draw_axes(ax)
            top -= height
        figure.supxlabel(caption, x=PAD / width, y=(below - PAD) / total, ha="left", va="top", fontsize=SMALL)
    return figure


_LEAST_RANK = 0.06  # inches between ranks
_AXIS = 0.62  # inches from the top of a diagram to its axis
_CLIQUE = 0.07  # inches between bars


def _ranking_height(ranking: Any) -> float:
    labels = -(-len(ranking.methods) // 2)
    return _AXIS + 0.12 + len(_long_cliques(ranking)) * _CLIQUE + labels * LINE + 0.12


def _long_cliques(ranking: Any) -> list[tuple[str, ...]]:
    return [clique for clique in ranking.cliques if len(clique) > 1]


def _draw_ranking(ranking: Any, title: str, margin: float, ax: Axes) -> None:
    """Draw the title, the axis of ranks with the critical difference, the methods, and the bars over cliques."""
    width, count = ax.get_xlim()[1], len(ranking.methods)
    half, labels = -(-count // 2), _labels(ranking, width)
    inch = (width - 2 * margin) / max(1, count - 1)  # per rank

    def place(rank: float) -> float:
        return margin + (rank - 1) * inch

    ax.text(width / 2, PAD, wrap(title, width - 2 * PAD, TITLE, 1), fontsize=TITLE, ha="center", va="top")
    ax.plot([place(1), place(count)], [_AXIS, _AXIS], color="black", linewidth=0.8)
    every = math.ceil((text_width("00", SMALL) + PAD) / max(place(2) - place(1), 0.01))
    for rank in range(1, count + 1, every):
        ax.plot([place(rank)] * 2, [_AXIS - 0.05, _AXIS], color="black", linewidth=0.6)
        ax.text(place(rank), _AXIS - 0.06, f"{rank}", fontsize=SMALL, ha="center", va="bottom")
    _draw_critical_difference(ax, ranking.critical_difference, place)
    ranks = dict(zip(ranking.methods, ranking.ranks, strict=True))
    for level, clique in enumerate(_long_cliques(ranking), start=1):
        ends = [place(end(ranks[method] for method in clique)) + side for end, side in ((min, -0.03), (max, 0.03))]
        ax.plot(ends, [_AXIS + level * _CLIQUE] * 2, color="black", linewidth=2, solid_capstyle="butt")
    lowest = _AXIS + 0.12 + len(_long_cliques(ranking)) * _CLIQUE + LINE / 2
    for i, (label, rank) in enumerate(zip(labels, ranking.ranks, strict=True)):
        y = lowest + min(i, count - 1 - i) * LINE
        x, side = (PAD, "left") if i < half else (width - PAD, "right")
        end = x + (text_width(label, SMALL) + _TO_LABEL) * (1 if i < half else -1)
        ax.plot([place(rank), place(rank), end], [_AXIS, y, y], color="#555555", linewidth=0.6)
        ax.text(x, y, label, fontsize=SMALL, ha=side, va="center")


_TO_LABEL = 0.04  # inches between a line and its label


def _labels(ranking: Any, width: float) -> list[str]:
    """Return the names of the methods with their mean ranks; the first half is on the left."""
    names = [wrap(display_label(method), width / 3, SMALL, 1) for method in ranking.methods]
    half = -(-len(names) // 2)
    return [
        f"{name} {rank:.2f}" if i < half else f"{rank:.2f} {name}"
        for i, (name, rank) in enumerate(zip(names, ranking.ranks, strict=True))
    ]


def _margin(ranking: Any, labels: Sequence[str], width: float) -> float:
    """Return the least margin beside the axis at which all lines reach their labels from above."""
    count = len(labels)
    half = -(-count // 2)
    needed = [PAD + text_width(label, SMALL) + 2 * _TO_LABEL for label in labels]
    margins = np.linspace(4 * PAD, max(needed), 60)
    for margin in margins:
        inch = (width - 2 * margin) / max(1, count - 1)
        from_edge = (margin + (rank - 1 if i < half else count - rank) * inch for i, rank in enumerate(ranking.ranks))
        if all(distance >= least for distance, least in zip(from_edge, needed, strict=True)):
            return float(margin)
    return float(margins[-1])


def _draw_critical_difference(ax: Axes, difference: float, place: Callable[[float], float]) -> None:
    if math.isnan(difference):
        return
    width, y = ax.get_xlim()[1], 0.33
    end = min(place(1 + difference), width - 0.6)
    marks = [0, 1] if end == place(1 + difference) else [0]  # a bar that is cut at the edge does not have an end mark
    ax.plot([place(1), end], [y, y], color="black", linewidth=1, marker="|", markersize=4, markevery=marks)
    ax.text(end + PAD, y, f"CD {difference:.2f}", fontsize=SMALL, ha="left", va="center")
