"""A benchmark from its configuration to its rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from attribkit.benchmark.execution.ray_actors import run_on_ray
from attribkit.benchmark.execution.serial import run_serially
from attribkit.benchmark.execution.threads import threads_set
from attribkit.benchmark.settings.complaints import asked_at
from attribkit.benchmark.settings.configuration import Configuration
from attribkit.benchmark.settings.plan import Group, Plan, planned
from attribkit.benchmark.settings.reading import lines_told, read_configuration
from attribkit.benchmark.storage.identity import claim, identity
from attribkit.benchmark.storage.lock import locked
from attribkit.benchmark.storage.store import Failure, Store
from attribkit.core.devices import device_named
from attribkit.core.errors import UnreadableFile

Execute = Callable[[Configuration, Plan, Any, Store, Sequence[Group]], None]


@dataclass(frozen=True, eq=False)
class Results:
    """What a benchmark gave, and what it could not."""

    configuration: Configuration
    store: Store
    plan: Plan
    rows: pa.Table  # one for each image, map and metric
    failures: Sequence[Failure]
    notes: Sequence[str] = ()  # on how far the rows can be compared


def benchmark(configuration: Configuration | str | Path) -> Results:
    """Explain images by several methods and models and measure the maps; what the output folder has is kept.

    configuration: or the TOML file that holds it. A folder of another run is refused, and so is one in use.
    """
    if not isinstance(configuration, Configuration):
        with lines_told(configuration):
            return benchmark(read_configuration(configuration))
    if configuration.device == "auto":  # numbers of two kinds of device are not of one run
        configuration = configuration.model_copy(update={"device": device_named("auto").type})
    elif configuration.executor == "serial":  # before the folder is that of a run that cannot be
        with asked_at("device"):
            device_named(configuration.device)
    with asked_at("data", "options"):
        data = configuration.data.make()
    plan = planned(configuration, len(data))
    folder = _made(configuration.output)
    with locked(folder), threads_set(configuration.threads):
        told = identity(configuration, plan, data)
        claim(folder, told, configuration)
        keeps = {"maps": configuration.save_maps, "details": configuration.save_details}
        store = Store(folder, told, frozenset(name for name, is_kept in keeps.items() if is_kept))
        store.tidy()
        missing = [unit for unit in plan.units() if not store.is_finished(unit)]
        _EXECUTORS[configuration.executor](configuration, plan, data, store, plan.groups(missing))
        units = list(plan.units())
        notes = _of_devices(store.devices(units))
        return Results(configuration, store, plan, store.rows(units), store.failures(units), notes)


def _of_devices(devices: Sequence[str]) -> tuple[str, ...]:
    if len(devices) < 2:
        return ()
    return (
        f"The rows were computed on {len(devices)} kinds of devices ({'; '.join(devices)}): the last digits depend on "
        "which.",
    )


_EXECUTORS: dict[str, Execute] = {"serial": run_serially, "ray": run_on_ray}


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnreadableFile(f"The output {str(folder)!r} cannot be made ({error}): choose another.") from error
    return folder
