"""A benchmark from its configuration to the rows, and the files that summarise it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from attribkit._core.errors import UnreadableFile
from attribkit._core.tensors import resolve_device
from attribkit._display.progress import progress_shown
from attribkit._display.representations import repr_with_notes
from attribkit.benchmark._identity import claim_folder, identity, write_atomically, write_text_atomically
from attribkit.benchmark._ray_actors import run_on_ray
from attribkit.benchmark._settings.configuration import Configuration, read_configuration
from attribkit.benchmark._settings.plan import Plan, ShardTask, make_plan
from attribkit.benchmark._settings.validation_errors import at_setting
from attribkit.benchmark._statistics import Summary, summarise
from attribkit.benchmark._store import Failure, Store, lock_folder
from attribkit.benchmark._tables.csv_files import FORMULA, write_csv
from attribkit.benchmark._tables.latex import latex
from attribkit.benchmark._work import run_serially, set_threads

Executor = Callable[[Configuration, Plan, Any, Store, Sequence[ShardTask]], None]

_EXECUTORS: dict[str, Executor] = {"serial": run_serially, "ray": run_on_ray}


@dataclass(frozen=True, eq=False)
class Results:
    """The results of a benchmark.

    Args:
        configuration: The configuration, with the device that was used.
        store: The files in the output folder.
        plan: The units of work.
        rows: A row for each image, map and metric.
        failures: Units, metrics and images that failed.
        notes: Limits on the comparability of the rows.
    """

    configuration: Configuration
    store: Store
    plan: Plan
    rows: pa.Table
    failures: Sequence[Failure]
    notes: Sequence[str] = ()

    def __repr__(self) -> str:
        text = (
            f"Results({len(self.plan.models)} models, {len(self.plan.methods)} methods, {len(self.plan.metrics)} "
            f"metrics, {self.plan.images} images: {self.rows.num_rows} rows, {len(self.failures)} failures, in "
            f"{str(self.store.folder)!r})"
        )
        return repr_with_notes(text, self.notes)


def benchmark(configuration: Configuration | str | Path, *, show_progress: bool = True) -> Results:
    """Explain images with several methods and models, and score the maps with several metrics.

    Units that are finished in the output folder are not computed again. Errors of methods, metrics and images do not
    stop the run.

    Args:
        configuration: The configuration, or the path of its TOML file.
        show_progress: Whether the progress is shown, as for `Explainer`.

    Returns:
        The rows and failures.

    Raises:
        InvalidInput: If settings are not valid, or the output folder contains a different run.
        UnreadableFile: If the output folder cannot be written.
        AttribkitError: If another run uses the output folder.
    """
    if not isinstance(configuration, Configuration):
        configuration = read_configuration(configuration)
    if configuration.device == "auto":  # the device is part of the run's identity
        configuration = configuration.model_copy(update={"device": resolve_device("auto").type})
    elif configuration.executor == "serial":  # fail before the folder is claimed
        with at_setting("device"):
            resolve_device(configuration.device)
    with at_setting("data", "options"):
        data = configuration.data.make()
    plan = make_plan(configuration, len(data))
    folder = _make_folder(configuration.output)
    with progress_shown(show_progress), lock_folder(folder), set_threads(configuration.threads):
        run_identity = identity(configuration, plan, data)
        claim_folder(folder, run_identity, configuration)
        extras = {"maps": configuration.save_maps, "details": configuration.save_details}
        store = Store(folder, run_identity, frozenset(name for name, is_saved in extras.items() if is_saved))
        store.remove_unfinished()
        missing = [unit for unit in plan.units() if not store.is_finished(unit)]
        _EXECUTORS[configuration.executor](configuration, plan, data, store, plan.tasks(missing))
        units = list(plan.units())
        notes = _device_notes(store.devices(units))
        return Results(configuration, store, plan, store.rows(units), store.failures(units), notes)


def _device_notes(devices: Sequence[str]) -> tuple[str, ...]:
    if len(devices) < 2:
        return ()
    return (
        f"The rows were computed on {len(devices)} kinds of devices ({'; '.join(devices)}): their last digits depend "
        "on the device.",
    )


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnreadableFile(
            f"The output folder {str(folder)!r} cannot be created ({error}). Choose another output folder."
        ) from error
    return folder


def write_summary(results: Results) -> Summary:
    """Summarise the rows, and write results.csv, summary.json and tables/ into the output folder.

    results.csv holds the rows without their details, tables/ the summary as CSV and LaTeX, and summary.json the same
    for figures and reports.

    Args:
        results: The results of a benchmark.

    Returns:
        The summary.

    Raises:
        InvalidInput: If there are not any rows.
        UnreadableFile: If a file cannot be written.
    """
    configuration, folder = results.configuration, results.store.folder
    summary = summarise(results.rows, seed=configuration.seed, oracle=configuration.oracle or None)
    summary = replace(summary, notes=(*summary.notes, *results.notes))
    subsets = pc.binary_join(results.rows["subsets"], "; ")
    rows = _quote_formulas(results.rows.drop_columns(["subsets", "details"]).append_column("subsets", subsets))
    write_atomically(folder / "results.csv", lambda path: csv.write_csv(rows, path))
    write_text_atomically(folder / "summary.json", summary.to_json())
    write_csv(summary, folder / "tables")
    write_text_atomically(folder / "tables" / "tables.tex", latex(summary))
    return summary


def _quote_formulas(rows: pa.Table) -> pa.Table:
    """Prepend an apostrophe to all text that a spreadsheet would interpret as a formula, like `spreadsheet_text`."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_string(field.type):
            text = rows[index]
            quoted = pc.binary_join_element_wise("'", text, "")
            rows = rows.set_column(index, field, pc.if_else(pc.match_substring_regex(text, FORMULA), quoted, text))
    return rows
