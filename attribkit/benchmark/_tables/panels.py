"""The content of a summary's tables, and Rich tables of rankings and of the agreement of metrics."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from string import ascii_lowercase

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from attribkit.benchmark._statistics.summary import Agreement, Estimate, MethodRanking, Summary, SummaryScore

_MAX_COLUMNS = 5  # metrics with intervals that fit on a page or in a terminal
_MAX_DECIMALS = 6
_ROUNDING = 1e-9  # relative to the value: a narrower interval is due to rounding


@dataclass(frozen=True)
class PanelColumn:
    """A column of a panel.

    Args:
        metric: Label of the metric.
        statistic: The statistic that is shown.
        higher_is_better: Direction of the metric; None if it does not have one.
        decimals: Number of decimals that are shown.
    """

    metric: str
    statistic: str
    higher_is_better: bool | None
    decimals: int

    @property
    def title(self) -> str:
        """The metric's label, marked if the column holds class means."""
        return f"{self.metric} (class mean)" if self.statistic == "class_mean" else self.metric


@dataclass(frozen=True)
class PanelRow:
    """A row of a panel.

    Args:
        method: Label of the method.
        cells: A score for each column, or None.
        notes: Failed sanity checks and notes on the scores.
    """

    method: str
    cells: tuple[SummaryScore | None, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Panel:
    """The content of a table: the scores by metrics of one kind on one model and set of images.

    Args:
        model: Label of the model.
        subset: "all", or the name of a subset of the images.
        kind: Kind of the metrics.
        normalised: Whether the scores are normalised.
        columns: A column for each metric.
        methods: Rows of the methods, sorted by name, because the order must not depend on one of the metrics.
        controls: Rows of the controls and of the ground truth.
        caption: The caption.
        numbering: Number of the table, from 1, and how many tables there are with the same model, subset and kind.
    """

    model: str
    subset: str
    kind: str
    normalised: bool
    columns: tuple[PanelColumn, ...]
    methods: tuple[PanelRow, ...]
    controls: tuple[PanelRow, ...]
    caption: str
    numbering: tuple[int, int]

    @property
    def title(self) -> str:
        """The title: model, subset, kind of metrics and number of the part."""
        scale = ", from random (0) to oracle (1)" if self.normalised else ""
        subset = "" if self.subset == "all" else f", {self.subset}"
        number, parts = self.numbering
        return f"{self.model}{subset}: {self.kind}{scale}{f' ({number} of {parts})' if parts > 1 else ''}"


def panels(summary: Summary, max_columns: int = _MAX_COLUMNS) -> list[Panel]:
    """Return the panels for each model, set of images and kind of metrics, with at most `max_columns` metrics in each.

    Normalised scores have separate panels, unless none is defined.
    """
    groups: dict[tuple[str, str, str, bool], list[SummaryScore]] = {}
    for score in summary.scores:
        key = (score.model, score.subset, score.kind, score.statistic == "normalised")
        if not score.inverted:
            groups.setdefault(key, []).append(score)
    return [
        _panel(summary, *key, part, (number, len(parts)))
        for key, scores in groups.items()
        if not _is_undefined(scores)
        for parts in [_split_columns(scores, max_columns)]
        for number, part in enumerate(parts, start=1)
    ]


def cell_text(score: SummaryScore | None, decimals: int) -> tuple[str, str]:
    """Format the value, and its interval with the number of samples where some are excluded."""
    if score is None:
        return "-", ""
    estimate = score.estimate
    excluded = estimate.undefined + estimate.missing
    if math.isnan(estimate.value):
        return "-", f"0 of {excluded}" if excluded and not estimate.samples else ""
    value = f"{estimate.value:z.{decimals}f}"
    interval = f"[{estimate.low:z.{decimals}f}, {estimate.high:z.{decimals}f}]"
    if math.isnan(estimate.low):
        interval = "[-, -]"
    return value, f"{interval} {estimate.samples} of {estimate.samples + excluded}" if excluded else interval


def ranking_tables(summary: Summary) -> list[Table]:
    """Format the mean ranks of the methods, with a column for each metric.

    Methods with a common letter in a column do not differ significantly.

    Args:
        summary: The summary of a benchmark.

    Returns:
        A table for each model and set of images.
    """
    groups = itertools.groupby(summary.rankings, lambda each: (each.model, each.subset))
    return [_ranking_table(_table_name(*key), list(group), summary.confidence) for key, group in groups]


def agreement_tables(summary: Summary) -> list[Table]:
    """Format the agreement of metrics as a matrix: tau-b of the methods' mean ranks, and averaged over images.

    Args:
        summary: The summary of a benchmark.

    Returns:
        A table for each model and set of images.
    """
    groups = itertools.groupby(summary.agreements, lambda each: (each.model, each.subset))
    return [
        _agreement_table(_table_name(*key), {(each.first, each.second): each for each in group})
        for key, group in groups
    ]


def _split_columns(scores: list[SummaryScore], most: int) -> list[list[SummaryScore]]:
    """Split the scores into parts with as many columns as fit into a table."""
    columns: dict[tuple[str, str], list[SummaryScore]] = {}
    for score in scores:
        columns.setdefault((score.metric, score.statistic), []).append(score)
    grouped = list(columns.values())
    starts = range(0, len(grouped), most)
    return [[score for column in grouped[start : start + most] for score in column] for start in starts]


def _panel(
    summary: Summary,
    model: str,
    subset: str,
    kind: str,
    normalised: bool,
    scores: list[SummaryScore],
    numbering: tuple[int, int],
) -> Panel:
    by_column: dict[tuple[str, str], dict[str, SummaryScore]] = {}
    for score in scores:
        by_column.setdefault((score.metric, score.statistic), {})[score.method] = score
    columns = [_column(*key, column.values()) for key, column in by_column.items()]
    roles = {score.method: score.role for score in scores}
    rows = {method: _row(method, [column.get(method) for column in by_column.values()]) for method in sorted(roles)}
    return Panel(
        model=model,
        subset=subset,
        kind=kind,
        normalised=normalised,
        columns=tuple(columns),
        methods=tuple(row for method, row in rows.items() if roles[method] == "method"),
        controls=tuple(row for method, row in rows.items() if roles[method] != "method"),
        caption=_caption(summary, scores),
        numbering=numbering,
    )


def _column(metric: str, statistic: str, scores: Iterable[SummaryScore]) -> PanelColumn:
    scores = list(scores)
    return PanelColumn(metric, statistic, scores[0].higher_is_better, _decimals(score.estimate for score in scores))


def _decimals(estimates: Iterable[Estimate]) -> int:
    """Return the decimals that show two digits of half the median interval of a column."""
    halves = [(each.high - each.low) / 2 for each in estimates if each.high - each.low > _ROUNDING * abs(each.value)]
    return min(max(1 - math.floor(math.log10(median(halves))), 0), _MAX_DECIMALS) if halves else 3


def _row(method: str, cells: list[SummaryScore | None]) -> PanelRow:
    flags = [flag for score in cells if score is not None for flag in score.flags]
    notes = [
        f"{score.metric}{' (class mean)' * (score.statistic == 'class_mean')}: {note}"
        for score in cells
        if score is not None
        for note in score.notes
    ]
    return PanelRow(method, tuple(cells), tuple(dict.fromkeys([*flags, *notes])))


def _caption(summary: Summary, scores: list[SummaryScore]) -> str:
    if not any(score.estimate.samples for score in scores):
        return "None of the scores is defined: metrics of localization need masks or boxes of the objects."
    metrics: dict[str, list[str]] = {}
    for metric in dict.fromkeys(score.metric for score in scores):
        estimates = [score.estimate for score in scores if score.metric == metric]
        samples, groups = max(each.samples for each in estimates), max(each.groups for each in estimates)
        over = f"{groups} images" if samples == groups else f"{samples} samples of {groups} images"
        metrics.setdefault(over, []).append(metric)
    over = next(iter(metrics)) if len(metrics) == 1 else ", ".join(f"{o} ({', '.join(m)})" for o, m in metrics.items())
    flat = any(s.statistic != "normalised" and s.estimate.low == s.estimate.high for s in scores)
    return (
        f"Means over {over} and their {summary.confidence:.0%} bootstrap intervals ({summary.resamples} resamples of "
        "images)."
        + " Bold: does not overlap with the interval of any other method or control." * any(s.best for s in scores)
        + " Zero width: all images have the same value, which does not make the mean certain." * flat
    )


def _is_undefined(scores: list[SummaryScore]) -> bool:
    """Return whether these are normalised scores and none is defined; the summary's notes give the reason."""
    return scores[0].statistic == "normalised" and all(math.isnan(score.estimate.value) for score in scores)


def _ranking_table(name: str, rankings: list[MethodRanking], confidence: float) -> Table:
    fewest, most = min(ranking.images for ranking in rankings), max(ranking.images for ranking in rankings)
    over = f"{most} images" if fewest == most else f"{fewest} to {most} images"
    table = _rich_table(
        f"{name}: mean ranks",
        f"1 is the best; over {over}. Methods with the same letter in one column do not differ significantly "
        f"(Friedman's test and Nemenyi's critical difference, {confidence:.0%}).",
    )
    for heading in ("method", *(ranking.metric for ranking in rankings)):
        table.add_column(escape(heading))
    for method in sorted({method for ranking in rankings for method in ranking.methods}):
        table.add_row(escape(method), *(_rank(ranking, method) for ranking in rankings))
    table.add_section()
    table.add_row("critical difference", *(f"{ranking.critical_difference:.2f}" for ranking in rankings))
    table.add_row("Kendall's W", *(f"{ranking.concordance:.2f}" for ranking in rankings))
    return table


def _rank(ranking: MethodRanking, method: str) -> str:
    if method not in ranking.methods:
        return "-"
    rank = ranking.ranks[ranking.methods.index(method)]
    return " ".join([f"{rank:.2f}", *clique_letters(ranking.cliques, method)])


def clique_letters(cliques: Iterable[tuple[str, ...]], method: str) -> list[str]:
    """Return a letter for each group that contains the method; methods with a common letter do not differ."""
    names = (f"{letter}{turn or ''}" for turn in itertools.count() for letter in ascii_lowercase)
    return [name for name, clique in zip(names, cliques, strict=False) if method in clique]


def _agreement_table(name: str, pairs: dict[tuple[str, str], Agreement]) -> Table:
    metrics = sorted({metric for pair in pairs for metric in pair})
    table = _rich_table(
        f"{name}: do metrics rank methods alike?",
        "Kendall's tau-b of the methods' mean ranks; in brackets its mean over images, and the interval of that mean.",
    )
    table.add_column("")
    for metric in metrics[1:]:
        table.add_column(escape(metric))
    for first in metrics[:-1]:
        agreements = [pairs.get((first, second)) for second in metrics[1:]]
        table.add_row(escape(first), *("" if each is None else _agreement_text(each) for each in agreements))
    return table


def _agreement_text(agreement: Agreement) -> str:
    image = agreement.kendall_per_image
    return f"{agreement.kendall:z.2f} ({image.value:z.2f}: {image.low:z.2f} to {image.high:z.2f})"


def _rich_table(title: str, caption: str) -> Table:
    table = Table(title=escape(title), caption=caption, box=SIMPLE_HEAD, title_justify="left")
    table.caption_justify = "left"
    return table


def _table_name(model: str, subset: str) -> str:
    return model if subset == "all" else f"{model}, {subset}"
