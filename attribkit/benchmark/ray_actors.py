"""Many processes, devices and machines, by the actors of Ray; needs `pip install attribkit[ray]`."""

from collections.abc import Sequence
from dataclasses import replace
from socket import gethostname
from typing import Any

from attribkit.benchmark.identity import model_identity
from attribkit.benchmark.ray_cluster import WorkerPool, connect, import_ray, worker_capacity, worker_share
from attribkit.benchmark.settings.configuration import Configuration
from attribkit.benchmark.settings.plan import Group, Plan
from attribkit.benchmark.store import Failure, Store
from attribkit.benchmark.work import Worker, set_threads
from attribkit.core.errors import InvalidInput
from attribkit.core.progress import Bar, bar
from attribkit.io.loading import LoadedModel


class GroupWorker:
    """A process that is given one group after the other; it holds one model at a time."""

    def __init__(self, run: tuple[Configuration, Plan, Store, Sequence[Group]]) -> None:
        self._configuration, self._plan, self._store, self._groups = run
        self._data: Any = None
        self._model = ""
        self._worker: Worker | None = None

    def ready(self) -> None:
        """Answer once the process has started and imported all that it needs."""

    def do(self, place: int) -> None:
        """Do what is missing of the group in this place: it is given again after a loss."""
        group = self._groups[place]
        missing = tuple(unit.method for unit in group.units if not self._store.is_finished(unit))
        if missing:
            with set_threads(self._configuration.threads):
                self._of(group.model)(replace(group, methods=missing))

    def _of(self, model: str) -> Worker:
        """The worker of this model; that of another is dropped first, and its memory with it."""
        if self._worker is None or self._model != model:
            self._worker = None
            self._data = self._data if self._data is not None else self._configuration.data.make()
            self._model = model
            self._worker = Worker(self._configuration, self._plan, self._data, self._store, model)
            self._check(self._worker, model)
        return self._worker

    def _check(self, worker: Worker, model: str) -> None:
        """Refuse another model than the run's: its file of weights or the processor that draws them is another."""
        choice = next(each for each in self._configuration.models if each.title == model)
        own = model_identity(choice, LoadedModel(worker.explainer.model.module, worker.preprocessing))
        if own != (wanted := self._store.identity["models"][model]):
            raise InvalidInput(
                f"The model {model!r} is another on {gethostname()} ({own}) than where the run was started ({wanted}): "
                "random weights depend on the processor, so give it weights; a file of them must be the same on all "
                "machines."
            )


def run_on_ray(configuration: Configuration, plan: Plan, data: Any, store: Store, groups: Sequence[Group]) -> None:
    """Do the groups on the machines of a Ray cluster.

    The output folder is the store: all machines see it, and the data, under the same path. A group at which workers
    end again and again is recorded as failed; the run goes on with the others.
    """
    if not groups:
        return
    if configuration.plugins:
        raise InvalidInput(
            "Ray's workers do not run the files of `plugins`: install them as a package on all machines."
        )
    ray, shared = import_ray(), replace(store, folder=store.folder.resolve())
    with bar("starting Ray", len(groups)) as shown, connect(ray, configuration.ray):
        crew = _crew(ray, configuration, (configuration, plan, shared, groups), len(groups))
        try:
            for _ in crew.work(len(groups)):
                _show(shown, crew)
        finally:
            crew.end()
    for place, why in crew.given_up.items():
        for unit in groups[place].units:
            if not store.is_finished(unit):
                store.fail(unit, Failure(unit.model, unit.shard, why, unit.method))


def _crew(ray: Any, configuration: Configuration, run: tuple[Any, ...], groups: int) -> WorkerPool:
    """The workers, which take no more than there is; InvalidInput where they cannot fit."""
    options = configuration.ray
    taken = worker_share(configuration, ray.nodes())
    actor = ray.remote(GroupWorker).options(
        num_cpus=taken.cpus, num_gpus=taken.gpus, max_restarts=0, max_task_retries=0
    )
    inputs = ray.put(run)

    def wanted() -> int:
        return min(options.workers or max(1, worker_capacity(ray.nodes(), taken)), groups)

    return WorkerPool(ray, lambda: actor.remote(inputs), wanted, taken, options.start_timeout)


def _show(shown: Bar, crew: WorkerPool) -> None:
    shown.set_description_str("shards", refresh=False)
    waits = f", {crew.starting} starting" if crew.starting else ""
    shown.set_postfix_str(f"{crew.up} of {crew.wanted()} workers up{waits}", refresh=False)
    shown.n = crew.done
    shown.refresh()
