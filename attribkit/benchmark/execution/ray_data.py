"""Many processes, devices and machines, by Ray Data; needs `pip install attribkit[ray]`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from typing import Any

from attribkit.benchmark.execution.work import Worker
from attribkit.benchmark.settings.configuration import Configuration
from attribkit.benchmark.settings.plan import Group, Plan
from attribkit.benchmark.storage.store import Store
from attribkit.core.errors import AttribkitError, InvalidInput
from attribkit.core.progress import tracked


class GroupWorker:
    """A worker in a process of its own, to which Ray gives one group after the other."""

    def __init__(
        self, configuration: Configuration, plan: Plan, store: Store, model: str, groups: Sequence[Group]
    ) -> None:
        self._store, self._groups = store, groups
        self._worker = Worker(configuration, plan, configuration.data.make(), store, model)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Do the group in this place; Ray gives it again after a loss, and what is stored is not done twice."""
        group = self._groups[item["place"]]
        missing = tuple(unit.method for unit in group.units if not self._store.is_finished(unit))
        if missing:
            self._worker(replace(group, methods=missing))
        return item


def run_on_ray(configuration: Configuration, plan: Plan, data: Any, store: Store, groups: Sequence[Group]) -> None:
    """Do the groups on the machines of a Ray cluster, model by model.

    The output folder is the store: all machines see it, and the data, under the same path.
    """
    if not groups:
        return
    if configuration.plugins:
        raise InvalidInput(
            "Ray's workers do not run the files of `plugins`: install them as a package on all machines."
        )
    ray = _ray()
    shared = replace(store, folder=store.folder.resolve())
    with _connected(ray, configuration.ray.address):
        for _ in tracked(_done(ray, configuration, plan, shared, groups), "shards", len(groups)):
            pass


def _done(ray: Any, configuration: Configuration, plan: Plan, store: Store, groups: Sequence[Group]) -> Iterator[Any]:
    """Something for each group that is done."""
    for model, waiting in groupby(groups, key=lambda group: group.model):
        of_model = tuple(waiting)
        places = ray.data.from_items(
            [{"place": place} for place in range(len(of_model))], override_num_blocks=len(of_model)
        )
        places.context.enable_progress_bars = False  # there is one of ours
        done = places.map(
            GroupWorker,
            fn_constructor_args=(configuration, plan, store, model, of_model),
            compute=_pool(ray, configuration, len(of_model)),
            num_cpus=configuration.ray.cpus,
            num_gpus=_gpus(configuration),
        )
        try:
            yield from done.iter_rows()
        except ray.exceptions.RayError as error:
            raise AttribkitError(
                f"Ray stopped: {error}\nStart the same run again; what is finished is kept."
            ) from error


def _pool(ray: Any, configuration: Configuration, groups: int) -> Any:
    """As many workers as are asked for, or as there is room for; each takes its next group when it is free."""
    if (workers := configuration.ray.workers) is not None:
        return ray.data.ActorPoolStrategy(size=min(workers, groups), max_tasks_in_flight_per_actor=1)
    return ray.data.ActorPoolStrategy(min_size=1, max_size=groups, max_tasks_in_flight_per_actor=1)


def _gpus(configuration: Configuration) -> float:
    """Of each worker: as configured, or one where the run is on GPUs."""
    if configuration.ray.gpus is not None:
        return configuration.ray.gpus
    return 1.0 if configuration.device.startswith("cuda") else 0.0


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """In a cluster: the one that the process is in already, or the one at the address, or one on this machine."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise AttribkitError(f"There is no Ray cluster at {address!r} ({error}): start one by `ray start`.") from error
    try:
        yield
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray.data
    except ImportError as error:
        raise AttribkitError(f"The executor 'ray' needs Ray Data ({error}): pip install 'attribkit[ray]'.") from error
    return ray
