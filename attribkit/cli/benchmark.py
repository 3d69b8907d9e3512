"""`attribkit benchmark`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attribkit.cli.app import app, report_errors, show, write_line
from attribkit.core.errors import InvalidInput

if TYPE_CHECKING:
    from attribkit.benchmark import Results

_SHOWN = 20  # failures; the folder has them all


@app.command()
@report_errors
def benchmark_command(
    configuration: Annotated[Path | None, typer.Argument(help="TOML file; --example prints one")] = None,
    example: Annotated[bool, typer.Option("--example", help="print a configuration to begin with")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder, in place of the file's own")] = None,
) -> None:
    """Measure methods on models and data that a file names; one that was stopped goes on where it was.

    Ends with 1 where a method or a metric failed: the rest is written, and the next run tries them again.
    """
    from attribkit import benchmark as bench

    if example:
        typer.echo(bench.example(), nl=False)
        return
    if configuration is None:
        raise InvalidInput("Name a configuration: `attribkit benchmark --example > run.toml` makes one.")
    chosen = bench.read_configuration(configuration)
    if output is not None:
        chosen = chosen.model_copy(update={"output": output})
    for model in chosen.models:
        if model.has_random_weights:
            typer.echo(
                f"attribkit: {model.title} has random weights, unless its builder loads some: neither weights nor "
                "pretrained are set.",
                err=True,
            )
    try:
        with bench.add_line_numbers(configuration):
            results = bench.benchmark(chosen)
    except KeyboardInterrupt:
        finished = len(list((chosen.output / "rows").rglob("*.parquet")))
        typer.echo(
            f"attribkit: stopped. {finished} units, a method on a shard each, are finished in {chosen.output}; start "
            "the same command again to go on.",
            err=True,
        )
        raise typer.Exit(130) from None
    _show(results)
    if any(failure.image is None for failure in results.failures):
        raise typer.Exit(1)


def _show(results: "Results") -> None:
    from attribkit.benchmark import write_summary
    from attribkit.benchmark.tables import agreement_tables, ranking_tables, tables

    for failure in results.failures[:_SHOWN]:
        write_line(f"left out: {failure}", err=True)
    if (more := len(results.failures) - _SHOWN) > 0:
        typer.echo(f"left out: {more} more, in {results.store.folder / 'failures'}", err=True)
    summary = write_summary(results)
    for table in (*tables(summary), *ranking_tables(summary), *agreement_tables(summary)):
        show(table)
    for note in summary.notes:
        write_line(f"note: {note}")
    write_line(f"written: {results.store.folder}")
