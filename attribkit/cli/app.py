"""The command line's frame: what every command shares."""

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from attribkit.core.errors import AttribkitError, PluginWarning, printable

app = typer.Typer(
    help="What a PyTorch vision model looks at, and whether the answer can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def report_errors(command: Callable[..., None]) -> Callable[..., None]:
    """End with the sentence of an AttribkitError and exit code 2; show warnings as sentences too."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        warnings.showwarning = _sentence
        try:
            command(*args, **kwargs)
        except AttribkitError as error:
            write_line(f"attribkit: {error}", err=True)
            raise typer.Exit(2) from None

    return run


def write_line(text: str, *, err: bool = False) -> None:
    """A line in the terminal; what a plugin, a model or a file put into it moves no cursor."""
    typer.echo(printable(text), err=err)


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    """Rows as a table in the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)), title_justify="left")
    for column in rows[0] if rows else ():
        table.add_column(Text(printable(column)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(value))) for value in row.values()))
    show(table)


def show(table: Any) -> None:
    """A table of rich's in the terminal; plain and whole where the output is no terminal."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(table)


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="show the version and exit")] = False) -> None:
    if version:
        from attribkit import __version__

        typer.echo(__version__)
        raise typer.Exit


def _sentence(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    prefix = "attribkit: " if issubclass(category, PluginWarning) else f"{category.__name__}: "
    write_line(f"{prefix}{message}", err=True)
