"""Every metric of a single map has a section that names its source, its options, the peers and when it lies."""

from pathlib import Path

import pytest

from attribkit import registry
from attribkit.core.metric import Complexity, Localization, Robustness

PAGES = Path(__file__).parents[1] / "docs" / "metrics"
METRICS = [
    cls
    for cls in registry.metrics().values()
    if issubclass(cls, Localization | Complexity | Robustness) and registry.plugin_of(cls).distribution == "attribkit"
]


@pytest.mark.parametrize("cls", METRICS, ids=lambda cls: cls.name)
def test_a_section_for_every_metric(cls):
    sections = [part for page in PAGES.glob("*.md") for part in page.read_text().split("\n## ")[1:]]
    (section,) = (part for part in sections if f'`metric="{cls.name}"` · {cls.source}\n' in part)
    for option, default in registry.options_of(cls).items():
        assert option == "reduce" or f"`{option}={default!r}`" in section
    for preset in cls.presets:
        assert f'"{preset}"' in section
    for heading in ("**Options**", "**Peers**", "**When it lies**"):
        assert heading in section
