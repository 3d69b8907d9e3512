"""[benchmark/tables/order] Who comes before whom, and whether metrics agree on it, in the terminal.
[benchmark/tables/panels] What the tables show, however they are written.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from string import ascii_lowercase

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from attribkit.benchmark.statistics.summary import Agreement, Estimate, MethodRanking, Summary, SummaryScore


def ranking_tables(summary: Summary) -> list[Table]:
    """Mean ranks for each model and set of images; methods that share a letter in a metric's column are one clique."""
    groups = itertools.groupby(summary.rankings, lambda each: (each.model, each.subset))
    return [_ranks(_where(*key), list(group), summary.confidence) for key, group in groups]


def agreement_tables(summary: Summary) -> list[Table]:
    """A matrix of metrics for each model and set of images: tau-b of the methods' mean ranks, and on one image."""
    groups = itertools.groupby(summary.agreements, lambda each: (each.model, each.subset))
    return [_matrix(_where(*key), {(each.first, each.second): each for each in group}) for key, group in groups]


def _ranks(where: str, rankings: list[MethodRanking], confidence: float) -> Table:
    fewest, most = min(ranking.images for ranking in rankings), max(ranking.images for ranking in rankings)
    over = f"{most} images" if fewest == most else f"{fewest} to {most} images"
    table = _table(
        f"{where}: mean ranks",
        f"1 is the best; over {over}. Methods that share a letter in a column are not told apart (Friedman's test and "
        f"Nemenyi's critical difference, {confidence:.0%}).",
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
    return " ".join([f"{rank:.2f}", *_letters(ranking.cliques, method)])


def _letters(cliques: Iterable[tuple[str, ...]], method: str) -> list[str]:
    names = (f"{letter}{turn or ''}" for turn in itertools.count() for letter in ascii_lowercase)
    return [name for name, clique in zip(names, cliques, strict=False) if method in clique]


def _matrix(where: str, pairs: dict[tuple[str, str], Agreement]) -> Table:
    metrics = sorted({metric for pair in pairs for metric in pair})
    table = _table(
        f"{where}: do metrics rank methods alike?",
        "Kendall's tau-b of the methods' mean ranks; in brackets on one image, averaged, and its interval.",
    )
    table.add_column("")
    for metric in metrics[1:]:
        table.add_column(escape(metric))
    for first in metrics[:-1]:
        cells = [pairs.get((first, second)) for second in metrics[1:]]
        table.add_row(escape(first), *("" if each is None else _cell(each) for each in cells))
    return table


def _table(title: str, caption: str) -> Table:
    table = Table(title=escape(title), caption=caption, box=SIMPLE_HEAD, title_justify="left")
    table.caption_justify = "left"
    return table


def _cell(each: Agreement) -> str:
    image = each.kendall_per_image
    return f"{each.kendall:z.2f} ({image.value:z.2f}: {image.low:z.2f} to {image.high:z.2f})"


def _where(model: str, subset: str) -> str:
    return model if subset == "all" else f"{model}, {subset}"


_COLUMNS = 5  # metrics of a table: values with intervals, on a page or in a terminal
_DIGITS = 6  # at most, behind the point
_NOISE = 1e-9  # an interval that is narrower, relative to its value, has no width but rounding


@dataclass(frozen=True)
class PanelColumn:
    """A metric and what is told of it."""

    metric: str
    statistic: str
    higher_is_better: bool | None
    decimals: int

    @property
    def title(self) -> str:
        """The metric's label, and that it is a class mean."""
        return f"{self.metric} (class mean)" if self.statistic == "class_mean" else self.metric


@dataclass(frozen=True)
class PanelLine:
    """The maps of a method: a score for each column, or None, and what to tell beside them."""

    method: str
    cells: tuple[SummaryScore | None, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Panel:
    """One table: the scores of a kind of metrics on one model and set of images."""

    model: str
    subset: str
    kind: str
    normalised: bool
    columns: tuple[PanelColumn, ...]
    methods: tuple[PanelLine, ...]  # by name: no metric is the one that orders them
    controls: tuple[PanelLine, ...]  # set apart; the truth among them
    caption: str
    part: tuple[int, int]  # which, from 1, of how many tables of the same kind

    @property
    def title(self) -> str:
        """What the table is of."""
        scale = ", from random (0) to oracle (1)" if self.normalised else ""
        subset = "" if self.subset == "all" else f", {self.subset}"
        own, parts = self.part
        return f"{self.model}{subset}: {self.kind}{scale}{f' ({own} of {parts})' if parts > 1 else ''}"


def panels(summary: Summary) -> list[Panel]:
    """Tables for each model, set of images and kind of metrics, and more where scores are normalised.

    A table has as many metrics as fit on a page.
    """
    groups: dict[tuple[str, str, str, bool], list[SummaryScore]] = {}
    for score in summary.scores:
        key = (score.model, score.subset, score.kind, score.statistic == "normalised")
        if not score.inverted:
            groups.setdefault(key, []).append(score)
    return [
        _panel(summary, *key, part, (place, len(parts)))
        for key, scores in groups.items()
        if not _empty(scores)
        for parts in [_parts(scores)]
        for place, part in enumerate(parts, start=1)
    ]


def _parts(scores: list[SummaryScore]) -> list[list[SummaryScore]]:
    """The scores, so many columns together."""
    columns: dict[tuple[str, str], list[SummaryScore]] = {}
    for score in scores:
        columns.setdefault((score.metric, score.statistic), []).append(score)
    grouped = list(columns.values())
    starts = range(0, len(grouped), _COLUMNS)
    return [[score for column in grouped[start : start + _COLUMNS] for score in column] for start in starts]


def cell(score: SummaryScore | None, decimals: int) -> tuple[str, str]:
    """The value and its interval as text; and over how many samples, where not over all."""
    if score is None:
        return "-", ""
    estimate = score.estimate
    left_out = estimate.undefined + estimate.missing
    if math.isnan(estimate.value):
        return "-", f"0 of {left_out}" if left_out and not estimate.samples else ""
    value = f"{estimate.value:z.{decimals}f}"
    interval = f"[{estimate.low:z.{decimals}f}, {estimate.high:z.{decimals}f}]"
    if math.isnan(estimate.low):
        interval = "[-, -]"
    return value, f"{interval} {estimate.samples} of {estimate.samples + left_out}" if left_out else interval


def _panel(
    summary: Summary,
    model: str,
    subset: str,
    kind: str,
    normalised: bool,
    scores: list[SummaryScore],
    part: tuple[int, int],
) -> Panel:
    by_column: dict[tuple[str, str], dict[str, SummaryScore]] = {}
    for score in scores:
        by_column.setdefault((score.metric, score.statistic), {})[score.method] = score
    columns = [_column(*key, column.values()) for key, column in by_column.items()]
    roles = {score.method: score.role for score in scores}
    lines = {method: _line(method, [column.get(method) for column in by_column.values()]) for method in sorted(roles)}
    return Panel(
        model=model,
        subset=subset,
        kind=kind,
        normalised=normalised,
        columns=tuple(columns),
        methods=tuple(line for method, line in lines.items() if roles[method] == "method"),
        controls=tuple(line for method, line in lines.items() if roles[method] != "method"),
        caption=_caption(summary, scores),
        part=part,
    )


def _column(metric: str, statistic: str, scores: Iterable[SummaryScore]) -> PanelColumn:
    scores = list(scores)
    return PanelColumn(metric, statistic, scores[0].higher_is_better, _decimals(score.estimate for score in scores))


def _decimals(estimates: Iterable[Estimate]) -> int:
    """So many that half an interval has two digits, in the middle of the column."""
    halves = [(each.high - each.low) / 2 for each in estimates if each.high - each.low > _NOISE * abs(each.value)]
    return min(max(1 - math.floor(math.log10(median(halves))), 0), _DIGITS) if halves else 3


def _line(method: str, cells: list[SummaryScore | None]) -> PanelLine:
    flags = [flag for score in cells if score is not None for flag in score.flags]
    notes = [
        f"{score.metric}{' (class mean)' * (score.statistic == 'class_mean')}: {note}"
        for score in cells
        if score is not None
        for note in score.notes
    ]
    return PanelLine(method, tuple(cells), tuple(dict.fromkeys([*flags, *notes])))


def _caption(summary: Summary, scores: list[SummaryScore]) -> str:
    if not any(score.estimate.samples for score in scores):
        return "No number is defined: metrics of localization need masks or boxes of the objects."
    metrics: dict[str, list[str]] = {}
    for metric in dict.fromkeys(score.metric for score in scores):
        own = [score.estimate for score in scores if score.metric == metric]
        samples, groups = max(each.samples for each in own), max(each.groups for each in own)
        over = f"{groups} images" if samples == groups else f"{samples} samples of {groups} images"
        metrics.setdefault(over, []).append(metric)
    over = next(iter(metrics)) if len(metrics) == 1 else ", ".join(f"{o} ({', '.join(m)})" for o, m in metrics.items())
    flat = any(s.statistic != "normalised" and s.estimate.low == s.estimate.high for s in scores)
    return (
        f"Means over {over} and their {summary.confidence:.0%} bootstrap intervals ({summary.resamples} resamples of "
        "images)."
        + " Bold: no interval of another method or control overlaps." * any(score.best for score in scores)
        + " No width: all images have the same number, which does not make it sure." * flat
    )


def _empty(scores: list[SummaryScore]) -> bool:
    """Whether they are normalised scores of which none is defined; the summary's notes say why."""
    return scores[0].statistic == "normalised" and all(math.isnan(score.estimate.value) for score in scores)
