"""A Ray cluster: joined, or started on this machine; and how many workers there is room for."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from attribkit.benchmark.settings.complaints import asked_at
from attribkit.benchmark.settings.configuration import Configuration, RayOptions
from attribkit.core.errors import AttribkitError, InvalidInput

Node = Mapping[str, Any]  # as `ray.nodes()` lists machines

_ROUNDING = 1e-6  # 0.3 / 0.1 is 3


@dataclass(frozen=True)
class Share:
    """What each worker takes of a machine."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{_counted(self.cpus, 'CPU')} and {_counted(self.gpus, 'GPU')}"


def room(nodes: Sequence[Node], share: Share) -> int:
    """How many workers the machines of a cluster can hold, were nothing else on them."""
    return sum(_room(_of(node), share) for node in nodes if node["Alive"])


def share(configuration: Configuration, nodes: Sequence[Node]) -> Share:
    """What each worker takes: as configured, or else as many CPUs as it has threads, if there is room for those.

    Raises InvalidInput where the workers can never fit.
    """
    options, threads = configuration.ray, configuration.threads
    on_gpu = configuration.device.startswith("cuda")
    gpus = options.gpus if options.gpus is not None else float(on_gpu)
    cpus = [options.cpus] if options.cpus is not None else [1] if on_gpu else range(threads, 0, -1)
    shares = [Share(float(each), gpus) for each in cpus]
    found = next((each for each in shares if room(nodes, each) >= (options.workers or 1)), None)
    if found is None:
        with asked_at("ray"):
            raise InvalidInput(_no_room(nodes, shares[-1], options.workers))
    return found


def told(nodes: Sequence[Node]) -> str:
    """The machines of a cluster, in words."""
    alive = [str(_of(node)) for node in nodes if node["Alive"]]
    kinds = [f"{alive.count(each)} with {each}" for each in dict.fromkeys(alive)]
    return f"{_counted(len(alive), 'machine')}: {'; '.join(kinds)}" if alive else "no machine"


@contextmanager
def connected(ray: Any, options: RayOptions) -> Iterator[None]:
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


def imported() -> Any:
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


def _of(node: Node) -> Share:
    """What a machine has."""
    resources = node["Resources"]
    return Share(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))


def _room(machine: Share, share: Share) -> int:
    pairs = ((machine.cpus, share.cpus), (machine.gpus, share.gpus))
    return min(math.floor(has / takes + _ROUNDING) for has, takes in pairs if takes)


def _no_room(nodes: Sequence[Node], share: Share, workers: int | None) -> str:
    number = f"{_counted(workers, 'worker')} of {share}" if workers else f"A worker of {share}"
    return (
        f"{number} {'do' if workers and workers > 1 else 'does'} not fit into the Ray cluster, which has room for "
        f"{room(nodes, share)} of them ({told(nodes)}): lower workers, cpus or gpus of [ray], or add machines."
    )


def _counted(number: int | float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}"
