"""The commands for authors of plugins: `attribkit check` and `attribkit new`."""

import re
from collections.abc import Iterable
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from attribkit._core.errors import AttribkitError, InvalidInput, UnknownName, join_names
from attribkit.cli._app import app, report_errors, write_line
from attribkit.cli._options import argument

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


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
    """Make an instance with its `check_options`, and those of the command line that the class has."""
    from attribkit import registry

    accepted = registry.options_of(cls)
    try:
        return cls(**{**cls.check_options, **{name: value for name, value in options.items() if name in accepted}})
    except TypeError as error:
        raise InvalidInput(
            f"{cls.name!r} cannot be created: {error}. Pass its options ({join_names(accepted)}) with --option, "
            "define default values, or set the class attribute `check_options`."
        ) from error


class PluginKind(StrEnum):
    """What a new plugin provides."""

    METHOD = "method"
    METRIC = "metric"
    VISUALIZER = "visualizer"
    IMPUTER = "imputer"
    MODEL_SPEC = "model-spec"
    DATASET = "dataset"


# Kinds whose classes `attribkit check` can create without arguments.
_CHECKED = (PluginKind.METHOD, PluginKind.METRIC, PluginKind.VISUALIZER, PluginKind.IMPUTER)
_USAGE = {
    PluginKind.METHOD: "```\nattribkit explain photo.jpg --model timm:resnet50 --pretrained --method my_plugin\n```",
    PluginKind.METRIC: '```python\nexplainer.evaluate(attribution, "my_plugin")\n```',
    PluginKind.VISUALIZER: "```\nattribkit visualize --model zoo:cnn --class 0 --visualizer my_plugin\n```",
    PluginKind.IMPUTER: '```python\nexplainer.evaluate(attribution, "deletion", substrate="my_plugin")\n```',
    PluginKind.DATASET: '```toml\n[data]\nname = "my_plugin"\noptions = { root = "folder" }\n```',
    PluginKind.MODEL_SPEC: "`Explainer(model)` then uses the spec for the models that it describes.",
}


@app.command("new")
@report_errors
def new_plugin(
    kind: Annotated[PluginKind, typer.Argument(help="what the plugin provides")],
    name: Annotated[str, typer.Argument(help="name in lower case, such as my_method")],
    folder: Annotated[Path | None, typer.Option("--output", "-o", help="new folder; default: attribkit-NAME")] = None,
) -> None:
    """Write a plugin that passes its checks: module, tests, pyproject.toml, README, licence and CI workflow."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"name must consist of lower-case letters and digits, in words joined by '_' or '-', got {name!r}."
        )
    words = re.split("[-_]", name.removeprefix("attribkit-").removeprefix("attribkit_"))
    folder = folder or Path(f"attribkit-{'-'.join(words)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{str(folder)!r} exists and is not an empty folder: choose another one with --output.")
    for path, text in _files(kind, words).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        write_line(f"written: {target}")
    check = f"attribkit check attribkit-{'-'.join(words)}" if kind in _CHECKED else f"pytest {folder}"
    write_line(f"next: pip install --editable {folder} && {check}")


def _files(kind: PluginKind, words: list[str]) -> dict[str, str]:
    """Return the contents of the files of a new plugin, by path."""
    is_checked = kind in _CHECKED
    texts = {
        "pyproject.toml": _template("pyproject.toml"),
        "README.md": _template("README.md").replace("KIND", kind.value).replace("USAGE", _USAGE[kind]),
        "LICENSE": _template("LICENSE"),
        ".github/workflows/tests.yml": _template("workflow.yml").replace(
            "CHECK", "attribkit check attribkit-my-plugin" if is_checked else "attribkit plugins"
        ),
        "attribkit_my_plugin.py": _template(f"{kind.value}.py"),
        "tests/test_my_plugin.py": _template("test.py" if is_checked else f"test-{kind.value}.py"),
    }
    if not is_checked:
        texts["README.md"] = texts["README.md"].replace("attribkit check attribkit-my-plugin\n", "")
    return {_renamed(path, words): _renamed(text, words) for path, text in texts.items()}


def _template(name: str) -> str:
    return files("attribkit.cli").joinpath("templates", f"{name}.template").read_text(encoding="utf-8")


def _renamed(text: str, words: list[str]) -> str:
    """Replace the name of the template in its three spellings."""
    text = text.replace("my_plugin", "_".join(words)).replace("my-plugin", "-".join(words))
    return text.replace("MyPlugin", "".join(word.capitalize() for word in words))
