"""`attribkit new`: what it writes passes the checks of its kind, and its own tests."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attribkit import registry
from attribkit._core.python_files import classes_in, import_file
from attribkit.cli import app
from attribkit.cli._plugin_commands import PluginKind
from attribkit.testing import report_conformance

ROOT = Path(__file__).parents[2]


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["new", *map(str, arguments)])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result.output


@pytest.mark.parametrize("kind", ["method", "metric", "visualizer", "imputer"])
def test_a_new_plugin_passes_the_checks(kind, tmp_path):
    run(kind, "fancy_name", "--output", tmp_path / "plugin")
    module = import_file(tmp_path / "plugin" / "attribkit_fancy_name.py")
    (cls,) = classes_in(module, tuple(registry._discovery.KINDS.values()))
    assert (cls.__name__, cls.name) == ("FancyName", "fancy_name")
    report = report_conformance(cls())
    assert not report.failures, report


def test_the_files_of_a_plugin(tmp_path):
    output = run("method", "fancy-name", "--output", tmp_path / "plugin")
    files = {str(path.relative_to(tmp_path / "plugin")) for path in (tmp_path / "plugin").rglob("*") if path.is_file()}
    assert files == {
        "pyproject.toml", "README.md", "LICENSE", ".github/workflows/tests.yml", "attribkit_fancy_name.py",
        "tests/test_fancy_name.py",
    }  # fmt: skip
    assert "attribkit check attribkit-fancy-name" in output
    for path in (tmp_path / "plugin").rglob("*.*"):
        if path.is_file():
            text = path.read_text()
            assert not any(word in text for word in ("my_plugin", "my-plugin", "MyPlugin", "KIND", "USAGE", "CHECK\n"))


def test_it_is_set_up_as_the_plugins_of_the_repository(tmp_path):
    run("method", "blurig", "--output", tmp_path / "plugin")
    new, real = (
        tomllib.loads((folder / "pyproject.toml").read_text())
        for folder in (tmp_path / "plugin", ROOT / "plugins" / "attribkit-blurig")
    )
    assert new["project"]["entry-points"] == real["project"]["entry-points"]
    assert new["build-system"] == real["build-system"]
    assert new["tool"]["hatch"] == real["tool"]["hatch"]
    assert set(real["project"]) <= set(new["project"])


@pytest.mark.parametrize(("kind", "passed"), [("model-spec", 2), ("dataset", 1)])
def test_its_own_tests_pass(kind, passed, tmp_path):
    run(kind, "fancy", "--output", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{passed} passed" in done.stdout


def test_bad_names_and_folders(tmp_path):
    assert "name must consist of lower-case letters" in run("method", "Fancy Name", code=2)
    (tmp_path / "note.txt").write_text("mine")
    assert "is not an empty folder" in run("metric", "fancy", "--output", tmp_path, code=2)
    assert (tmp_path / "note.txt").read_text() == "mine"
    assert {kind.value for kind in PluginKind} == {"method", "metric", "visualizer", "imputer", "model-spec", "dataset"}
