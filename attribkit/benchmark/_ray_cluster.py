"""A Ray cluster, its room for workers, and a pool of workers that replaces those that are lost."""

import logging
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from attribkit._core.errors import AttribkitError, InvalidInput
from attribkit.benchmark._settings.configuration import Configuration, RayOptions
from attribkit.benchmark._settings.validation_errors import at_setting

Node = Mapping[str, Any]  # a machine, as `ray.nodes()` lists it

_ROUNDING = 1e-6  # makes 0.3 / 0.1 equal 3
_MAX_TRIES = 3  # workers that are lost at one task, and workers that end while they start
_POLL_SECONDS = 1.0
_WARN_SECONDS = 60.0  # seconds without a worker before a warning is logged
_RESTART = "Start the same run again; finished units are kept."


@dataclass(frozen=True)
class Resources:
    """Resources of a worker or a machine.

    Args:
        cpus: Number of CPUs.
        gpus: Number of GPUs.
    """

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{_plural(self.cpus, 'CPU')} and {_plural(self.gpus, 'GPU')}"


def worker_capacity(nodes: Sequence[Node], worker: Resources) -> int:
    """Return how many workers fit into the cluster if it is otherwise idle."""
    return sum(_capacity(_resources_of(node), worker) for node in nodes if node["Alive"])


def worker_resources(configuration: Configuration, nodes: Sequence[Node]) -> Resources:
    """Return the resources of each worker: the configured ones, or a CPU for each thread if there is room for them.

    Raises:
        InvalidInput: If the workers do not fit into the cluster.
    """
    options, threads = configuration.ray, configuration.threads
    on_gpu = configuration.device.startswith("cuda")
    gpus = options.gpus if options.gpus is not None else float(on_gpu)
    cpus = [options.cpus] if options.cpus is not None else [1] if on_gpu else range(threads, 0, -1)
    candidates = [Resources(float(each), gpus) for each in cpus]
    result = next((each for each in candidates if worker_capacity(nodes, each) >= (options.workers or 1)), None)
    if result is None:
        with at_setting("ray"):
            raise InvalidInput(_too_large(nodes, candidates[-1], options.workers))
    return result


def describe_nodes(nodes: Sequence[Node]) -> str:
    """Describe the machines of a cluster and their resources."""
    alive = [str(_resources_of(node)) for node in nodes if node["Alive"]]
    kinds = [f"{alive.count(each)} with {each}" for each in dict.fromkeys(alive)]
    return f"{_plural(len(alive), 'machine')}: {'; '.join(kinds)}" if alive else "0 machines"


@contextmanager
def connect(ray: Any, options: RayOptions) -> Iterator[None]:
    """Connect to a cluster: the one that the process uses already, the one at the address, or one on this machine."""
    if ray.is_initialized():
        yield
        return
    address = options.address or os.environ.get("RAY_ADDRESS")
    if address in (None, "", "local"):
        _start(ray, options)
    else:
        _join(ray, address)
    try:
        yield
    finally:
        ray.shutdown()


def import_ray() -> Any:
    """Import Ray, or raise AttribkitError if it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise AttribkitError(f"The executor 'ray' needs Ray ({error}): pip install 'attribkit[ray]'.") from error
    return ray


def _start(ray: Any, options: RayOptions) -> None:
    """Start a cluster on this machine, with workers of normal priority."""
    environment = {
        "RAY_worker_niceness": "0",  # with Ray's default of 15, a busy machine starves workers while they import
        "RAY_worker_register_timeout_seconds": str(math.ceil(options.start_timeout)),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with _set_environment(environment):
        try:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # Ray also raises bare exceptions
            raise AttribkitError(
                f"Ray cannot be started on this machine ({error}). Try again when the machine is less busy, or set "
                "executor = 'serial'."
            ) from error


def _join(ray: Any, address: str | None) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise AttribkitError(
            f"The Ray cluster at {address!r} cannot be reached ({error}). Start one with `ray start`."
        ) from error


@contextmanager
def _set_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, except those that the user has set."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _resources_of(node: Node) -> Resources:
    resources = node["Resources"]
    return Resources(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))


def _capacity(machine: Resources, worker: Resources) -> int:
    pairs = ((machine.cpus, worker.cpus), (machine.gpus, worker.gpus))
    return min(math.floor(available / needed + _ROUNDING) for available, needed in pairs if needed)


def _too_large(nodes: Sequence[Node], worker: Resources, workers: int | None) -> str:
    number = f"{_plural(workers, 'worker')} of {worker}" if workers else f"A worker of {worker}"
    return (
        f"{number} {'do' if workers and workers > 1 else 'does'} not fit into the Ray cluster, which has room for "
        f"{worker_capacity(nodes, worker)} of them ({describe_nodes(nodes)}). Lower workers, cpus or gpus of [ray], or "
        "add machines."
    )


def _plural(number: int | float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}"


class WorkerPool:
    """Workers that compute tasks, which are identified by their indices.

    Args:
        ray: The module.
        make: Starts an actor with the methods `ready()` and `run(index)`.
        target_size: Returns how many workers there should be at present.
        resources: Resources of each worker, for messages.
        start_timeout: Seconds to wait for a worker while none is running.
    """

    def __init__(
        self,
        ray: Any,
        make: Callable[[], Any],
        target_size: Callable[[], int],
        resources: Resources,
        start_timeout: float,
    ) -> None:
        self._ray, self._make, self.target_size, self._resources = ray, make, target_size, resources
        self._timeout = start_timeout
        self._starting_actors: dict[Any, Any] = {}  # keyed by the future of their start
        self._busy_actors: dict[Any, tuple[Any, int]] = {}  # actors and their tasks, keyed by the task's future
        self._pending: deque[int] = deque()
        self._losses: Counter[int] = Counter()  # lost workers of each task
        self._failed_starts, self._start_error = 0, ""  # failures since the last successful start
        self.finished = 0
        self.given_up: dict[int, str] = {}  # reasons, keyed by task

    @property
    def starting(self) -> int:
        """Number of workers that are starting."""
        return len(self._starting_actors)

    @property
    def busy(self) -> int:
        """Number of workers that are computing a task."""
        return len(self._busy_actors)

    def run(self, tasks: int) -> Iterator[None]:
        """Compute all tasks, and yield every second and whenever a worker finishes or is lost.

        Raises:
            AttribkitError: If none of the workers starts, or if a task raises.
        """
        self._pending.extend(range(tasks))
        since, has_warned = time.monotonic(), False
        while self._pending or self._busy_actors:
            self._start_workers()
            yield
            ready, _ = self._ray.wait(
                [*self._starting_actors, *self._busy_actors], num_returns=1, timeout=_POLL_SECONDS
            )
            for future in ready:
                self._handle(future)
            waited = time.monotonic() - since
            if self._busy_actors:
                since = time.monotonic()
            elif self._pending and waited > self._timeout:
                raise AttribkitError(self._timeout_message(waited))
            elif self._pending and waited > min(_WARN_SECONDS, self._timeout / 2) and not has_warned:
                logging.getLogger("attribkit").warning("%s", self._waiting_message(waited))
                has_warned = True
        yield

    def end(self) -> None:
        """End all remaining workers."""
        for actor in (*self._starting_actors.values(), *(actor for actor, _ in self._busy_actors.values())):
            self._ray.kill(actor)
        self._starting_actors.clear()
        self._busy_actors.clear()

    def _start_workers(self) -> None:
        """Start workers up to the target size, but not more than there are pending tasks."""
        if self._failed_starts >= _MAX_TRIES:
            if self._busy_actors:
                return
            raise AttribkitError(f"Ray workers exited while they were starting: {self._start_error}")
        while self.starting < len(self._pending) and self.starting + self.busy < self.target_size():
            actor = self._make()
            self._starting_actors[actor.ready.remote()] = actor

    def _handle(self, future: Any) -> None:
        """Handle a worker that has started, has finished its task, or is lost."""
        if future in self._busy_actors:
            actor, index = self._busy_actors.pop(future)
        else:
            actor, index = self._starting_actors.pop(future), None
        try:
            self._ray.get(future)
        except self._ray.exceptions.RayTaskError as error:
            raise AttribkitError(f"A worker stopped: {_cause(error)}\n{_RESTART}") from error
        except self._ray.exceptions.RayError as error:
            self._handle_loss(actor, index, _last_line(error))
            return
        self._failed_starts = 0
        self.finished += index is not None
        self._assign(actor)

    def _assign(self, actor: Any) -> None:
        """Assign the next task to a free worker; without pending tasks, end the worker to free its resources."""
        if self._pending:
            index = self._pending.popleft()
            self._busy_actors[actor.run.remote(index)] = actor, index
        else:
            self._ray.kill(actor)

    def _handle_loss(self, actor: Any, index: int | None, reason: str) -> None:
        self._ray.kill(actor)
        if index is None:
            self._failed_starts, self._start_error = self._failed_starts + 1, reason
            return
        self._losses[index] += 1
        if self._losses[index] < _MAX_TRIES:
            self._pending.appendleft(index)
        else:
            self.finished += 1
            self.given_up[index] = f"{_MAX_TRIES} workers failed on this shard; the last failure: {reason}"

    def _waiting_message(self, waited: float) -> str:
        return (
            f"No Ray worker has started within {waited:.0f} s: {self.starting} of {self._resources} each are requested."
        )

    def _timeout_message(self, waited: float) -> str:
        free = self._ray.available_resources()
        unused = Resources(float(free.get("CPU", 0)), float(free.get("GPU", 0)))
        return (
            f"{self._waiting_message(waited)} The cluster has {describe_nodes(self._ray.nodes())}, of which {unused} "
            "are free. Free some, lower workers, cpus or gpus of [ray], or increase its start_timeout if the "
            f"machines are slow to start. {_RESTART}"
        )


def _cause(error: Any) -> str:
    cause = error.cause
    return str(cause) if isinstance(cause, AttribkitError) else f"{type(cause).__name__}: {cause}"


def _last_line(error: Exception) -> str:
    """Return the last line of Ray's message, which names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
