"""Every built-in method and metric is documented: its source, its options, and when it lies."""

from pathlib import Path

import pytest

from attribkit import registry

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
    """The page of the metric's family, and its own section."""
    line = f'`metric="{cls.name}"` · {cls.source}'
    pages = [page for page in (path.read_text() for path in METRICS.glob("*.md")) if line in page]
    assert len(pages) == 1, f"{line} is on {len(pages)} pages"
    return pages[0], pages[0].split(line)[1].split("\n## ")[0]


@pytest.mark.parametrize(
    "cls",
    [cls for cls in registry.metrics().values() if registry.plugin_of(cls).distribution == "attribkit"],
    ids=lambda cls: cls.name,
)
def test_a_section_for_every_metric(cls):
    page, section = of_metric(cls)
    assert "**When it lies**" in section
    for option, default in registry.options_of(cls).items():
        told = f"`{option}={default!r}`".replace("'", '"')
        assert told in page.replace("'", '"'), f"{cls.name} does not tell {told}"
    for preset in cls.presets:
        assert f'"{preset}"' in page or f"`{preset}`" in page, f"{cls.name} does not tell its preset {preset}"
