"""Imports only go down, the public names are what they say, and `--help` does without torch."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
import time
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import attribkit

ROOT = Path(attribkit.__file__).parent
RANKS = [
    {"core"},
    {"hookspecs", "python_files"},
    {"methods", "visualizers", "metrics", "models", "zoo", "inspection"},
    {"registry"},
    {"explainer", "heads"},
    {"figures", "clips", "bit_depths"},
    {"preprocessing"},
    {"loading", "datasets"},
    {"loading", "datasets"},
    {"benchmark"},
    {"demo", "explain_files", "inspect_files"},
    {"cli", "testing"},
    {"__main__"},
]
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room(dotted):
    return dotted.split(".")[1] if "." in dotted else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        names = (
            [node.module]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        if isinstance(node, ast.ImportFrom) and node.module == "attribkit":
            names = [f"attribkit.{alias.name}" for alias in node.names if alias.name in RANK]
        for name in filter(lambda n: n and n.startswith("attribkit."), names):
            other = room(name)
            assert other == own or RANK[other] < RANK[own], f"{own} imports {name}"


def test_core_files_import_each_other_in_one_direction():
    imported = {}
    for path in (ROOT / "core").rglob("*.py"):
        own = ".".join(path.relative_to(ROOT / "core").with_suffix("").parts)
        imported[own] = {
            node.module.removeprefix("attribkit.core.")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("attribkit.core.")
        }
    TopologicalSorter(imported).prepare()  # raises CycleError, with the circle


def test_plugins_import_only_the_public_top_level():
    for path in (ROOT.parent / "plugins").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("attribkit"):
                assert node.module == "attribkit"
                assert {alias.name for alias in node.names} <= set(attribkit.__all__)


def test_public_names():
    assert attribkit.__all__ == sorted(attribkit.__all__)
    assert set(attribkit._HOME) == set(attribkit.__all__)
    for name in attribkit.__all__:
        assert getattr(attribkit, name).__doc__, name
        assert name in dir(attribkit)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = attribkit.nonsense


def public():
    for info in pkgutil.walk_packages(attribkit.__path__, "attribkit."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            own = not name.startswith("_") and getattr(value, "__module__", None) == info.name
            if own and (inspect.isclass(value) or inspect.isfunction(value)):
                yield f"{info.name}.{name}", value


@pytest.mark.parametrize(("name", "value"), list(public()), ids=lambda value: value if isinstance(value, str) else "")
def test_public_names_are_documented_and_typed(name, value):
    assert inspect.getdoc(value), name
    functions = (
        [value]
        if inspect.isfunction(value)
        else [f for n, f in vars(value).items() if inspect.isfunction(f) and not n.startswith("_")]
    )
    for function in functions:
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty, name
        for parameter in signature.parameters.values():
            assert parameter.name in ("self", "cls") or parameter.annotation is not inspect.Parameter.empty, (
                f"{name}({parameter})"
            )


def test_help_does_without_torch():
    code = (
        "import sys, contextlib\n"
        "from attribkit.cli import app\n"
        "with contextlib.suppress(SystemExit):\n"
        "    app(['--help'])\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules, 'heavy'\n"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    print(f"attribkit --help: {min(seconds):.2f} s")


def test_typed():
    assert (ROOT / "py.typed").exists()
