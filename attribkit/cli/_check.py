"""The command `attribkit check`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from attribkit._core.errors import AttribkitError, InvalidInput, UnknownName, join_names
from attribkit.cli._app import app, report_errors, write_line
from attribkit.cli._options import argument


@app.command("check")
@report_errors
def check_plugins(
    names: Annotated[list[str], typer.Argument(help="a plugin, its distribution, one of its classes, or FILE.py")],
    option: Annotated[list[str], typer.Option(help="KEY=VALUE for all checked classes, such as samples=2")] = [],  # noqa: B006
) -> None:
    """Run the conformance checks on the classes of plugins, and print a report; exit code 1 if a check fails."""
    from attribkit.testing import report_conformance

    options = dict(argument(each, "--option") for each in option)
    classes = dict.fromkeys(cls for name in names for cls in _classes(name))
    _check_options(options, classes)
    failed = 0
    for cls in classes:
        report = report_conformance(_instance(cls, options))
        for line in str(report).splitlines():
            write_line(line)
        failed += len(report.failures)
    write_line(f"failed checks: {failed}")
    if failed:
        raise typer.Exit(1)


def _classes(name: str) -> list[Any]:
    """Return the classes of a file, plugin or distribution, or the class of this name."""
    from attribkit import registry

    if name.endswith(".py"):
        before = {cls for plugin in registry.plugins() for cls in plugin.offers}
        registry.register_file(Path(name))
        return [cls for plugin in registry.plugins() for cls in plugin.offers if cls not in before]
    plugins = [each for each in registry.plugins() if _normalised(name) in map(_normalised, _names(each))]
    found = [cls for plugin in plugins for cls in plugin.offers]
    found = found or [cls for plugin in registry.plugins() for cls in plugin.offers if cls.name == name]
    if found:
        return found
    for skipped in registry.skipped_plugins():
        if _normalised(name) in map(_normalised, _names(skipped)):
            raise AttribkitError(f"Plugin {skipped.name!r} was skipped: {skipped.reason}")
    if plugins:
        raise InvalidInput(
            f"Plugin {name!r} provides model specs only: call attribkit.testing.check_model_spec(spec, model, x) with "
            "a model that it describes."
        )
    known = dict.fromkeys(each for plugin in registry.plugins() for each in _names(plugin))
    classes = [cls.name for plugin in registry.plugins() for cls in plugin.offers]
    raise UnknownName("plugin, distribution or class", name, [*known, *classes])


def _names(plugin: Any) -> tuple[str, str]:
    return plugin.name, plugin.distribution


def _normalised(name: str) -> str:
    """Return a name as package indexes compare it."""
    return name.lower().replace("_", "-").replace(".", "-")


def _check_options(options: dict[str, Any], classes: Iterable[Any]) -> None:
    """Raise UnknownName for an option that none of the classes has."""
    from attribkit import registry

    accepted = [name for cls in classes for name in registry.options_of(cls)]
    for option in options:
        if option not in accepted:
            raise UnknownName("option of the checked classes", option, dict.fromkeys(accepted))


def _instance(cls: Any, options: dict[str, Any]) -> Any:
    """Make an instance with the options that the class has."""
    from attribkit import registry

    accepted = registry.options_of(cls)
    try:
        return cls(**{name: value for name, value in options.items() if name in accepted})
    except TypeError as error:
        raise InvalidInput(
            f"{cls.name!r} cannot be created: {error}. Pass its options ({join_names(accepted)}) with --option, or "
            "define default values."
        ) from error
