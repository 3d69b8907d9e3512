"""The numbers of a shard's maps: all together, so that what does not depend on the maps is asked once."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from attribkit.benchmark.controls import Inverted
from attribkit.benchmark.shard import told
from attribkit.benchmark.statistics.roles import TRUTH, role
from attribkit.core.attribution import Attribution
from attribkit.core.method import Method
from attribkit.core.metric import Faithfulness, Localization, Metric, Robustness
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
    maps: Mapping[str, Attribution]
    truth: Truth
    columns: dict[tuple[str, Subject], Column] = field(default_factory=dict)
    failures: list[tuple[str, str, str]] = field(default_factory=list)  # method, metric, why

    def find(self) -> None:
        """Measure everything; what fails together is tried apart, so that only the guilty are left out."""
        alike: dict[tuple[Subject, ...], list[str]] = {}
        for title, metric in self.metrics.items():
            alike.setdefault(self._subjects(metric), []).append(title)
        for subjects, titles in alike.items():
            if subjects:
                self._attempt(titles, subjects)

    def _subjects(self, metric: Metric) -> tuple[Subject, ...]:
        """The maps that a metric scores: of each method's also the inverse where the metric would see one."""
        if isinstance(metric, Robustness):
            return tuple((name, False) for name in self.maps if name != TRUTH)  # which asks nothing
        inverts = isinstance(metric, Faithfulness | Localization) and metric.reduce == "sum"
        both = {name for name in self.maps if inverts and role(name) == "method"}
        return tuple((name, inverted) for name in self.maps for inverted in (False, True)[: 1 + (name in both)])

    def _attempt(self, titles: Sequence[str], subjects: Sequence[Subject]) -> None:
        try:
            self._measure(titles, subjects)
            return
        except Exception as error:
            why, is_full = told(error), isinstance(error, MemoryError | torch.OutOfMemoryError)
        if is_full:
            gc.collect()
            torch.cuda.empty_cache()
        methods = list(dict.fromkeys(method for method, _ in subjects))
        if len(titles) == len(methods) == 1:
            self.failures.append((methods[0], titles[0], why))
        elif len(titles) > 1:
            for title in titles:
                self._attempt([title], subjects)
        else:
            for method in methods:
                self._attempt(titles, [subject for subject in subjects if subject[0] == method])

    def _measure(self, titles: Sequence[str], subjects: Sequence[Subject]) -> None:
        attributions = [self._map(*subject) for subject in subjects]
        metrics = [self.metrics[title] for title in titles]
        found = self.explainer.measure(attributions, metrics, mask=self.truth)
        for title, each in zip(titles, found, strict=True):
            for place, subject in enumerate(subjects):
                details = {name: detail[place] for name, detail in each.details.items()}
                self.columns[title, subject] = Column(each.values[place], details)

    def _map(self, method: str, inverted: bool) -> Attribution:
        straight = self.maps[method]
        if not inverted:
            return straight
        assert isinstance(straight.method, Method)
        return replace(straight, scores=-straight.scores, method=Inverted(straight.method))
