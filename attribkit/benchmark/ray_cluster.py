"""[benchmark/execution/ray_cluster] A Ray cluster: joined, or started on this machine; and how many workers there is room for.
[benchmark/execution/ray_crew] Ray actors that take one place of a list after the other, and are replaced where they are lost.
"""

import logging
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from attribkit.benchmark.settings.configuration import Configuration, RayOptions
from attribkit.benchmark.settings.validation_errors import at_setting
from attribkit.core.errors import AttribkitError, InvalidInput

Node = Mapping[str, Any]  # as `ray.nodes()` lists machines

_ROUNDING = 1e-6  # 0.3 / 0.1 is 3


@dataclass(frozen=True)
class WorkerShare:
    """What each worker takes of a machine."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{_counted(self.cpus, 'CPU')} and {_counted(self.gpus, 'GPU')}"


def worker_capacity(nodes: Sequence[Node], share: WorkerShare) -> int:
    """How many workers the machines of a cluster can hold, were nothing else on them."""
    return sum(_room(_of(node), share) for node in nodes if node["Alive"])


def worker_share(configuration: Configuration, nodes: Sequence[Node]) -> WorkerShare:
    """What each worker takes: as configured, or else as many CPUs as it has threads, if there is room for those.

    Raises InvalidInput where the workers can never fit.
    """
    options, threads = configuration.ray, configuration.threads
    on_gpu = configuration.device.startswith("cuda")
    gpus = options.gpus if options.gpus is not None else float(on_gpu)
    cpus = [options.cpus] if options.cpus is not None else [1] if on_gpu else range(threads, 0, -1)
    shares = [WorkerShare(float(each), gpus) for each in cpus]
    found = next((each for each in shares if worker_capacity(nodes, each) >= (options.workers or 1)), None)
    if found is None:
        with at_setting("ray"):
            raise InvalidInput(_no_room(nodes, shares[-1], options.workers))
    return found


def describe_nodes(nodes: Sequence[Node]) -> str:
    """The machines of a cluster, in words."""
    alive = [str(_of(node)) for node in nodes if node["Alive"]]
    kinds = [f"{alive.count(each)} with {each}" for each in dict.fromkeys(alive)]
    return f"{_counted(len(alive), 'machine')}: {'; '.join(kinds)}" if alive else "no machine"


@contextmanager
def connect(ray: Any, options: RayOptions) -> Iterator[None]:
    """In a cluster: the one that the process is in already, or the one at the address, or one on this machine."""
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
    """The package; AttribkitError where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise AttribkitError(f"The executor 'ray' needs Ray ({error}): pip install 'attribkit[ray]'.") from error
    return ray


def _start(ray: Any, options: RayOptions) -> None:
    """A cluster of this machine alone, whose workers are as urgent as this process."""
    environment = {
        "RAY_worker_niceness": "0",  # 15 by default, at which a busy machine starves them while they import
        "RAY_worker_register_timeout_seconds": str(math.ceil(options.start_timeout)),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with _set(environment):
        try:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # also bare ones
            raise AttribkitError(
                f"Ray cannot be started on this machine ({error}): try again when it is less busy, or use "
                "executor = 'serial'."
            ) from error


def _join(ray: Any, address: str | None) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise AttribkitError(f"There is no Ray cluster at {address!r} ({error}): start one by `ray start`.") from error


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables, but for those that the user has set."""
    own = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


def _of(node: Node) -> WorkerShare:
    """What a machine has."""
    resources = node["Resources"]
    return WorkerShare(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))


def _room(machine: WorkerShare, share: WorkerShare) -> int:
    pairs = ((machine.cpus, share.cpus), (machine.gpus, share.gpus))
    return min(math.floor(has / takes + _ROUNDING) for has, takes in pairs if takes)


def _no_room(nodes: Sequence[Node], share: WorkerShare, workers: int | None) -> str:
    number = f"{_counted(workers, 'worker')} of {share}" if workers else f"A worker of {share}"
    return (
        f"{number} {'do' if workers and workers > 1 else 'does'} not fit into the Ray cluster, which has room for "
        f"{worker_capacity(nodes, share)} of them ({describe_nodes(nodes)}): lower workers, cpus or gpus of [ray], or add machines."
    )


def _counted(number: int | float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}"


_TRIES = 3  # of a place whose worker is lost, and of workers that end while they start
_TICK = 1.0  # seconds between two looks at what happens
_PATIENCE = 60.0  # seconds without a worker before a line in the log


class WorkerPool:
    """Workers that start, and workers that are each at a place of the list.

    make: a new actor, with the methods `ready()` and `do(place)`. wanted: how many of them there may be now.
    """

    def __init__(
        self, ray: Any, make: Callable[[], Any], wanted: Callable[[], int], share: WorkerShare, start_timeout: float
    ) -> None:
        self._ray, self._make, self.wanted, self._share, self._timeout = ray, make, wanted, share, start_timeout
        self._starting: dict[Any, Any] = {}  # actors, by what they will answer
        self._busy: dict[Any, tuple[Any, int]] = {}  # actors and their places
        self._waiting: deque[int] = deque()
        self._losses: Counter[int] = Counter()  # of each place
        self._ended_early, self._why = 0, ""  # since a worker was last up; and the last reason
        self.done = 0
        self.given_up: dict[int, str] = {}  # places, and why

    @property
    def starting(self) -> int:
        """Workers that are waited for."""
        return len(self._starting)

    @property
    def up(self) -> int:
        """Workers that are at work."""
        return len(self._busy)

    def work(self, places: int) -> Iterator[None]:
        """Do all places; yields each second, and whenever something happens.

        Raises AttribkitError where no worker comes up, or where one raises.
        """
        self._waiting.extend(range(places))
        since, is_told = time.monotonic(), False
        while self._waiting or self._busy:
            self._hire()
            yield
            ready, _ = self._ray.wait([*self._starting, *self._busy], num_returns=1, timeout=_TICK)
            for answer in ready:
                self._settle(answer)
            waited = time.monotonic() - since
            if self._busy:
                since = time.monotonic()
            elif self._waiting and waited > self._timeout:
                raise AttribkitError(self._nobody(waited))
            elif self._waiting and waited > min(_PATIENCE, self._timeout / 2) and not is_told:
                logging.getLogger("attribkit").warning("%s", self._waits(waited))
                is_told = True
        yield

    def end(self) -> None:
        """End all workers that are left."""
        for actor in (*self._starting.values(), *(actor for actor, _ in self._busy.values())):
            self._ray.kill(actor)
        self._starting.clear()
        self._busy.clear()

    def _hire(self) -> None:
        """Start as many workers as are wanted and have something to do."""
        if self._ended_early >= _TRIES:
            if self._busy:
                return
            raise AttribkitError(f"Ray's workers end while they start: {self._why}")
        while len(self._starting) < len(self._waiting) and self.starting + self.up < self.wanted():
            actor = self._make()
            self._starting[actor.ready.remote()] = actor

    def _settle(self, answer: Any) -> None:
        """A worker has started, or is done with its place, or is lost."""
        actor, place = self._busy.pop(answer) if answer in self._busy else (self._starting.pop(answer), None)
        try:
            self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            raise AttribkitError(f"A worker stopped: {_cause(error)}\n{_AGAIN}") from error
        except self._ray.exceptions.RayError as error:
            self._lost(actor, place, _line(error))
            return
        self._ended_early = 0
        self.done += place is not None
        self._give(actor)

    def _give(self, actor: Any) -> None:
        """The next place to a worker that is free; where there is none, what it holds goes back to the cluster."""
        if self._waiting:
            place = self._waiting.popleft()
            self._busy[actor.do.remote(place)] = actor, place
        else:
            self._ray.kill(actor)

    def _lost(self, actor: Any, place: int | None, why: str) -> None:
        self._ray.kill(actor)
        if place is None:
            self._ended_early, self._why = self._ended_early + 1, why
            return
        self._losses[place] += 1
        if self._losses[place] < _TRIES:
            self._waiting.appendleft(place)
        else:
            self.done += 1
            self.given_up[place] = f"{_TRIES} workers were lost at this shard, the last one so: {why}"

    def _waits(self, waited: float) -> str:
        return f"No Ray worker has come up within {waited:.0f} s: {self.starting} of {self._share} each are asked for."

    def _nobody(self, waited: float) -> str:
        free = self._ray.available_resources()
        unused = WorkerShare(float(free.get("CPU", 0)), float(free.get("GPU", 0)))
        return (
            f"{self._waits(waited)} The cluster has {describe_nodes(self._ray.nodes())}, of which {unused} are free now. Free "
            "some, lower workers, cpus or gpus of [ray], or raise its start_timeout where the machines are only slow. "
            f"{_AGAIN}"
        )


_AGAIN = "Start the same run again; what is finished is kept."


def _cause(error: Any) -> str:
    cause = error.cause
    return str(cause) if isinstance(cause, AttribkitError) else f"{type(cause).__name__}: {cause}"


def _line(error: Exception) -> str:
    """The last line of what Ray says, which names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
