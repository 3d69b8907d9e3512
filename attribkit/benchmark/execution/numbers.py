"""The numbers of a shard's maps: all together, so that what does not depend on the maps is asked once."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from attribkit.benchmark.execution.shard import sentence_of
from attribkit.benchmark.settings.controls import Inverted
from attribkit.benchmark.statistics.roles import TRUTH, role
from attribkit.core.attribution import Attribution
from attribkit.core.measured import Measuring
from attribkit.core.method import Method
from attribkit.core.metric import Faithfulness, Localization, Metric, Robustness
from attribkit.core.progress import tracked
from attribkit.core.shapes import Images
from attribkit.core.truth import Truth
from attribkit.explainer import Explainer

Subject = tuple[str, bool]  # a method, and whether its map is negated


@dataclass(frozen=True, eq=False)
class Column:
    """What a metric gives one map, image by image."""

    values: Tensor
    details: Mapping[str, Tensor]


@dataclass
class Numbers:
    """What was found of some maps by some metrics, and what could not be."""

    explainer: Explainer
    metrics: Mapping[str, Metric]
    x: Images
    maps: Mapping[str, Attribution]
    truth: Truth
    columns: dict[tuple[str, Subject], Column] = field(default_factory=dict)
    failures: list[tuple[str, str, str]] = field(default_factory=list)  # method, metric, why
    _measuring: Measuring | None = None
    _scored: dict[Subject, Attribution] = field(default_factory=dict)

    def find(self) -> None:
        """Measure everything, one metric after the other, all of which know what the model was asked before."""
        for title, metric in tracked(self.metrics.items(), "metrics", len(self.metrics)):
            if subjects := self._subjects(metric):
                self._attempt(title, subjects)
        self._measuring = None  # and with it what the model said
        self._scored.clear()

    def _subjects(self, metric: Metric) -> tuple[Subject, ...]:
        """The maps that a metric scores: of each method's also the inverse where the metric would see one."""
        if isinstance(metric, Robustness):
            return tuple((name, False) for name in self.maps if name != TRUTH)  # which asks nothing
        inverts = isinstance(metric, Faithfulness | Localization) and metric.reduce == "sum"
        both = {name for name in self.maps if inverts and role(name) == "method"}
        return tuple((name, inverted) for name in self.maps for inverted in (False, True)[: 1 + (name in both)])

    def _attempt(self, title: str, subjects: Sequence[Subject]) -> None:
        """Measure some maps together; where that fails, method by method, so that only the guilty are left out."""
        try:
            self._measure(title, subjects)
            return
        except Exception as error:
            why, is_full = sentence_of(error), isinstance(error, MemoryError | torch.OutOfMemoryError)
        if is_full:
            self._measuring = None  # what is remembered takes memory too
            gc.collect()
            torch.cuda.empty_cache()
        methods = list(dict.fromkeys(method for method, _ in subjects))
        if len(methods) == 1:
            self.failures.append((methods[0], title, why))
        else:
            for method in methods:
                self._attempt(title, [subject for subject in subjects if subject[0] == method])

    def _measure(self, title: str, subjects: Sequence[Subject]) -> None:
        self._measuring = self._measuring or self.explainer.measuring(self.x, mask=self.truth)
        found = self._measuring(self.metrics[title], [self._map(subject) for subject in subjects])
        for place, subject in enumerate(subjects):
            details = {name: detail[place] for name, detail in found.details.items()}
            self.columns[title, subject] = Column(found.values[place], details)

    def _map(self, subject: Subject) -> Attribution:
        """The map, or its inverse; the same one for all metrics, so that what is remembered of it serves them all."""
        if subject not in self._scored:
            method, inverted = subject
            self._scored[subject] = _inverse(self.maps[method]) if inverted else self.maps[method]
        return self._scored[subject]


def _inverse(attribution: Attribution) -> Attribution:
    assert isinstance(attribution.method, Method)
    return replace(attribution, scores=-attribution.scores, method=Inverted(attribution.method))
