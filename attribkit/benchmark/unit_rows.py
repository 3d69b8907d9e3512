"""[benchmark/execution/cost] What a map costs: time, forwards and memory.
[benchmark/execution/numbers] The numbers of a shard's maps: all together, so that what does not depend on the maps is asked once.
[benchmark/execution/unit_rows] The rows of a unit: for each metric, for the map and its inverse, one for each image.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from attribkit.benchmark.settings.plan import Inverted, WorkUnit
from attribkit.benchmark.shard import Shard, sentence_of
from attribkit.benchmark.statistics.summary import TRUTH, role
from attribkit.contracts.attribution import Attribution
from attribkit.contracts.method import Method
from attribkit.contracts.metric import Faithfulness, Localization, Metric, Robustness
from attribkit.core.ground_truth import GroundTruth
from attribkit.core.progress import track
from attribkit.core.shapes import Images
from attribkit.explainer import Explainer
from attribkit.runs.measurement import MetricSession

_MIB = 1024**2
_PEAK, _FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux

Returned = TypeVar("Returned")


@dataclass(frozen=True)
class Cost:
    """Of a call that explained some images."""

    milliseconds: float
    forwards: float  # images that went through the model
    peak_mib: float | None  # memory beyond what was taken before; None where it cannot be measured

    def per_image(self, images: int) -> "Cost":
        """Time and forwards of each of so many images; the memory is that of all of them."""
        return Cost(self.milliseconds / images, self.forwards / images, self.peak_mib)


def measure_cost(explainer: Explainer, device: torch.device, call: Callable[[], Returned]) -> tuple[Returned, Cost]:
    """What the call gives, and what it costs; the device is waited for."""
    peak = _cuda_peak if device.type == "cuda" else _resident_peak
    before = peak(device, forget=True)
    seen, start = explainer.model.image_count, _now(device)
    result = call()
    milliseconds = 1000 * (_now(device) - start)
    after = peak(device, forget=False)
    grown = None if before is None or after is None else max(0.0, after - before)
    return result, Cost(milliseconds, float(explainer.model.image_count - seen), grown)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _cuda_peak(device: torch.device, *, forget: bool) -> float:
    """The most that tensors took since it was last forgotten."""
    if forget:
        torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.max_memory_allocated(device) / _MIB


def _resident_peak(_device: torch.device, *, forget: bool) -> float | None:
    """The most that the process took since it was last forgotten; None where the system does not tell."""
    try:
        if forget:
            _FORGET_PEAK.write_text("5", encoding="ascii")
        line = next(line for line in _PEAK.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None
    return float(line.split()[1]) / 1024


MapSide = tuple[str, bool]  # a method, and whether its map is negated


@dataclass(frozen=True, eq=False)
class MetricColumn:
    """What a metric gives one map, image by image."""

    values: Tensor
    details: Mapping[str, Tensor]


@dataclass
class UnitMetrics:
    """What was found of some maps by some metrics, and what could not be."""

    explainer: Explainer
    metrics: Mapping[str, Metric]
    x: Images
    maps: Mapping[str, Attribution]
    truth: GroundTruth
    columns: dict[tuple[str, MapSide], MetricColumn] = field(default_factory=dict)
    failures: list[tuple[str, str, str]] = field(default_factory=list)  # method, metric, why
    _measuring: MetricSession | None = None
    _scored: dict[MapSide, Attribution] = field(default_factory=dict)

    def find(self) -> None:
        """Measure everything, one metric after the other, all of which know what the model was asked before."""
        for title, metric in track(self.metrics.items(), "metrics", len(self.metrics)):
            if subjects := self._subjects(metric):
                self._attempt(title, subjects)
        self._measuring = None  # and with it what the model said
        self._scored.clear()

    def _subjects(self, metric: Metric) -> tuple[MapSide, ...]:
        """The maps that a metric scores: of each method's also the inverse where the metric would see one."""
        if isinstance(metric, Robustness):
            return tuple((name, False) for name in self.maps if name != TRUTH)  # which asks nothing
        inverts = isinstance(metric, Faithfulness | Localization) and metric.reduce == "sum"
        both = {name for name in self.maps if inverts and role(name) == "method"}
        return tuple((name, inverted) for name in self.maps for inverted in (False, True)[: 1 + (name in both)])

    def _attempt(self, title: str, subjects: Sequence[MapSide]) -> None:
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

    def _measure(self, title: str, subjects: Sequence[MapSide]) -> None:
        self._measuring = self._measuring or self.explainer.metric_session(self.x, mask=self.truth)
        found = self._measuring(self.metrics[title], [self._map(subject) for subject in subjects])
        for place, subject in enumerate(subjects):
            details = {name: detail[place] for name, detail in found.details.items()}
            self.columns[title, subject] = MetricColumn(found.values[place], details)

    def _map(self, subject: MapSide) -> Attribution:
        """The map, or its inverse; the same one for all metrics, so that what is remembered of it serves them all."""
        if subject not in self._scored:
            method, inverted = subject
            self._scored[subject] = _inverse(self.maps[method]) if inverted else self.maps[method]
        return self._scored[subject]


def _inverse(attribution: Attribution) -> Attribution:
    assert isinstance(attribution.method, Method)
    return replace(attribution, scores=-attribution.scores, method=Inverted(attribution.method))


_OWN_COLUMNS = {"tie_share", "floor"}  # of the details

ResultRow = dict[str, Any]


def unit_rows(
    unit: WorkUnit, shard: Shard, numbers: UnitMetrics, cost: Cost | None, *, with_details: bool
) -> Iterator[ResultRow]:
    """The rows of one method's maps of a shard; with all that metrics have beside their numbers, such as curves."""
    if unit.method not in numbers.maps:
        return
    of_method = {
        "model": unit.model,
        "method": unit.method,
        "method_options": repr(numbers.maps[unit.method].method),
        **(vars(cost) if cost else {}),
    }
    for title, metric in numbers.metrics.items():
        for inverted in (False, True):
            column = numbers.columns.get((title, (unit.method, inverted)))
            if column is not None:
                shared = of_method | {"inverted": inverted} | _of_metric(title, metric)
                yield from (shared | each for each in _of_images(unit, shard, column, metric, with_details))


def _of_metric(title: str, metric: Metric) -> ResultRow:
    return {
        "metric": title,
        "metric_options": repr(metric),
        "higher_is_better": metric.higher_is_better,
        "kind": metric.kind,
    }


def _of_images(
    unit: WorkUnit, shard: Shard, column: MetricColumn, metric: Metric, with_details: bool
) -> Iterator[ResultRow]:
    values = column.values.double().tolist()
    details = {name: detail.tolist() for name, detail in column.details.items()}
    own = details.keys() & _OWN_COLUMNS
    for place, sample in enumerate(shard.samples):
        if sample.mask is None and unit.method == TRUTH:
            continue
        nobody_told = sample.mask is None and isinstance(metric, Localization)
        yield {
            "image": sample.id,
            "group": sample.group,
            "category": sample.category,
            "subsets": sorted(sample.subsets),
            "target": shard.classes[place],
            "label": sample.label,
            "value": float("nan") if nobody_told else values[place],
            **{name: details[name][place] for name in own},
            "details": _kept(details, place) if with_details else None,
        }


def _kept(details: Mapping[str, Any], place: int) -> list[tuple[str, list[float]]]:
    """What an image has of the details that have no column of their own."""
    return [(name, _row(detail[place])) for name, detail in details.items() if name not in _OWN_COLUMNS]


def _row(detail: Any) -> list[float]:
    """The numbers that an image has of a detail, in a row."""
    if not isinstance(detail, list):
        return [detail]
    return [number for each in detail for number in _row(each)]
