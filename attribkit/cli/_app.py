"""The command line application and its output."""

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from attribkit._core.errors import AttribkitError, PluginWarning, printable

app = typer.Typer(
    help="Explain PyTorch vision models, and measure how far the explanations can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def report_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command to print an AttribkitError in one line, with exit code 2, and warnings in one line each."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        warnings.showwarning = _print_warning
        try:
            command(*args, **kwargs)
        except AttribkitError as error:
            write_line(f"attribkit: {error}", err=True)
            raise typer.Exit(2) from None

    return run


def write_line(text: str, *, err: bool = False) -> None:
    """Print a line, with control characters escaped."""
    typer.echo(printable(text), err=err)


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    """Print rows as a table whose columns are the keys of the first row."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)), title_justify="left")
    for column in rows[0] if rows else ():
        table.add_column(Text(printable(column)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(value))) for value in row.values()))
    print_rich_table(table)


def print_rich_table(table: Any) -> None:
    """Print a table of rich; 160 columns wide if the output is not a terminal."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(table)


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="show the version and exit")] = False) -> None:
    if version:
        from attribkit import __version__

        typer.echo(__version__)
        raise typer.Exit


def _print_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    prefix = "attribkit: " if issubclass(category, PluginWarning) else f"{category.__name__}: "
    write_line(f"{prefix}{message}", err=True)
