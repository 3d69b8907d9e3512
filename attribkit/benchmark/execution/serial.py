"""One process, one device."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from attribkit.benchmark.execution.work import Worker
from attribkit.benchmark.settings.configuration import Configuration
from attribkit.benchmark.settings.plan import Group, Plan
from attribkit.benchmark.storage.store import Store
from attribkit.core.progress import tracked


def run_serially(configuration: Configuration, plan: Plan, data: Any, store: Store, groups: Sequence[Group]) -> None:
    """Do the groups one after the other, model by model."""
    waiting = tracked(groups, "shards", len(groups))
    for model, of_model in groupby(waiting, key=lambda group: group.model):
        worker = Worker(configuration, plan, data, store, model)
        for group in of_model:
            worker(group)
