"""Every built-in method has a page that names its source, its options, its cost and when it lies."""

from pathlib import Path

import pytest

from attribkit import registry

PAGES = Path(__file__).parents[1] / "docs" / "methods"
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
