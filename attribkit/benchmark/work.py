"""[benchmark/execution/threads] The number of threads within an operation: sums are added up in another order by another number.
[benchmark/execution/work] The work itself: the maps of a shard by every method that is missing, and their numbers.
[benchmark/execution/serial] One process, one device.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch

from attribkit.benchmark.identity import load_choice
from attribkit.benchmark.settings.configuration import Configuration
from attribkit.benchmark.settings.plan import Group, OwnNoise, Plan, TruthAsMap, WorkUnit
from attribkit.benchmark.shard import LeftOut, Shard, read_samples, sentence_of, with_targets
from attribkit.benchmark.store import Failure, Store, rows_table
from attribkit.benchmark.unit_rows import Cost, UnitMetrics, measure_cost, unit_rows
from attribkit.contracts.attribution import Attribution
from attribkit.contracts.method import Method
from attribkit.core.ground_truth import GroundTruth
from attribkit.core.progress import track
from attribkit.core.tensors import describe_device, resolve_device
from attribkit.explainer import Explainer
from attribkit.io.loading import complete_spec
from attribkit.state.randomness import preserve_random_state


@contextmanager
def set_threads(count: int) -> Iterator[None]:
    """Within: so many threads in each operation of torch on the CPU, whatever the machine has. Put back after."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class ShardMaps:
    """The maps of a shard by the methods that answered, their cost where they have one, and why others did not."""

    maps: dict[str, Attribution] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


class Worker:
    """A model, loaded once, that does one group of units after the other."""

    def __init__(self, configuration: Configuration, plan: Plan, data: Any, store: Store, model: str) -> None:
        choice = next(each for each in configuration.models if each.title == model)
        self.configuration, self.plan, self.data, self.store = configuration, plan, data, store
        self.device = resolve_device(configuration.device)
        module, self.preprocessing = load_choice(choice, configuration.seed)
        spec = complete_spec(module, self.preprocessing)
        self.explainer = Explainer(module.to(self.device), spec=spec, batch_size=configuration.batch_size)
        self._warm: set[str] = set()  # methods that have answered once

    def __call__(self, group: Group) -> None:
        """Do what is missing of a shard, and store it; an error of a model, a method or a metric is stored too.

        Raises UnreadableFile where nothing can be stored.
        """
        samples, left_out = read_samples(self.data, group.images, self.preprocessing)
        with self._seeded():
            try:
                shard, not_finite = with_targets(samples, self.explainer, self.configuration.target)
            except Exception as error:  # of the model's own forward
                for unit in group.units:
                    self._fail(unit, sentence_of(error))
            else:
                self._do(group, shard, left_out | not_finite)

    def _do(self, group: Group, shard: Shard, left_out: LeftOut) -> None:
        truth = shard.truth()
        explained = self._explained(group, shard, truth)
        numbers = UnitMetrics(self.explainer, self.plan.metrics, shard.x, explained.maps, truth)
        if shard.samples:
            numbers.find()
        for unit in group.units:
            if unit.method in explained.failures:
                self._fail(unit, explained.failures[unit.method])
            else:
                self._finish(unit, shard, numbers, explained.costs.get(unit.method), left_out)

    def _explained(self, group: Group, shard: Shard, truth: GroundTruth) -> ShardMaps:
        found = ShardMaps()
        titles = group.methods if shard.samples else ()
        for title in track(titles, f"maps of shard {group.shard}"):
            method = self.plan.methods[title]
            if isinstance(method, OwnNoise):
                method = replace(method, ids=tuple(shard.ids))
            try:
                if method is None:
                    truth_map = TruthAsMap(truth.mask)
                    found.maps[title] = self.explainer.attribute(shard.x, truth_map, target=shard.target)
                else:
                    found.maps[title], found.costs[title] = self._map(title, method, shard)
            except Exception as error:  # also a plugin's, and memory that one image alone exceeds
                found.failures[title] = sentence_of(error)
        return found

    def _map(self, title: str, method: Method, shard: Shard) -> tuple[Attribution, Cost]:
        """The maps and their cost, without what is done once for a model."""
        if title not in self._warm:
            self.explainer.attribute(shard.x[:1], method, target=shard.target.subset(slice(0, 1)))
            self._warm.add(title)
        explain = partial(self.explainer.attribute, shard.x, method, target=shard.target)
        attribution, cost = measure_cost(self.explainer, self.device, explain)
        return attribution, cost.per_image(len(shard.samples))

    def _finish(
        self, unit: WorkUnit, shard: Shard, numbers: UnitMetrics, cost: Cost | None, left_out: Mapping[str, str]
    ) -> None:
        lacking = [Failure(unit.model, unit.shard, why, image=image) for image, why in left_out.items()]
        lacking += [
            Failure(unit.model, unit.shard, why, method, metric)
            for method, metric, why in numbers.failures
            if method == unit.method
        ]
        kept = "maps" in self.store.keeps and unit.method in numbers.maps
        if kept:
            attribution = numbers.maps[unit.method]
            self.store.keep_maps(unit, attribution.scores, shard.ids, repr(attribution.method))
        rows = rows_table(unit_rows(unit, shard, numbers, cost, with_details="details" in self.store.keeps))
        self.store.finish(unit, rows, lacking, {"device": describe_device(self.device)}, maps_are_kept=kept)

    def _fail(self, unit: WorkUnit, why: str) -> None:
        self.store.fail(unit, Failure(unit.model, unit.shard, why, unit.method))

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Each group begins with the same random numbers; the user's are put back."""
        seed = self.configuration.seed
        with preserve_random_state():
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002  # what a plugin may draw from
            torch.manual_seed(seed)
            yield


def run_serially(configuration: Configuration, plan: Plan, data: Any, store: Store, groups: Sequence[Group]) -> None:
    """Do the groups one after the other, model by model."""
    waiting = track(groups, "shards", len(groups))
    for model, of_model in groupby(waiting, key=lambda group: group.model):
        worker = Worker(configuration, plan, data, store, model)
        for group in of_model:
            worker(group)
