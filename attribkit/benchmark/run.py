"""[benchmark/run] A benchmark from its configuration to its rows.
[benchmark/tables/written] What a benchmark leaves for readers: its summary, as JSON and as tables.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from attribkit.benchmark.identity import claim_folder, identity, write_result, write_text_whole
from attribkit.benchmark.lock import locked
from attribkit.benchmark.ray_actors import run_on_ray
from attribkit.benchmark.settings.configuration import Configuration, add_line_numbers, read_configuration
from attribkit.benchmark.settings.plan import Group, Plan, make_plan
from attribkit.benchmark.settings.validation_errors import at_setting
from attribkit.benchmark.statistics import Summary, summarise
from attribkit.benchmark.store import Failure, Store
from attribkit.benchmark.tables.csv_files import FORMULA, write_csv
from attribkit.benchmark.tables.rendering import latex
from attribkit.benchmark.work import run_serially, set_threads
from attribkit.core.errors import UnreadableFile
from attribkit.core.tensors import resolve_device

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
        with add_line_numbers(configuration):
            return benchmark(read_configuration(configuration))
    if configuration.device == "auto":  # numbers of two kinds of device are not of one run
        configuration = configuration.model_copy(update={"device": resolve_device("auto").type})
    elif configuration.executor == "serial":  # before the folder is that of a run that cannot be
        with at_setting("device"):
            resolve_device(configuration.device)
    with at_setting("data", "options"):
        data = configuration.data.make()
    plan = make_plan(configuration, len(data))
    folder = _made(configuration.output)
    with locked(folder), set_threads(configuration.threads):
        told = identity(configuration, plan, data)
        claim_folder(folder, told, configuration)
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


def write_summary(results: Results) -> Summary:
    """Summarise the rows, and write into the output folder what can be read without attribkit.

    results.csv holds the rows, tables/ what they say, summary.json the same for figures and reports.
    """
    configuration, folder = results.configuration, results.store.folder
    summary = summarise(results.rows, seed=configuration.seed, oracle=configuration.oracle or None)
    summary = replace(summary, notes=(*summary.notes, *results.notes))
    joined = pc.binary_join(results.rows["subsets"], "; ")
    rows = _for_spreadsheets(results.rows.drop_columns(["subsets", "details"]).append_column("subsets", joined))
    write_result(folder / "results.csv", lambda path: csv.write_csv(rows, path))
    write_text_whole(folder / "summary.json", summary.to_json())
    write_csv(summary, folder / "tables")
    write_text_whole(folder / "tables" / "tables.tex", latex(summary))
    return summary


def _for_spreadsheets(rows: pa.Table) -> pa.Table:
    """The rows with texts as `spreadsheet_text` has them."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_string(field.type):
            text = rows[place]
            marked = pc.binary_join_element_wise("'", text, "")
            rows = rows.set_column(place, field, pc.if_else(pc.match_substring_regex(text, FORMULA), marked, text))
    return rows
