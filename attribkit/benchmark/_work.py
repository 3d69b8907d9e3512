"""The computation of a benchmark: the maps of a shard by all missing methods, and their scores."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.method import Method
from attribkit._core.ground_truth import GroundTruth
from attribkit._core.tensors import describe_device, resolve_device
from attribkit._display.progress import track
from attribkit._explainer import Explainer
from attribkit._loading import complete_spec
from attribkit._state.randomness import preserve_random_state
from attribkit.benchmark._identity import load_choice
from attribkit.benchmark._settings.configuration import Configuration
from attribkit.benchmark._settings.plan import GroundTruthMap, PerImageNoise, Plan, ShardTask, WorkUnit
from attribkit.benchmark._shard import Shard, SkippedImages, format_error, read_samples, with_targets
from attribkit.benchmark._store import Failure, Store, rows_table
from attribkit.benchmark._unit_rows import Cost, ShardScores, measure_cost, unit_rows


@contextmanager
def set_threads(count: int) -> Iterator[None]:
    """Use this number of threads in each CPU operation of torch, and restore the number afterwards.

    The number of threads determines the order of summation, and with it the last digits of the results.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class ShardMaps:
    """The maps of a shard.

    Args:
        maps: The maps of the methods that succeeded.
        costs: Their costs; the ground-truth mask does not have one.
        failures: The errors of the other methods.
    """

    maps: dict[str, Attribution] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


class Worker:
    """A model, loaded once, that computes one shard task after the other."""

    def __init__(self, configuration: Configuration, plan: Plan, data: Any, store: Store, model: str) -> None:
        choice = next(each for each in configuration.models if each.title == model)
        self.configuration, self.plan, self.data, self.store = configuration, plan, data, store
        self.device = resolve_device(configuration.device)
        module, self.preprocessing = load_choice(choice, configuration.seed)
        spec = complete_spec(module, self.preprocessing)
        self.explainer = Explainer(module.to(self.device), spec=spec, batch_size=configuration.batch_size)
        self._warm: set[str] = set()  # methods that have run once

    def __call__(self, task: ShardTask) -> None:
        """Compute and save the missing units of a shard; errors of a model, a method or a metric are saved too.

        Raises:
            UnreadableFile: If the results cannot be saved.
        """
        samples, skipped = read_samples(self.data, task.images, self.preprocessing)
        with self._seeded():
            try:
                shard, not_finite = with_targets(samples, self.explainer, self.configuration.target)
            except Exception as error:  # raised by the model's forward
                for unit in task.units:
                    self._fail(unit, format_error(error))
            else:
                self._compute(task, shard, skipped | not_finite)

    def _compute(self, task: ShardTask, shard: Shard, skipped: SkippedImages) -> None:
        truth = shard.truth()
        shard_maps = self._attribute(task, shard, truth)
        scores = ShardScores(self.explainer, self.plan.metrics, shard.x, shard_maps.maps, truth)
        if shard.samples:
            scores.compute()
        for unit in task.units:
            if unit.method in shard_maps.failures:
                self._fail(unit, shard_maps.failures[unit.method])
            else:
                self._finish(unit, shard, scores, shard_maps.costs.get(unit.method), skipped)

    def _attribute(self, task: ShardTask, shard: Shard, truth: GroundTruth) -> ShardMaps:
        result = ShardMaps()
        titles = task.methods if shard.samples else ()
        for title in track(titles, f"maps of shard {task.shard}"):
            method = self.plan.methods[title]
            if isinstance(method, PerImageNoise):
                method = replace(method, ids=tuple(shard.ids))
            try:
                if method is None:
                    truth_map = GroundTruthMap(truth.mask)
                    result.maps[title] = self.explainer.attribute(shard.x, truth_map, target=shard.target)
                else:
                    result.maps[title], result.costs[title] = self._attribute_with_cost(title, method, shard)
            except Exception as error:  # also of plugins, and out of memory with a single image
                result.failures[title] = format_error(error)
        return result

    def _attribute_with_cost(self, title: str, method: Method, shard: Shard) -> tuple[Attribution, Cost]:
        """Compute the maps and their cost, without the cost of what is computed once per model."""
        if title not in self._warm:
            self.explainer.attribute(shard.x[:1], method, target=shard.target.subset(slice(0, 1)))
            self._warm.add(title)
        attribute = partial(self.explainer.attribute, shard.x, method, target=shard.target)
        attribution, cost = measure_cost(self.explainer, self.device, attribute)
        return attribution, cost.per_image(len(shard.samples))

    def _finish(
        self, unit: WorkUnit, shard: Shard, scores: ShardScores, cost: Cost | None, skipped: Mapping[str, str]
    ) -> None:
        failures = [Failure(unit.model, unit.shard, reason, image=image) for image, reason in skipped.items()]
        failures += [
            Failure(unit.model, unit.shard, reason, method, metric)
            for method, metric, reason in scores.failures
            if method == unit.method
        ]
        has_maps = "maps" in self.store.extras and unit.method in scores.maps
        if has_maps:
            attribution = scores.maps[unit.method]
            method, extent = repr(attribution.method), attribution.extent
            self.store.save_maps(unit, attribution.scores, shard.ids, method, extent)
        rows = rows_table(unit_rows(unit, shard, scores, cost, with_details="details" in self.store.extras))
        self.store.finish(unit, rows, failures, {"device": describe_device(self.device)}, has_maps=has_maps)

    def _fail(self, unit: WorkUnit, reason: str) -> None:
        self.store.fail(unit, Failure(unit.model, unit.shard, reason, unit.method))

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Seed all random number generators for each task, and restore the caller's state afterwards."""
        seed = self.configuration.seed
        with preserve_random_state():
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002  # for plugins that use the global generator
            torch.manual_seed(seed)
            yield


def run_serially(configuration: Configuration, plan: Plan, data: Any, store: Store, tasks: Sequence[ShardTask]) -> None:
    """Compute the tasks one after the other, model by model."""
    pending = track(tasks, "shards")
    for model, of_model in groupby(pending, key=lambda task: task.model):
        worker = Worker(configuration, plan, data, store, model)
        for task in of_model:
            worker(task)
