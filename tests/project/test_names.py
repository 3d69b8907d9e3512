"""Names and words: standard terms, one meaning for each public name, no private vocabulary."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections import defaultdict
from pathlib import Path

import pytest

import attribkit

ROOT = Path(attribkit.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Names that earlier versions used; docs/glossary.md has the terms that replace them.
REPLACED = {
    "AskedModel", "Answers", "Learnt", "Measured", "Measuring", "Question", "ReadLayer", "Reading", "Reads", "Shared",
    "Signs", "Truth", "again", "answers", "asked", "asked_again", "asked_score", "beside", "complaints", "embeds",
    "evidence", "explained", "explaining", "followed", "handed_on", "is_open", "knowing", "known", "largest", "meant",
    "measured", "measuring", "moves", "near", "on_bank", "on_masked", "own", "part", "places", "places_followed",
    "prepared", "readers", "reads", "remarks", "remembered", "repeated", "response_and_gradient", "scored_as", "seen",
    "settled", "several", "share", "sow", "straightened", "told", "unmoved", "visualized", "with_indices",
}  # fmt: skip
HOOKS = {
    "attribkit_methods",
    "attribkit_metrics",
    "attribkit_visualizers",
    "attribkit_imputers",
    "attribkit_datasets",
    "attribkit_model_spec",
}
MOST_SPEECH, MOST_NEGATIONS = 30, 10
PUBLIC_MODULES = (
    "attribkit", "attribkit.benchmark", "attribkit.cli", "attribkit.datasets", "attribkit.figures", "attribkit.io",
    "attribkit.methods", "attribkit.metrics", "attribkit.registry", "attribkit.report", "attribkit.testing",
    "attribkit.visualizers", "attribkit.zoo",
)  # fmt: skip


def is_public(name):
    return not name.startswith("_")


def definitions(tree):
    """The public names that a module defines at its top level."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def names_users_see(tree):
    """Public functions, classes, methods, fields and parameters."""
    yield from filter(is_public, definitions(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and is_public(node.name):
            yield from filter(is_public, definitions(node))
        if isinstance(node, ast.FunctionDef) and is_public(node.name):
            arguments = node.args
            yield from (each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_replaced_names_are_gone(path):
    assert not REPLACED & set(names_users_see(ast.parse(path.read_text())))


def test_a_public_name_is_defined_once():
    homes = defaultdict(list)
    figures = ROOT / "figures"  # figures.filters(...) draws what Explainer.filters(...) returns
    for path in (path for path in FILES if path.parent != figures):
        for name in set(filter(is_public, definitions(ast.parse(path.read_text())))) - HOOKS:
            homes[name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


@pytest.mark.parametrize(
    ("pattern", "most"),
    [(r"\b(told|asked)\b", MOST_SPEECH), (r"\b(is|are|has|have) no\b", MOST_NEGATIONS)],
    ids=["speech", "negations"],
)
def test_prose_is_plain(pattern, most):
    lines = [f"{path.relative_to(ROOT)}: {line.strip()}" for path in FILES for line in path.read_text().splitlines()]
    found = [line for line in lines if re.search(pattern, line)]
    assert len(found) < most, "\n".join(found)


def documented(doc):
    """The names in the section Args of a docstring."""
    section = re.search(r"^Args:\n((?:    .*\n|\n)*)", f"{inspect.cleandoc(doc or '')}\n", re.MULTILINE)
    return re.findall(r"^    \**(\w+):", section[1], re.MULTILINE) if section else []


def documented_objects():
    for info in pkgutil.walk_packages(attribkit.__path__, "attribkit."):
        for value in vars(importlib.import_module(info.name)).values():
            if getattr(value, "__module__", None) == info.name and (
                inspect.isclass(value) or inspect.isfunction(value)
            ):
                yield value
                yield from filter(inspect.isfunction, vars(value).values() if inspect.isclass(value) else ())


def test_docstrings_describe_parameters_that_exist():
    for value in documented_objects():
        if names := documented(value.__doc__):
            accepted = {*inspect.signature(value).parameters, *getattr(value, "__dataclass_fields__", ())}
            accepted |= set(getattr(value, "model_fields", ()))
            assert set(names) <= accepted, f"{value.__module__}.{value.__qualname__}"


def test_public_modules_are_listed():
    modules = [info.name for info in pkgutil.walk_packages(attribkit.__path__, "attribkit.")]
    assert {name for name in modules if "._" not in name} == set(PUBLIC_MODULES) - {"attribkit"}


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_public_modules_list_their_names(name):
    module = importlib.import_module(name)
    assert all(hasattr(module, each) for each in module.__all__)


def documents():
    project = ROOT.parent
    folders = [project / "docs", project / "benchmarks", project / "plugins"]
    yield from (project / name for name in ("README.md", "CONTRIBUTING.md"))
    yield from (path for folder in folders for path in sorted(folder.rglob("*.md")))


@pytest.mark.parametrize("path", list(documents()), ids=lambda path: str(path.relative_to(ROOT.parent)))
def test_documents_import_public_names_only(path):
    for module, names in re.findall(r"from (attribkit(?:\.[\w.]+)?) import (\([^)]*\)|[^\n(]+)", path.read_text()):
        assert module in PUBLIC_MODULES
        public = importlib.import_module(module)
        for name in re.findall(r"[A-Za-z_]\w*", re.sub(r" as \w+|#.*", "", names)):
            assert name in public.__all__ or f"{module}.{name}" in PUBLIC_MODULES, name
