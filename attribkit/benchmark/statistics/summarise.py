"""From rows to a summary."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from attribkit.benchmark.statistics import reading
from attribkit.benchmark.statistics.agreement import agreements, rank_methods
from attribkit.benchmark.statistics.bootstrap import Bootstrap, Resamples
from attribkit.benchmark.statistics.comparisons import best, comparisons, inverse_notes, method_flags, sanity_checks
from attribkit.benchmark.statistics.means import Means, estimates, normalised
from attribkit.benchmark.statistics.reading import ALL, MetricScores
from attribkit.benchmark.statistics.summary import (
    Estimate,
    MethodComparison,
    MethodRanking,
    Statistic,
    Summary,
    SummaryScore,
    oracle_of,
    role,
)
from attribkit.core.errors import InvalidInput

if TYPE_CHECKING:
    import pyarrow

Flags = Mapping[tuple[str, str], tuple[str, ...]]


def summarise(
    rows: "pyarrow.Table",
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    oracle: str | None = "occlusion",
) -> Summary:
    """What the rows of a benchmark say; their order does not matter.

    resamples: of the bootstrap over groups. oracle: the method whose faithfulness is 1 in normalised scores; of
    localization it is the mask itself; None is no such method. InvalidInput where rows contradict each other, or come
    twice.
    """
    _check_options(confidence, resamples)
    table = reading.read_rows(rows)
    asked = list(reading.questions(table))
    drawn = Resamples(resamples, seed)
    checks = tuple(
        check
        for question in asked
        if question.subset == ALL and not np.isnan(question.floors).all()
        for check in sanity_checks(question, _means(question, drawn), confidence)
    )
    answers = [
        _answer(question, _means(question, drawn), confidence, oracle, method_flags(checks)) for question in asked
    ]
    by_table = itertools.groupby(asked, lambda question: (question.model, question.subset))
    return Summary(
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        oracle=oracle,
        method_options=reading.plugin_options(table, "method"),
        metric_options=reading.plugin_options(table, "metric"),
        scores=tuple(score for answer in answers for score in answer.scores),
        comparisons=tuple(each for answer in answers for each in answer.comparisons),
        rankings=tuple(answer.ranking for answer in answers if answer.ranking is not None),
        agreements=tuple(each for _, group in by_table for each in agreements(list(group), drawn, confidence)),
        sanity_checks=checks,
        notes=tuple(note for answer in answers for note in answer.notes),
    )


def _check_options(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise InvalidInput(f"confidence={confidence} must be between 0 and 1, such as 0.95.")
    if resamples < 1:
        raise InvalidInput(f"resamples={resamples} must be a number from 1, such as 10_000.")


@dataclass(frozen=True)
class _Answer:
    scores: tuple[SummaryScore, ...]
    comparisons: tuple[MethodComparison, ...]
    ranking: MethodRanking | None
    notes: tuple[str, ...]


def _means(question: MetricScores, resamples: Resamples) -> Means:
    bootstrap = Bootstrap(question.groups, resamples.weights(len(question.identities)))
    return Means(question.values, bootstrap)


def _answer(question: MetricScores, means: Means, confidence: float, oracle: str | None, failing: Flags) -> _Answer:
    own = {method: found for (model, method), found in failing.items() if model == question.model}
    cells = _Cells(question, oracle, own)
    compared = comparisons(question, means, confidence)
    found = estimates(means.drawn, means.defined, question.groups, confidence, question.present)
    scores = cells.scores("mean", found, inverse_notes(question, means, confidence), compared)
    if question.kind == "localization" and (question.categories >= 0).any():
        scores += cells.scores("class_mean", _class_means(question, means, confidence), _categories_missed(question))
    shares, why_not = normalised(question, means, confidence, oracle)
    if shares:
        scores += cells.scores("normalised", shares)
    where = f"{question.metric} on {question.model}" + f" ({question.subset})" * (question.subset != ALL)
    notes = () if why_not is None else (f"{where}: {why_not}",)
    return _Answer(tuple(scores), compared, rank_methods(question, confidence), notes)


@dataclass(frozen=True)
class _Cells:
    """Makes the scores of a question."""

    question: MetricScores
    oracle: str | None
    flags: Mapping[str, tuple[str, ...]]

    def scores(
        self,
        statistic: Statistic,
        found: Sequence[Estimate],
        notes: Mapping[str, str] = MappingProxyType({}),
        compared: Sequence[MethodComparison] = (),
    ) -> list[SummaryScore]:
        question = self.question
        higher = True if statistic == "normalised" else question.higher_is_better
        measure = oracle_of(question.kind, self.oracle) if statistic == "normalised" else None  # 1 by definition
        entered = {
            who.method: each
            for who, each in zip(question.contestants, found, strict=True)
            if not who.inverted and who.method != measure
        }
        bold = best(entered, higher, self.flags, compared)
        return [
            SummaryScore(
                model=question.model,
                subset=question.subset,
                kind=question.kind,
                metric=question.metric,
                higher_is_better=higher,
                statistic=statistic,
                method=who.method,
                inverted=who.inverted,
                role=role(who.method),
                estimate=estimate,
                best=who.method == bold and not who.inverted,
                notes=(notes[who.method],) if who.method in notes and not who.inverted else (),
                flags=self.flags.get(who.method, ()),
            )
            for who, estimate in zip(question.contestants, found, strict=True)
        ]


def _class_means(question: MetricScores, means: Means, confidence: float) -> list[Estimate]:
    known = question.categories >= 0
    drawn = means.class_means(question.categories)
    return estimates(drawn, means.defined[:, known], question.groups[known], confidence, question.present[:, known])


def _categories_missed(question: MetricScores) -> dict[str, str]:
    """Of methods that have no number in some category, what to tell."""
    known = np.unique(question.categories[question.categories >= 0])
    seen = {
        question.contestants[k].method: len(np.intersect1d(question.categories[~np.isnan(question.values[k])], known))
        for k in question.upright()
    }
    return {method: f"over {n} of {len(known)} categories" for method, n in seen.items() if n < len(known)}
