"""The executor "ray": many processes, devices and machines; needs `pip install attribkit[ray]`."""

from collections.abc import Sequence
from dataclasses import replace
from socket import gethostname
from typing import Any

from attribkit._core.errors import InvalidInput
from attribkit._display.progress import Bar, open_bar, progress_shown
from attribkit._loading import LoadedModel
from attribkit.benchmark._identity import model_identity
from attribkit.benchmark._ray_cluster import WorkerPool, connect, import_ray, worker_capacity, worker_resources
from attribkit.benchmark._settings.configuration import Configuration
from attribkit.benchmark._settings.plan import Plan, ShardTask
from attribkit.benchmark._store import Failure, Store
from attribkit.benchmark._work import Worker, set_threads


class TaskWorker:
    """A Ray actor that computes one shard task after the other; it holds one model at a time."""

    def __init__(self, run: tuple[Configuration, Plan, Store, Sequence[ShardTask]]) -> None:
        self._configuration, self._plan, self._store, self._tasks = run
        self._data: Any = None
        self._model = ""
        self._worker: Worker | None = None

    def ready(self) -> None:
        """Return once the process has started and imported its packages."""

    def run(self, index: int) -> None:
        """Compute the missing units of a task, which is started again after a worker is lost."""
        task = self._tasks[index]
        missing = tuple(unit.method for unit in task.units if not self._store.is_finished(unit))
        if missing:
            with progress_shown(False), set_threads(self._configuration.threads):  # the driver shows it
                self._worker_of(task.model)(replace(task, methods=missing))

    def _worker_of(self, model: str) -> Worker:
        """Return the worker of a model; the worker of another model is freed first."""
        if self._worker is None or self._model != model:
            self._worker = None
            self._data = self._data if self._data is not None else self._configuration.data.make()
            self._model = model
            self._worker = Worker(self._configuration, self._plan, self._data, self._store, model)
            self._check(self._worker, model)
        return self._worker

    def _check(self, worker: Worker, model: str) -> None:
        """Refuse a model with different weights, due to another file or to random weights on another processor."""
        choice = next(each for each in self._configuration.models if each.title == model)
        actual = model_identity(choice, LoadedModel(worker.explainer.model.module, worker.preprocessing))
        if actual != (expected := self._store.identity["models"][model]):
            raise InvalidInput(
                f"The model {model!r} on {gethostname()} ({actual}) differs from the model where the run was started "
                f"({expected}). Random weights depend on the processor: set weights to a file that is the same on all "
                "machines."
            )


def run_on_ray(configuration: Configuration, plan: Plan, data: Any, store: Store, tasks: Sequence[ShardTask]) -> None:
    """Compute the tasks on the machines of a Ray cluster.

    All machines must have access to the output folder and the data under the same paths. A task that repeatedly
    loses its workers is recorded as failed, and the run continues with the others.
    """
    if not tasks:
        return
    if configuration.plugins:
        raise InvalidInput("The executor 'ray' does not support `plugins`. Install them as a package on all machines.")
    ray, shared = import_ray(), replace(store, folder=store.folder.resolve())
    with open_bar("starting Ray", len(tasks)) as shown, connect(ray, configuration.ray):
        pool = _worker_pool(ray, configuration, (configuration, plan, shared, tasks), len(tasks))
        try:
            for _ in pool.run(len(tasks)):
                _show(shown, pool)
        finally:
            pool.end()
    for index, reason in pool.given_up.items():
        for unit in tasks[index].units:
            if not store.is_finished(unit):
                store.fail(unit, Failure(unit.model, unit.shard, reason, unit.method))


def _worker_pool(ray: Any, configuration: Configuration, run: tuple[Any, ...], tasks: int) -> WorkerPool:
    """Return a pool of workers with the configured resources; InvalidInput if they do not fit into the cluster."""
    options = configuration.ray
    resources = worker_resources(configuration, ray.nodes())
    actor = ray.remote(TaskWorker).options(
        num_cpus=resources.cpus, num_gpus=resources.gpus, max_restarts=0, max_task_retries=0
    )
    inputs = ray.put(run)

    def target_size() -> int:
        return min(options.workers or max(1, worker_capacity(ray.nodes(), resources)), tasks)

    return WorkerPool(ray, lambda: actor.remote(inputs), target_size, resources, options.start_timeout)


def _show(shown: Bar, pool: WorkerPool) -> None:
    shown.set_description_str("shards", refresh=False)
    starting = f", {pool.starting} starting" if pool.starting else ""
    shown.set_postfix_str(f"{pool.busy} of {pool.target_size()} workers busy{starting}", refresh=False)
    shown.n = pool.finished
    shown.refresh()
