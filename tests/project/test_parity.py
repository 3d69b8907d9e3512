"""Every built-in method beside its oracle: the table that benchmarks/parity.py makes, and the page that shows it."""

import json
import math
from pathlib import Path

import pytest

from attribkit import registry

ROOT = Path(__file__).parents[2]
LIMIT = 1e-5  # of the map's range
EVEN = {"constant"}  # the difference is a share of the map's range, and this one has none
BUILTIN = [
    name
    for name, cls in registry.methods().items()
    if registry.plugin_of(cls).distribution == "attribkit" and name not in EVEN
]


@pytest.fixture
def saved():
    return json.loads((ROOT / "benchmarks" / "results" / "parity.json").read_text())


def numbers(result):
    cells = ((row["method"], model, cell) for row in result["rows"] for model, cell in row["cells"].items())
    return {(method, model): cell["difference"] for method, model, cell in cells if "difference" in cell}


def beyond(result):
    return {place: number for place, number in numbers(result).items() if not number <= LIMIT}


def test_the_page_shows_what_was_measured(saved, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from parity_page import page

    assert (ROOT / "docs" / "parity.md").read_text() == page(saved)


def test_every_method_has_a_row_and_every_model_a_cell_in_it(saved):
    result = saved["result"]
    assert [row["method"] for row in result["rows"]] == BUILTIN
    assert len(result["models"]) == 5
    for row in result["rows"]:
        assert list(row["cells"]) == list(result["models"])
        assert all({"difference", "refused"} & cell.keys() for cell in row["cells"].values())


def test_every_number_is_small(saved):
    assert not beyond(saved["result"])
    assert all(math.isfinite(number) for number in numbers(saved["result"]).values())
    compared = {method for method, _ in numbers(saved["result"])}
    assert set(BUILTIN) - compared == {"attention_gates"}, "none of the five models has gates"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v2", "vit_tiny"])  # the two others take minutes
def test_the_table(saved, model, monkeypatch):
    for peer in ("captum", "pytorch_grad_cam"):
        pytest.importorskip(peer)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import parity

    print()
    result = parity.table(parity.rows(), [model], print)
    assert not beyond(result)
    assert numbers(result).keys() == {key for key in numbers(saved["result"]) if key[1] == model}
