"""The summary of a benchmark's rows."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from attribkit._core.errors import InvalidInput
from attribkit.benchmark._statistics import reading
from attribkit.benchmark._statistics.agreement import metric_agreements, rank_methods
from attribkit.benchmark._statistics.bootstrap import Bootstrap, Resamples
from attribkit.benchmark._statistics.comparisons import (
    best_method,
    compare_methods,
    inverse_notes,
    method_flags,
    sanity_checks,
)
from attribkit.benchmark._statistics.means import Means, make_estimates, normalised_scores
from attribkit.benchmark._statistics.reading import ALL_IMAGES, MetricScores
from attribkit.benchmark._statistics.summary import (
    Estimate,
    MethodComparison,
    MethodRanking,
    Statistic,
    Summary,
    SummaryScore,
    oracle_for,
    role,
)

if TYPE_CHECKING:
    import pyarrow

_Flags = Mapping[tuple[str, str], tuple[str, ...]]  # keyed by model and method


def summarise(
    rows: "pyarrow.Table",
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    oracle: str | None = "occlusion",
) -> Summary:
    """Compute the statistics of a benchmark's rows; the order of the rows does not matter.

    Args:
        rows: A row for each image, map and metric.
        confidence: Level of the intervals and tests, between 0 and 1.
        resamples: Number of bootstrap resamples of the images.
        seed: Seed of the bootstrap.
        oracle: Label of the method that scores 1 in normalised faithfulness; None disables these scores. The oracle
            of localization is the ground-truth mask.

    Returns:
        The summary.

    Raises:
        InvalidInput: If an argument is out of range, or rows contradict each other or occur twice.
    """
    if not 0 < confidence < 1:
        raise InvalidInput(f"confidence must be between 0 and 1, such as 0.95, got {confidence}.")
    if resamples < 1:
        raise InvalidInput(f"resamples must be a positive integer, such as 10_000, got {resamples}.")
    table = reading.read_rows(rows)
    all_scores = list(reading.split_by_metric(table))
    weights = Resamples(resamples, seed)
    checks = tuple(
        check
        for scores in all_scores
        if scores.subset == ALL_IMAGES and not np.isnan(scores.floors).all()
        for check in sanity_checks(scores, _means(scores, weights), confidence)
    )
    flags = method_flags(checks)
    parts = [_summarise_metric(scores, _means(scores, weights), confidence, oracle, flags) for scores in all_scores]
    by_table = itertools.groupby(all_scores, lambda scores: (scores.model, scores.subset))
    return Summary(
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        oracle=oracle,
        method_options=reading.plugin_options(table, "method"),
        metric_options=reading.plugin_options(table, "metric"),
        scores=tuple(score for part in parts for score in part.scores),
        comparisons=tuple(comparison for part in parts for comparison in part.comparisons),
        rankings=tuple(part.ranking for part in parts if part.ranking is not None),
        agreements=tuple(each for _, group in by_table for each in metric_agreements(list(group), weights, confidence)),
        sanity_checks=checks,
        notes=tuple(note for part in parts for note in part.notes),
    )


@dataclass(frozen=True)
class _MetricSummary:
    scores: tuple[SummaryScore, ...]
    comparisons: tuple[MethodComparison, ...]
    ranking: MethodRanking | None
    notes: tuple[str, ...]


def _means(scores: MetricScores, resamples: Resamples) -> Means:
    bootstrap = Bootstrap(scores.groups, resamples.weights(len(scores.group_names)))
    return Means(scores.values, bootstrap)


def _summarise_metric(
    scores: MetricScores, means: Means, confidence: float, oracle: str | None, flags: _Flags
) -> _MetricSummary:
    of_model = {method: each for (model, method), each in flags.items() if model == scores.model}
    builder = _ScoreBuilder(scores, oracle, of_model)
    comparisons = compare_methods(scores, means, confidence)
    estimates = make_estimates(means.statistics, means.defined, scores.groups, confidence, scores.present)
    results = builder.scores("mean", estimates, inverse_notes(scores, means, confidence), comparisons)
    if scores.kind == "localization" and (scores.categories >= 0).any():
        results += builder.scores("class_mean", _class_means(scores, means, confidence), _category_notes(scores))
    normalised, note = normalised_scores(scores, means, confidence, oracle)
    if normalised:
        results += builder.scores("normalised", normalised)
    where = f"{scores.metric} on {scores.model}" + f" ({scores.subset})" * (scores.subset != ALL_IMAGES)
    notes = () if note is None else (f"{where}: {note}",)
    return _MetricSummary(tuple(results), comparisons, rank_methods(scores, confidence), notes)


@dataclass(frozen=True)
class _ScoreBuilder:
    """Converter of the estimates of a metric to the scores of a summary."""

    metric_scores: MetricScores
    oracle: str | None
    flags: Mapping[str, tuple[str, ...]]  # keyed by method

    def scores(
        self,
        statistic: Statistic,
        estimates: Sequence[Estimate],
        notes: Mapping[str, str] = MappingProxyType({}),
        comparisons: Sequence[MethodComparison] = (),
    ) -> list[SummaryScore]:
        source = self.metric_scores
        higher = True if statistic == "normalised" else source.higher_is_better
        oracle = oracle_for(source.kind, self.oracle) if statistic == "normalised" else None  # 1 by definition
        candidates = {
            variant.method: estimate
            for variant, estimate in zip(source.variants, estimates, strict=True)
            if not variant.inverted and variant.method != oracle
        }
        best = best_method(candidates, higher, self.flags, comparisons)
        return [
            SummaryScore(
                model=source.model,
                subset=source.subset,
                kind=source.kind,
                metric=source.metric,
                higher_is_better=higher,
                statistic=statistic,
                method=variant.method,
                inverted=variant.inverted,
                role=role(variant.method),
                estimate=estimate,
                best=variant.method == best and not variant.inverted,
                notes=(notes[variant.method],) if variant.method in notes and not variant.inverted else (),
                flags=self.flags.get(variant.method, ()),
            )
            for variant, estimate in zip(source.variants, estimates, strict=True)
        ]


def _class_means(scores: MetricScores, means: Means, confidence: float) -> list[Estimate]:
    labelled = scores.categories >= 0
    statistics = means.class_means(scores.categories)
    return make_estimates(
        statistics, means.defined[:, labelled], scores.groups[labelled], confidence, scores.present[:, labelled]
    )


def _category_notes(scores: MetricScores) -> dict[str, str]:
    """Return a note for each method without a value in some of the categories."""
    categories = np.unique(scores.categories[scores.categories >= 0])
    covered = {
        scores.variants[k].method: len(np.intersect1d(scores.categories[~np.isnan(scores.values[k])], categories))
        for k in scores.not_inverted()
    }
    return {method: f"over {n} of {len(categories)} categories" for method, n in covered.items() if n < len(categories)}
