"""The scores of a shard's maps, their cost, and the rows of results."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.method import Method
from attribkit._contracts.metric import Faithfulness, Localization, Metric, Robustness
from attribkit._core.ground_truth import GroundTruth
from attribkit._core.shapes import Images
from attribkit._display.progress import track
from attribkit._explainer import Explainer
from attribkit._runs.measurement import MetricSession
from attribkit.benchmark._settings.plan import Inverted, WorkUnit
from attribkit.benchmark._shard import Shard, format_error
from attribkit.benchmark._statistics.summary import TRUTH, role

_MIB = 1024**2
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux
_DETAIL_COLUMNS = {"tie_fraction", "floor"}  # details with a column in the rows

MapSide = tuple[str, bool]  # a method, and whether its map is inverted
ResultRow = dict[str, Any]
CallResult = TypeVar("CallResult")


@dataclass(frozen=True)
class Cost:
    """The cost of explaining some images.

    Args:
        milliseconds: Wall-clock time.
        forwards: Number of images that passed through the model.
        peak_mib: Peak memory beyond what was in use before, in MiB; None where it cannot be measured.
    """

    milliseconds: float
    forwards: float
    peak_mib: float | None

    def per_image(self, images: int) -> "Cost":
        """Divide time and forwards by the number of images; the memory is that of all of them."""
        return Cost(self.milliseconds / images, self.forwards / images, self.peak_mib)


def measure_cost(explainer: Explainer, device: torch.device, call: Callable[[], CallResult]) -> tuple[CallResult, Cost]:
    """Call a function, and return its result and cost, with the device synchronized."""
    peak = _cuda_peak if device.type == "cuda" else _resident_peak
    before = peak(device, reset=True)
    image_count, start = explainer.model.image_count, _now(device)
    result = call()
    milliseconds = 1000 * (_now(device) - start)
    after = peak(device, reset=False)
    growth = None if before is None or after is None else max(0.0, after - before)
    return result, Cost(milliseconds, float(explainer.model.image_count - image_count), growth)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _cuda_peak(device: torch.device, *, reset: bool) -> float:
    """Return the peak memory of tensors since the last reset, in MiB."""
    if reset:
        torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.max_memory_allocated(device) / _MIB


def _resident_peak(_device: torch.device, *, reset: bool) -> float | None:
    """Return the peak resident memory of the process since the last reset, in MiB; None if it is not available."""
    try:
        if reset:
            _CLEAR_REFS.write_text("5", encoding="ascii")
        line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None
    return float(line.split()[1]) / 1024


@dataclass(frozen=True, eq=False)
class MetricColumn:
    """The values and details of a metric for each image of one map."""

    values: Tensor
    details: Mapping[str, Tensor]


@dataclass
class ShardScores:
    """The scores of a shard's maps by all metrics.

    All maps are measured together, so results that do not depend on the maps are computed once.

    Args:
        explainer: The explainer of the model.
        metrics: The metrics by label.
        x: The images.
        maps: The maps by the label of their method.
        truth: The ground truth of the images.
        columns: The scores of each metric and map.
        failures: Method, metric and reason of each failure.
    """

    explainer: Explainer
    metrics: Mapping[str, Metric]
    x: Images
    maps: Mapping[str, Attribution]
    truth: GroundTruth
    columns: dict[tuple[str, MapSide], MetricColumn] = field(default_factory=dict)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    _session: MetricSession | None = None
    _attributions: dict[MapSide, Attribution] = field(default_factory=dict)

    def compute(self) -> None:
        """Compute all metrics, one after the other, with a common cache of model outputs."""
        for title, metric in track(self.metrics.items(), "metrics"):
            if sides := self._sides(metric):
                self._try(title, sides)
        self._session = None  # frees the cache
        self._attributions.clear()

    def _sides(self, metric: Metric) -> tuple[MapSide, ...]:
        """Return the maps that a metric scores, with inverted ones if the metric depends on the sign."""
        if isinstance(metric, Robustness):
            return tuple((name, False) for name in self.maps if name != TRUTH)  # the mask does not depend on the model
        inverts = isinstance(metric, Faithfulness | Localization) and metric.reduce == "sum"
        both = {name for name in self.maps if inverts and role(name) == "method"}
        return tuple((name, inverted) for name in self.maps for inverted in (False, True)[: 1 + (name in both)])

    def _try(self, title: str, sides: Sequence[MapSide]) -> None:
        """Measure some maps together; after an error, measure each method alone, to lose only the failing ones."""
        try:
            self._measure(title, sides)
            return
        except Exception as error:
            reason, is_full = format_error(error), isinstance(error, MemoryError | torch.OutOfMemoryError)
        if is_full:
            self._session = None  # frees the cache
            gc.collect()
            torch.cuda.empty_cache()
        methods = list(dict.fromkeys(method for method, _ in sides))
        if len(methods) == 1:
            self.failures.append((methods[0], title, reason))
        else:
            for method in methods:
                self._try(title, [side for side in sides if side[0] == method])

    def _measure(self, title: str, sides: Sequence[MapSide]) -> None:
        self._session = self._session or self.explainer.metric_session(self.x, mask=self.truth)
        result = self._session(self.metrics[title], [self._attribution(side) for side in sides])
        for k, side in enumerate(sides):
            details = {name: detail[k] for name, detail in result.details.items()}
            self.columns[title, side] = MetricColumn(result.values[k], details)

    def _attribution(self, side: MapSide) -> Attribution:
        """Return the map or its inverse; the same object for all metrics, because caches depend on its identity."""
        if side not in self._attributions:
            method, inverted = side
            self._attributions[side] = _inverse(self.maps[method]) if inverted else self.maps[method]
        return self._attributions[side]


def _inverse(attribution: Attribution) -> Attribution:
    method = cast(Method, attribution.method)  # not one that was read from a file: the benchmark computed the map
    return replace(attribution, scores=-attribution.scores, method=Inverted(method))


def unit_rows(
    unit: WorkUnit, shard: Shard, scores: ShardScores, cost: Cost | None, *, with_details: bool
) -> Iterator[ResultRow]:
    """Yield the rows of one method's maps of a shard, if requested with curves and other details of metrics."""
    if unit.method not in scores.maps:
        return
    of_method = {
        "model": unit.model,
        "method": unit.method,
        "method_options": repr(scores.maps[unit.method].method),
        **(vars(cost) if cost else {}),
    }
    for title, metric in scores.metrics.items():
        for inverted in (False, True):
            column = scores.columns.get((title, (unit.method, inverted)))
            if column is not None:
                common = of_method | {"inverted": inverted} | _metric_entries(title, metric)
                yield from (common | each for each in _image_entries(unit, shard, column, metric, with_details))


def _metric_entries(title: str, metric: Metric) -> ResultRow:
    return {
        "metric": title,
        "metric_options": repr(metric),
        "higher_is_better": metric.higher_is_better,
        "kind": metric.kind,
    }


def _image_entries(
    unit: WorkUnit, shard: Shard, column: MetricColumn, metric: Metric, with_details: bool
) -> Iterator[ResultRow]:
    values = column.values.double().tolist()
    details = {name: detail.tolist() for name, detail in column.details.items()}
    for k, sample in enumerate(shard.samples):
        if sample.mask is None and unit.method == TRUTH:
            continue
        lacks_truth = sample.mask is None and isinstance(metric, Localization)
        yield {
            "image": sample.id,
            "group": sample.group,
            "category": sample.category,
            "subsets": sorted(sample.subsets),
            "target": shard.classes[k],
            "label": sample.label,
            "value": float("nan") if lacks_truth else values[k],
            **{name: details[name][k] for name in details.keys() & _DETAIL_COLUMNS},
            "details": _detail_lists(details, k) if with_details else None,
        }


def _detail_lists(details: Mapping[str, Any], index: int) -> list[tuple[str, list[float]]]:
    """Return the details of an image that do not have a column."""
    return [(name, _flatten(detail[index])) for name, detail in details.items() if name not in _DETAIL_COLUMNS]


def _flatten(detail: Any) -> list[float]:
    if not isinstance(detail, list):
        return [detail]
    return [number for each in detail for number in _flatten(each)]
