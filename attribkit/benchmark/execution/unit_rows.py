"""The rows of a unit: for each metric, for the map and its inverse, one for each image."""

from collections.abc import Iterator, Mapping
from typing import Any

from attribkit.benchmark.execution.cost import Cost
from attribkit.benchmark.execution.numbers import Column, Numbers
from attribkit.benchmark.execution.shard import Shard
from attribkit.benchmark.settings.plan import Unit
from attribkit.benchmark.statistics.roles import TRUTH
from attribkit.core.metric import Localization, Metric

_OWN_COLUMNS = {"tie_share", "floor"}  # of the details

Row = dict[str, Any]


def unit_rows(unit: Unit, shard: Shard, numbers: Numbers, cost: Cost | None, *, with_details: bool) -> Iterator[Row]:
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


def _of_metric(title: str, metric: Metric) -> Row:
    return {
        "metric": title,
        "metric_options": repr(metric),
        "higher_is_better": metric.higher_is_better,
        "kind": metric.kind,
    }


def _of_images(unit: Unit, shard: Shard, column: Column, metric: Metric, with_details: bool) -> Iterator[Row]:
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
