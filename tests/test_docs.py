"""Every built-in method and metric is documented: its source, its options, and when it lies."""

import re
from pathlib import Path

import pytest

from attribkit import registry
from attribkit.testing import check_metric

PAGES = Path(__file__).parents[1] / "docs" / "methods"
METRICS = Path(__file__).parents[1] / "docs" / "metrics"
BUILTIN = [cls for cls in registry.methods().values() if registry.plugin_of(cls).distribution == "attribkit"]


def file_name(cls):
    return cls.name.replace("+", "p")


@pytest.mark.parametrize("cls", BUILTIN, ids=lambda cls: cls.name)
def test_a_page_for_every_method(cls):
    page = (PAGES / f"{file_name(cls)}.md").read_text()
    assert f'`method="{cls.name}"` · {cls.source}' in page
    for option, default in registry.options_of(cls).items():
        assert f"`{option}={default!r}`" in page
    for heading in ("**Options**", "**Cost**", "**When it lies**"):
        assert heading in page
    picture = page.rsplit("](", 1)[1].strip(")\n")
    assert (PAGES / picture).resolve().stat().st_size > 5_000


def test_no_page_without_a_method():
    assert {path.stem for path in PAGES.glob("*.md")} == {file_name(cls) for cls in BUILTIN}


def of_metric(cls):
    """The page of the metric's family."""
    pages = [path.read_text() for path in METRICS.glob("*.md")]
    (page,) = (page for page in pages if f'`metric="{cls.name}"`' in page and cls.source in page)
    return page


@pytest.mark.parametrize(
    "cls",
    [cls for cls in registry.metrics().values() if registry.plugin_of(cls).distribution == "attribkit"],
    ids=lambda cls: cls.name,
)
def test_every_metric_is_on_the_page_of_its_family(cls):
    page = of_metric(cls).replace("'", '"')
    assert "when it lies" in page.lower()
    for option, default in registry.options_of(cls).items():
        told = f"`{option}={default!r}`".replace("'", '"')
        assert told in page or f"`{option}`" in page, f"{cls.name} does not tell {told}"
    for preset in cls.presets:
        assert f'"{preset}"' in page or f"`{preset}`" in page, f"{cls.name} does not tell its preset {preset}"


def test_the_metric_of_ones_own_behaves():
    (code,) = re.findall(r"```python\n(from dataclasses.*?)```", (METRICS / "README.md").read_text(), re.DOTALL)
    names = {"__name__": "page"}
    exec(code, names)
    check_metric(names["MeanColour"]())
