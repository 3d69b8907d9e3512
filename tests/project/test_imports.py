"""Imports only go down, the public names are what they say, and `--help` does without torch."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
import time
import typing
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import attribkit

ROOT = Path(attribkit.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
MOST_FILES, MOST_SMALL, SMALL = 209, 26, 40
MOST_LINES, MOST_LEVELS = 2400, 7


def imported_by(module):
    """The modules of attribkit that a module imports, but for those of type checkers and of the lazy top level."""
    nodes = [node for node in ast.parse(MODULES[module].read_text()).body if not is_for_type_checkers(node)]
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "attribkit":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


def is_for_type_checkers(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


IMPORTS = {module: set(imported_by(module)) - {module, "attribkit"} for module in MODULES}


def package(module):
    return ".".join(module.split(".")[:2])


def test_modules_import_each_other_in_one_direction():
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError, with the circle


def test_packages_import_each_other_in_one_direction():
    graph = {}
    for module, imported in IMPORTS.items():
        graph.setdefault(package(module), set()).update(map(package, imported))
    TopologicalSorter({name: others - {name} for name, others in graph.items()}).prepare()


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}), ids=lambda path: path.name)
def test_packages_are_small(folder):
    inside = {module for module, path in MODULES.items() if path.parent == folder}
    sorter = TopologicalSorter({module: IMPORTS[module] & inside for module in inside})
    sorter.prepare()
    levels = 0
    while sorter.is_active():
        levels += 1
        sorter.done(*sorter.get_ready())
    lines = sum(len(MODULES[module].read_text().splitlines()) for module in inside)
    assert lines <= MOST_LINES
    assert levels <= MOST_LEVELS


def test_files_are_few():
    small = [path for path in MODULES.values() if len(path.read_text().splitlines()) < SMALL]
    assert len(MODULES) <= MOST_FILES
    assert len(small) <= MOST_SMALL, sorted(str(path.relative_to(ROOT)) for path in small)


NOT_PUBLIC_YET = {  # private modules that plugins of this repository use
    "attribkit-lrp": {"attribkit._core.autograd"},
    "attribkit-logging": {
        "attribkit._contracts.records",
        "attribkit._core.pictures",
        "attribkit.benchmark._settings.plan",
        "attribkit.benchmark._store",
        "attribkit.figures._figure",
    },
}


@pytest.mark.parametrize("folder", sorted((ROOT.parent / "plugins").glob("attribkit-*")), ids=lambda path: path.name)
def test_plugins_import_only_public_names(folder):
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "attribkit":
                if "._" in node.module:
                    assert node.module in NOT_PUBLIC_YET.get(folder.name, set())
                else:
                    module = importlib.import_module(node.module)
                    for name in (alias.name for alias in node.names):
                        assert name in module.__all__ or inspect.ismodule(getattr(module, name)), name


def test_public_names():
    assert attribkit.__all__ == sorted(attribkit.__all__)
    assert set(attribkit._HOME) == set(attribkit.__all__)
    for name in attribkit.__all__:
        value = getattr(attribkit, name)
        assert value.__doc__ or typing.get_origin(value), name  # annotations of options do not have docstrings
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


def is_own_method(value, name):
    """Whether a value is a public method of attribkit; matplotlib adds methods to classes derived from its own."""
    return inspect.isfunction(value) and not name.startswith("_") and value.__module__.split(".")[0] == "attribkit"


def test_public_names_are_documented_and_typed():
    undocumented, untyped = [], []
    for name, value in public():
        if not inspect.getdoc(value):
            undocumented.append(name)
        functions = [value] if inspect.isfunction(value) else [f for n, f in vars(value).items() if is_own_method(f, n)]
        for function in functions:
            signature = inspect.signature(function)
            if signature.return_annotation is inspect.Signature.empty:
                untyped.append(f"{name}.{function.__name__}: what it returns")
            for parameter in signature.parameters.values():
                if parameter.name not in ("self", "cls") and parameter.annotation is inspect.Parameter.empty:
                    untyped.append(f"{name}.{function.__name__}({parameter})")
    assert undocumented == []
    assert untyped == []


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
