"""The maps and the metrics of a folder that attribkit's benchmark has written."""

import ast
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

from attribkit import Attribution, InvalidInput, NoTarget, UnreadableFile, track
from attribkit._contracts.records import Recorded
from attribkit.benchmark._settings.plan import WorkUnit
from attribkit.benchmark._store import Store
from attribkit.datasets import Dataset
from attribkit.io import Preprocessing
from attribkit.registry import make_dataset

from ._images import Reduction

_PREPROCESSING = re.compile(r"Preprocessing\(.*?\)(?=$|, code [0-9a-f]+$)")


@dataclass(frozen=True, eq=False)
class RunFolder:
    """The folder of a benchmark, as its file run.json describes it.

    Args:
        folder: The folder.
        record: The content of run.json.
        data: The data set.
    """

    folder: Path
    record: Mapping[str, Any]
    data: Dataset

    @property
    def models(self) -> list[str]:
        """The labels of the models."""
        return list(self.record["identity"]["models"])

    @property
    def methods(self) -> Mapping[str, str]:
        """The methods with their options, by label."""
        methods: Mapping[str, str] = self.record["identity"]["methods"]
        return methods

    @property
    def shards(self) -> int:
        """The number of shards of images."""
        identity = self.record["identity"]
        return -(-int(identity["data"]["images"]) // int(identity["settings"]["shard_size"]))

    def preprocessing(self, model: str) -> Preprocessing:
        """Return the preprocessing of a model, from its record.

        Raises:
            UnreadableFile: If the record does not describe a `Preprocessing`.
        """
        record = self.record["identity"]["models"][model]
        try:
            (text,) = _PREPROCESSING.findall(record)
            (call,) = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
            options = {each.arg: ast.literal_eval(each.value) for each in call.keywords if each.arg}
            restored = Preprocessing(**options)
        except (ValueError, SyntaxError, TypeError) as error:
            raise UnreadableFile(
                f"The preprocessing of the model {model!r} cannot be read from {record!r} in run.json ({error})."
            ) from error
        if repr(restored) != text:
            raise UnreadableFile(f"The preprocessing {text} of the model {model!r} was not restored: got {restored!r}.")
        return restored


@dataclass(frozen=True, eq=False)
class RunMap:
    """A map of a benchmark.

    Args:
        model: Label of the model.
        method: Label of the method.
        image: The id of the sample.
        heatmap: The heat map in pixels of the model's input, (h, w).
        attributes: The method with its options, and the index of the explained class.
        metrics: The values of the metrics by their labels; None where they are not defined.
    """

    model: str
    method: str
    image: str
    heatmap: Tensor
    attributes: Mapping[str, Any]
    metrics: Mapping[str, float | None]


def read_run_folder(folder: str | Path, data: Dataset | None = None) -> RunFolder:
    """Read the description of a run.

    Args:
        folder: The folder of the run.
        data: The data set of the run; None makes it from the configuration in the folder.

    Raises:
        UnreadableFile: If the folder does not contain a run, or its data set cannot be read.
        InvalidInput: If the data set is not that of the run.
    """
    path = Path(folder) / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        choice, recorded = record["configuration"]["data"], record["identity"]["data"]
        name, options = choice["name"], choice["options"]
        expected = recorded[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableFile(
            f"{str(folder)!r} is not the folder of a benchmark ({type(error).__name__}: {error}): pass the folder that "
            "the setting `output` names."
        ) from error
    chosen = make_dataset(name, **options) if data is None else data
    if chosen.fingerprint() != expected:
        raise InvalidInput(
            f"The data set {chosen!r} is not the one that the benchmark in {str(folder)!r} has read: its files or its "
            "annotations differ. Pass data=..., the data set of the run."
        )
    return RunFolder(Path(folder), record, chosen)


def run_maps(run: RunFolder, models: Sequence[str], methods: Sequence[str], reduce: Reduction) -> Iterator[RunMap]:
    """Yield the saved maps of a run, by model, method and image.

    Args:
        run: The run.
        models: Labels of the models.
        methods: Labels of the methods.
        reduce: How several channels of scores become one, as in `Attribution.heatmap`.

    Raises:
        UnreadableFile: If a file of the run is corrupted.
    """
    store = Store(run.folder, run.record["identity"])
    for model in models:
        size = run.preprocessing(model).size
        units = [WorkUnit(model, method, shard) for method, shard in product(methods, range(run.shards))]
        for unit in track(units, f"maps of {model}"):
            if store.devices([unit]) and store.provenance(unit)["maps"]:  # devices: of units that are finished
                yield from _maps_of_unit(store, unit, run.methods[unit.method], size, reduce)


def _maps_of_unit(
    store: Store, unit: WorkUnit, method: str, size: tuple[int, int], reduce: Reduction
) -> Iterator[RunMap]:
    extent, (targets, metrics) = store.extent(unit), _targets_and_metrics(store, unit)
    for image, scores in store.maps(unit).items():
        blank = scores.new_zeros(1, 1, 1, 1).expand(1, 1, *size)  # only the size of the images matters
        stored = Attribution(scores[None], blank, NoTarget(), Recorded(unit.method, method), extent=extent)
        attributes = {"method": method, "target": targets.get(image)}
        yield RunMap(unit.model, unit.method, image, stored.heatmap(reduce)[0], attributes, metrics[image])


def _targets_and_metrics(
    store: Store, unit: WorkUnit
) -> tuple[dict[str, int | None], Mapping[str, dict[str, float | None]]]:
    """Return the explained class and the metrics of each image; None for values that are not defined."""
    targets: dict[str, int | None] = {}
    metrics: dict[str, dict[str, float | None]] = defaultdict(dict)
    for row in store.rows([unit]).select(["image", "inverted", "target", "metric", "value"]).to_pylist():
        targets[row["image"]] = row["target"]
        if not row["inverted"]:
            metrics[row["image"]][row["metric"]] = None if math.isnan(row["value"]) else row["value"]
    return targets, metrics
