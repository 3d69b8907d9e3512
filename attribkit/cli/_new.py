"""The command `attribkit new`."""

import re
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from attribkit._core.errors import InvalidInput
from attribkit.cli._app import app, report_errors, write_line

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


class PluginKind(StrEnum):
    """What a new plugin provides."""

    METHOD = "method"
    METRIC = "metric"
    VISUALIZER = "visualizer"
    IMPUTER = "imputer"
    MODEL_SPEC = "model-spec"


_USAGE = {
    PluginKind.METHOD: "```\nattribkit explain photo.jpg --model timm:resnet50 --pretrained --method my_plugin\n```",
    PluginKind.METRIC: '```python\nexplainer.evaluate(attribution, "my_plugin")\n```',
    PluginKind.VISUALIZER: "```\nattribkit visualize --model zoo:cnn --class 0 --visualizer my_plugin\n```",
    PluginKind.IMPUTER: '```python\nexplainer.evaluate(attribution, "deletion", substrate="my_plugin")\n```',
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
    write_line(f"next: pip install --editable {folder} && attribkit check attribkit-{'-'.join(words)}")


def _files(kind: PluginKind, words: list[str]) -> dict[str, str]:
    """Return the contents of the files of a new plugin, by path."""
    is_spec = kind is PluginKind.MODEL_SPEC
    texts = {
        "pyproject.toml": _template("pyproject.toml"),
        "README.md": _template("README.md").replace("KIND", kind.value).replace("USAGE", _USAGE[kind]),
        "LICENSE": _template("LICENSE"),
        ".github/workflows/tests.yml": _template("workflow.yml").replace(
            "CHECK", "attribkit plugins" if is_spec else "attribkit check attribkit-my-plugin"
        ),
        "attribkit_my_plugin.py": _template(f"{kind.value}.py"),
        "tests/test_my_plugin.py": _template("test-model-spec.py" if is_spec else "test.py"),
    }
    if is_spec:
        texts["README.md"] = texts["README.md"].replace("attribkit check attribkit-my-plugin\n", "")
    return {_renamed(path, words): _renamed(text, words) for path, text in texts.items()}


def _template(name: str) -> str:
    return files("attribkit.cli").joinpath("templates", f"{name}.template").read_text(encoding="utf-8")


def _renamed(text: str, words: list[str]) -> str:
    """Replace the name of the template in its three spellings."""
    text = text.replace("my_plugin", "_".join(words)).replace("my-plugin", "-".join(words))
    return text.replace("MyPlugin", "".join(word.capitalize() for word in words))
