"""The command `attribkit benchmark`."""

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attribkit._core.errors import InvalidInput
from attribkit.cli._app import app, print_rich_table, report_errors, write_line
from attribkit.cli._options import parse_width

if TYPE_CHECKING:
    from attribkit.benchmark import Results

_MAX_FAILURES = 20  # printed; the folder of the results has all


@app.command("benchmark")
@report_errors
def benchmark_command(
    configuration: Annotated[Path | None, typer.Argument(help="TOML file, see --example")] = None,
    example: Annotated[bool, typer.Option("--example", help="print an example of a configuration")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="folder of the results, overrides that of the file")
    ] = None,
) -> None:
    """Run the benchmark that a configuration file describes, or resume it.

    The exit code is 1 if a method or a metric failed; the other results are written, and the next run retries the
    failed ones.
    """
    if example:
        typer.echo(
            files("attribkit").joinpath("benchmark/_settings/example.toml").read_text(encoding="utf-8"), nl=False
        )
        return
    from attribkit import benchmark as bench

    if configuration is None:
        raise InvalidInput(
            "The path of a configuration is missing: `attribkit benchmark --example > run.toml` writes an example."
        )
    settings = bench.read_configuration(configuration)
    if output is not None:
        settings = settings.model_copy(update={"output": output})
    for model in settings.models:
        if model.has_random_weights:
            typer.echo(
                f"attribkit: {model.title} has random weights, unless its constructor loads weights: set weights or "
                "pretrained in the configuration.",
                err=True,
            )
    try:
        results = bench.benchmark(settings)
    except KeyboardInterrupt:
        finished = len(list((settings.output / "rows").rglob("*.parquet")))
        typer.echo(
            f"attribkit: stopped. {finished} units (one method on one shard each) are finished in {settings.output}; "
            "start the same command again to go on.",
            err=True,
        )
        raise typer.Exit(130) from None
    _print_results(results)
    _print_failures(results)
    if any(failure.image is None for failure in results.failures):
        raise typer.Exit(1)


def _print_results(results: "Results") -> None:
    from attribkit.benchmark import write_summary
    from attribkit.benchmark._tables import agreement_tables, ranking_tables, tables

    summary = write_summary(results)
    for table in (*tables(summary), *ranking_tables(summary), *agreement_tables(summary)):
        print_rich_table(table)
    for note in summary.notes:
        write_line(f"note: {note}")
    write_line(f"written: {results.store.folder}")


def _print_failures(results: "Results") -> None:
    """Print what failed, last, so that the tables do not hide it."""
    for failure in results.failures[:_MAX_FAILURES]:
        write_line(f"left out: {failure}", err=True)
    if (more := len(results.failures) - _MAX_FAILURES) > 0:
        typer.echo(f"left out: {more} more, in {results.store.folder / 'failures'}", err=True)


@app.command("figures")
@report_errors
def figures_command(
    run: Annotated[Path, typer.Argument(help="output folder of `attribkit benchmark`")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the figures")] = Path("figures"),
    width: Annotated[
        str, typer.Option(help="width in inches, or a venue: cvpr, cvpr-text, neurips, ieee ...")
    ] = "cvpr",
    suffix: Annotated[str, typer.Option("--format", help="pdf, png, svg ...")] = "pdf",
) -> None:
    """Draw the results of a benchmark: scores with intervals, rankings, curves, and the agreement of metrics."""
    from attribkit.benchmark import write_figures

    parsed = parse_width(width)
    paths, missing = write_figures(run, output, width=parsed, suffix=f".{suffix.removeprefix('.')}")
    for path in paths:
        write_line(f"written: {path}")
    for reason in missing:
        write_line(f"left out: {reason}")
