"""The examples in the docstrings run and print what they show; docs/api/index.md defines the names that they use."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import attribkit
from attribkit import Attribution, Explainer, figures, registry, zoo
from attribkit.registry import _discovery as discovery

ROOT = Path(__file__).parents[2]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
WITH_EXAMPLE = (
    *(getattr(attribkit, name) for name in ("load_model", "cam_head")),
    *(getattr(attribkit, name) for name in ("ClassLogit", "Probability", "Contrast", "Counterfactual", "MultiLabel")),
    *(getattr(attribkit, name) for name in ("Binary", "Unit", "Direction", "Region", "Box", "Similarity")),
    *(value for name, value in vars(Explainer).items() if inspect.isfunction(value) and not name.startswith("_")),
    *(Explainer, Attribution, registry.register, zoo.scene),
)


FURTHER = {  # names of examples on other models
    "attention": lambda: {"explainer": Explainer(attribkit.load_model("zoo:vit").model)},
    "before_after": lambda: dict.fromkeys(("pretrained", "finetuned"), attribkit.load_model("zoo:cnn").model),
    "classes": lambda: {
        "explainer": Explainer(attribkit.load_model("timm:resnet10t").model),
        "labels": ["tabby", "golden retriever", "tabby, not golden retriever"],
    },
}


def examples():
    """The doctests of all modules, by the name of their object."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for info in pkgutil.walk_packages(attribkit.__path__, "attribkit."):
        if info.name != "attribkit.__main__":
            module = importlib.import_module(info.name)
            yield from (test for test in finder.find(module) if test.examples)


@pytest.fixture
def names():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api" / "index.md").read_text(), re.DOTALL)
    defined = {name: getattr(attribkit, name) for name in attribkit.__all__}
    exec(code, defined)
    yield {name: getattr(figures, name) for name in figures.__all__} | defined
    discovery.load_plugins.cache_clear()  # forgets what an example registers


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("test", list(examples()), ids=lambda test: test.name)
def test_the_example(test, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test.globs = names | FURTHER.get(test.name.rpartition(".")[2], dict)()
    report = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False)
    assert not report, "".join(report)


@pytest.mark.parametrize("value", WITH_EXAMPLE, ids=lambda value: value.__qualname__)
def test_the_main_names_have_an_example(value):
    assert ">>> " in inspect.getdoc(value)
