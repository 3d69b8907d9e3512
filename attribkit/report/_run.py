"""The content of a report about a benchmark, from its output folder."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from attribkit._core.errors import UnreadableFile
from attribkit._display.progress import track
from attribkit._loading import complete_spec
from attribkit.benchmark import Configuration, Failure, Summary
from attribkit.benchmark._identity import RunRecord, load_choice, read_record
from attribkit.benchmark._settings.plan import WorkUnit
from attribkit.benchmark._statistics.summary import Agreement, MethodRanking, SummaryScore, role
from attribkit.benchmark._store import Store
from attribkit.benchmark._tables.panels import clique_letters, panels
from attribkit.datasets import Dataset, prepare_sample
from attribkit.figures._curves import CurvePanel
from attribkit.report._charts import CostPoint, cost_chart, curve_chart, ranking_chart
from attribkit.report._content import (
    ARROWS,
    Chart,
    Content,
    Matrix,
    ReportImage,
    RunResults,
    ScoreColumn,
    View,
    count,
    encode_maps,
)
from attribkit.report._pictures import PictureOptions

_COST_CHARTS = 3  # metrics in a chart of costs
_NO_MAPS = "The run did not save maps. Set save_maps = true in the configuration, and run it in a new output folder."
_NO_CURVES = (
    "The rows do not contain curves. Set save_details = true in the configuration, and use a metric with curves, such "
    "as deletion or insertion."
)

ByImage = dict[tuple[str, str], list[dict[str, Any]]]  # rows by model and image


def run_content(folder: Path, title: str | None, options: PictureOptions, most_images: int) -> Content:
    """Return the content of a report about a run.

    Args:
        folder: The output folder of the run.
        title: The title; None means the name of the run.
        options: How pictures and maps are stored.
        most_images: Number of images that are shown at most.

    Raises:
        UnreadableFile: If the folder does not contain a finished run, or files are corrupted.
    """
    record, summary = _read(folder)
    store = Store(folder, record.identity)
    shards = range(math.ceil(record.identity["data"]["images"] / record.identity["settings"]["shard_size"]))
    every = [WorkUnit(*each) for each in product(record.identity["models"], record.identity["methods"], shards)]
    configured = {each["label"] or each["name"] for each in record.configuration["methods"]}
    units = [each for each in every if each.method in configured or each.method in summary.method_options]
    rows, failures = store.rows(units), store.failures(units)
    rows = rows.filter(pc.invert(rows["inverted"]))
    directions = zip(*_columns(rows, "metric", "higher_is_better"), strict=True)
    columns = [ScoreColumn(*each) for each in dict.fromkeys(directions)]
    images, notes = _Explorer(record, store, units, failures, options, most_images).images(_by_image(rows), columns)
    methods = list(dict.fromkeys(each.method for each in units))
    return Content(
        title=title or record.name,
        facts=_facts(record, rows, methods, columns),
        images=images,
        methods=methods,
        columns=columns,
        notes=notes,
        results=_results(record, summary, rows, failures, methods),
    )


def _read(folder: Path) -> tuple[RunRecord, Summary]:
    try:
        return read_record(folder), Summary.load(folder / "summary.json")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableFile(
            f"{str(folder)!r} is not the output folder of a finished benchmark ({error}). Run `attribkit benchmark` "
            "with its configuration to the end, or pass maps that Attribution.save wrote."
        ) from error


def _columns(rows: pa.Table, *names: str) -> list[list[Any]]:
    return [rows[name].to_pylist() for name in names]


def _by_image(rows: pa.Table) -> ByImage:
    """Return the rows without their details, by model and image."""
    grouped: ByImage = {}
    for row in rows.select(["model", "image", "method", "metric", "value", "target", "label"]).to_pylist():
        grouped.setdefault((row["model"], row["image"]), []).append(row)
    return grouped


def _facts(record: RunRecord, rows: pa.Table, methods: Sequence[str], columns: Sequence[ScoreColumn]) -> list[str]:
    data = next(name for name in record.identity["data"] if name != "images")
    controls = sum(role(each) != "method" for each in methods)
    return [
        f"{count(len(pc.unique(rows['image'])), 'image')} of {data}",
        count(len(pc.unique(rows["model"])), "model"),
        f"{count(len(methods) - controls, 'method')} and {count(controls, 'control')}",
        count(len(columns), "metric"),
        f"attribkit {record.identity['versions']['attribkit']}",
    ]


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What a model receives: the preprocessing and the names of its classes; None where they are not available."""

    preprocessing: Any = None
    labels: Sequence[str] | None = None

    def class_name(self, index: int | None) -> str:
        if index is None:
            return "unknown class"
        return self.labels[index] if self.labels and 0 <= index < len(self.labels) else f"class {index}"


@dataclass
class _Explorer:
    """Builder of the images of a run with their maps.

    Args:
        record: The record of the run.
        store: Its files.
        units: The units whose maps are shown.
        failures: The failures of the run.
        options: How pictures and maps are stored.
        most_images: Number of images that are shown at most.
        notes: Why photographs, names of classes or images are missing.
    """

    record: RunRecord
    store: Store
    units: Sequence[WorkUnit]
    failures: Sequence[Failure]
    options: PictureOptions
    most_images: int
    notes: list[str] = field(default_factory=list)

    def images(self, rows: ByImage, columns: Sequence[ScoreColumn]) -> tuple[list[ReportImage], list[str]]:
        """Return the images and the notes."""
        views: dict[str, list[View]] = {}
        if not self.record.configuration.get("save_maps"):
            return [], [_NO_MAPS]
        configuration, data = self._configuration()
        for model, of_model in groupby(self.units, key=lambda each: each.model):
            inputs = self._inputs(configuration, model)
            by_shard: dict[int, list[WorkUnit]] = {}
            for unit in of_model:
                by_shard.setdefault(unit.shard, []).append(unit)
            for shard, units in track(by_shard.items(), f"maps of {model}", len(by_shard)):
                samples = self._samples(data, inputs, shard)
                for image, view in self._shard_views(units, inputs, samples, rows, columns):
                    views.setdefault(image, []).append(view)
        chosen = dict(list(views.items())[: self.most_images])
        if len(chosen) < self.record.identity["data"]["images"]:
            total = self.record.identity["data"]["images"]
            self.notes.append(f"{len(chosen)} of the {total} images are shown.")
        return [ReportImage(name, of_image) for name, of_image in chosen.items()], self.notes

    def _configuration(self) -> tuple[Configuration | None, Dataset | None]:
        """Return the configuration and the data set of the run, as far as they are available.

        This runs the Python files of the configuration, which is why it is left out without photographs.
        """
        if not self.options.photographs:
            return None, None
        try:
            configuration = Configuration(**self.record.configuration)
            data = configuration.data.make()
            if data.fingerprint() == self.record.identity["data"][data.name]:
                return configuration, data
            reason = "the data set has changed since the run"
        except Exception as error:  # also of plugins
            reason = str(error)
        self.notes.append(f"The photographs are not shown: {reason}")
        return None, None

    def _inputs(self, configuration: Configuration | None, model: str) -> _Inputs:
        if configuration is None:
            return _Inputs()
        choice = next((each for each in configuration.models if each.title == model), None)
        if choice is None:
            return _Inputs()
        try:
            loaded = load_choice(choice, configuration.seed)
            labels = complete_spec(loaded.model, loaded.preprocessing).labels
            names = labels() if callable(labels) else labels
        except Exception as error:  # also of a Python file that builds the model
            self.notes.append(f"The photographs of {model} are not shown: {error}")
            return _Inputs()
        return _Inputs(loaded.preprocessing, names)

    def _samples(self, data: Dataset | None, inputs: _Inputs, shard: int) -> dict[str, tuple[str | None, Any]]:
        """Return the photographs of a shard as data URLs, and their boxes as fractions, by the ids of the images."""
        if data is None or inputs.preprocessing is None:
            return {}
        pictures = {}
        side = self.record.identity["settings"]["shard_size"]
        for index in range(shard * side, min((shard + 1) * side, len(data), self.most_images)):
            sample = data[index]
            try:
                prepared = prepare_sample(sample, inputs.preprocessing)
            except Exception as error:  # the run skipped the image, or its file is missing now
                self.notes.append(f"The photograph {sample.id} is not shown: {error}")
                continue
            (picture,) = inputs.preprocessing.inverse(prepared.x[None])
            height, width = prepared.x.shape[-2:]
            boxes = (
                []
                if prepared.boxes is None
                else (prepared.boxes / torch.tensor([width, height] * 2, device="cpu")).tolist()
            )
            pictures[sample.id] = (self.options.encode(picture), boxes)
        return pictures

    def _shard_views(
        self,
        units: Sequence[WorkUnit],
        inputs: _Inputs,
        samples: Mapping[str, tuple[str | None, Any]],
        rows: ByImage,
        columns: Sequence[ScoreColumn],
    ) -> Iterator[tuple[str, View]]:
        maps = self._shard_maps(units)
        problems = {each.method: each.error for each in self.failures if self._lost(each) in units and each.method}
        for image, of_image in maps.items():
            model = units[0].model
            size = self._size(inputs, of_image)
            encoded, unusable = encode_maps(of_image, size, self.options.map)
            of_rows = rows.get((model, image), [])
            target, label = (of_rows[0]["target"], of_rows[0]["label"]) if of_rows else (None, None)
            facts = f"label: {inputs.class_name(label)}" if label is not None and label != target else ""
            url, boxes = samples.get(image, (None, []))
            yield (
                image,
                View(
                    model=model,
                    target=inputs.class_name(target),
                    facts=facts,
                    size=size,
                    picture=url,
                    boxes=boxes,
                    maps=encoded,
                    problems={**problems, **unusable},
                    scores=_image_scores(of_rows, columns),
                ),
            )

    def _shard_maps(self, units: Sequence[WorkUnit]) -> dict[str, dict[str, tuple[Any, Any]]]:
        """Return the maps of a shard, with channels summed and their extents, by image and method."""
        start = units[0].shard * self.record.identity["settings"]["shard_size"]
        maps: dict[str, dict[str, tuple[Any, Any]]] = {}
        for unit in units if start < self.most_images else ():
            try:
                scores, extent = self.store.maps(unit), self.store.extent(unit)
            except UnreadableFile:  # the unit failed, and its failure is reported
                continue
            for image, each in scores.items():
                maps.setdefault(image, {})[unit.method] = (each.float().sum(0), extent)
        return maps

    def _size(self, inputs: _Inputs, maps: Mapping[str, tuple[Any, Any]]) -> tuple[int, int]:
        """Return the size of the explained image in pixels; that of the finest map if it is not known."""
        if inputs.preprocessing is not None:
            height, width = inputs.preprocessing.size
            return height, width
        height, width = max((tuple(scores.shape) for scores, _ in maps.values()), key=math.prod)
        return height, width

    def _lost(self, failure: Failure) -> WorkUnit | None:
        """Return the unit that failed as a whole."""
        if failure.metric is not None or failure.image is not None or failure.method is None:
            return None
        return WorkUnit(failure.model, failure.method, failure.shard)


def _image_scores(rows: Sequence[Mapping[str, Any]], columns: Sequence[ScoreColumn]) -> dict[str, list[float | None]]:
    """Return the values of an image by method, in the order of the columns; None where they are not defined."""
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        if math.isfinite(row["value"]):
            values.setdefault(row["method"], {})[row["metric"]] = row["value"]
    return {method: [each.get(column.metric) for column in columns] for method, each in values.items()}


def _results(
    record: RunRecord, summary: Summary, rows: pa.Table, failures: Sequence[Failure], methods: Sequence[str]
) -> RunResults:
    curves = list(_curve_charts(rows, methods, summary))
    return RunResults(
        panels=panels(summary),
        confidence=summary.confidence,
        rank_charts=[ranking_chart(model, summary) for model in _ranked_models(summary)],
        ranks=[_rank_matrix(*group) for group in _grouped(summary.rankings)],
        agreements=[_agreement_matrix(*group) for group in _grouped(summary.agreements)],
        curves=curves,
        curves_note="" if curves else _NO_CURVES,
        costs=[_cost_matrix(*group) for group in _costs(rows, methods).items()],
        cost_charts=list(_cost_charts(summary, _costs(rows, methods), methods)),
        checks=summary.sanity_checks,
        failures=failures,
        configuration=json.dumps(record.configuration, indent=2, ensure_ascii=False),
        versions=record.identity["versions"],
        options=_options(record, summary),
        notes=summary.notes,
    )


def _grouped(records: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """Group records by model and subset, with the name of each group."""
    groups: dict[str, list[Any]] = {}
    for each in records:
        groups.setdefault(each.model if each.subset == "all" else f"{each.model}, {each.subset}", []).append(each)
    return list(groups.items())


def _ranked_models(summary: Summary) -> list[str]:
    return list(dict.fromkeys(each.model for each in summary.rankings if each.subset == "all"))


def _rank_matrix(name: str, rankings: Sequence[MethodRanking]) -> Matrix:
    methods = sorted({method for each in rankings for method in each.methods})
    rows = [[method, *(_rank(each, method) for each in rankings)] for method in methods]
    rows.append(["critical difference", *(f"{each.critical_difference:.2f}" for each in rankings)])
    rows.append(["Kendall's W", *(f"{each.concordance:.2f}" for each in rankings)])
    return Matrix(name, ["method", *(each.metric for each in rankings)], rows)


def _rank(ranking: MethodRanking, method: str) -> str:
    if method not in ranking.methods:
        return "-"
    letters = clique_letters(ranking.cliques, method)
    return " ".join([f"{ranking.ranks[ranking.methods.index(method)]:.2f}", *letters])


def _agreement_matrix(name: str, agreements: Sequence[Agreement]) -> Matrix:
    pairs = {frozenset((each.first, each.second)): each for each in agreements}
    metrics = list(dict.fromkeys(metric for each in agreements for metric in (each.first, each.second)))
    cells = [[None if a == b else pairs.get(frozenset((a, b))) for b in metrics] for a in metrics]
    rows = [
        [a, *("" if cell is None else _agreement_text(cell) for cell in row)]
        for a, row in zip(metrics, cells, strict=True)
    ]
    levels = [[None, *(None if cell is None else _level(cell.kendall) for cell in row)] for row in cells]
    return Matrix(name, ["", *metrics], rows, levels)


def _agreement_text(agreement: Agreement) -> str:
    if math.isnan(agreement.kendall):
        return "-"
    return f"{agreement.kendall:z.2f} ({agreement.kendall_per_image.value:z.2f})"


def _level(correlation: float) -> int | None:
    return None if math.isnan(correlation) else round(5 * correlation)


_Costs = dict[str, dict[str, dict[str, float]]]  # means of the columns of costs by model and method


def _costs(rows: pa.Table, methods: Sequence[str]) -> _Costs:
    names = ("milliseconds", "forwards", "peak_mib")
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for model, method, *costs in zip(*_columns(rows, "model", "method", *names), strict=True):
        for name, cost in zip(names, costs, strict=True):
            if cost is not None:
                values.setdefault(model, {}).setdefault(method, {}).setdefault(name, []).append(cost)
    return {
        model: {
            method: {name: fmean(each) for name, each in of_model[method].items()}
            for method in methods
            if method in of_model
        }
        for model, of_model in values.items()
    }


def _cost_matrix(model: str, costs: Mapping[str, Mapping[str, float]]) -> Matrix:
    names = ("milliseconds", "forwards", "peak_mib")
    rows = [[method, *(f"{of[name]:,.4g}" if name in of else "-" for name in names)] for method, of in costs.items()]
    return Matrix(model, ["method", "milliseconds per image", "forwards per image", "peak memory (MiB)"], rows)


def _cost_charts(summary: Summary, costs: _Costs, methods: Sequence[str]) -> Iterator[Chart]:
    """Yield a chart for each model whose methods have a faithfulness score."""
    for model, of_model in costs.items():
        scores = [each for each in summary.scores if each.model == model and _is_shown_with_cost(each)]
        names = list(dict.fromkeys(each.metric for each in scores))[:_COST_CHARTS]
        points: dict[str, dict[str, CostPoint]] = {name: {} for name in names}
        for each in scores:
            if each.metric in points and each.method in of_model and math.isfinite(each.estimate.value):
                estimate, time = each.estimate, of_model[each.method]["milliseconds"]
                points[each.metric][each.method] = CostPoint(time, estimate.value, estimate.low, estimate.high)
        titles = {each.metric: f"{each.metric} {ARROWS[each.higher_is_better]}".strip() for each in scores}
        shown = [method for method in methods if any(method in each for each in points.values())]
        if shown:
            yield cost_chart(model, {titles[name]: points[name] for name in names}, shown)


def _is_shown_with_cost(score: SummaryScore) -> bool:
    is_mean = score.statistic == "mean" and score.subset == "all" and not score.inverted
    return is_mean and score.kind == "faithfulness" and score.role == "method"


def _curve_charts(rows: pa.Table, methods: Sequence[str], summary: Summary) -> Iterator[Chart]:
    """Yield a chart for each model with curves in the details of its rows."""
    found: dict[str, dict[str, _Curves]] = {}
    with_details = rows.filter(pc.is_valid(rows["details"]))
    for model, metric, method, group, details in zip(
        *_columns(with_details, "model", "metric", "method", "group", "details"), strict=True
    ):
        curve = dict(details)
        if {"curve", "fractions"} <= curve.keys() and role(method) == "method":
            of_metric = found.setdefault(model, {}).setdefault(metric, {})
            of_metric.setdefault(method, {}).setdefault(group, []).append((curve["fractions"], curve["curve"]))
    for model, metrics in found.items():
        panels = [_curve_panel(metric, of_metric, methods) for metric, of_metric in metrics.items()]
        if shown := [each for each in panels if each is not None]:
            yield curve_chart(model, shown, summary.confidence, summary.seed)


_Curves = dict[str, dict[str, list[tuple[list[float], list[float]]]]]  # fractions and curves by method and group


def _curve_panel(metric: str, curves: _Curves, methods: Sequence[str]) -> CurvePanel | None:
    """Return the mean curve of each group, for the groups that all methods have; None if the steps differ."""
    groups = [group for group in next(iter(curves.values())) if all(group in each for each in curves.values())]
    samples = [sample for of_method in curves.values() for group in groups for sample in of_method[group]]
    if len({(len(fractions), len(curve)) for fractions, curve in samples}) != 1:
        return None
    means = {
        method: np.array([np.mean([curve for _, curve in curves[method][group]], axis=0) for group in groups])
        for method in methods
        if method in curves
    }
    return CurvePanel(metric, np.array(samples[0][0]), means)


def _options(record: RunRecord, summary: Summary) -> list[Matrix]:
    tables = {"model": record.identity["models"], "method": summary.method_options, "metric": summary.metric_options}
    return [
        Matrix(f"{kind.capitalize()}s", [kind, "options"], [list(each) for each in table.items()])
        for kind, table in tables.items()
    ]
