"""The coverage table: whole, without a wrong cell, and made by checks that can fail."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from attribkit import Explainer, Method

ROOT = Path(__file__).parents[2]
PROMISED = ("gradcam", "saliency", "integrated_gradients", "occlusion")


@pytest.fixture(scope="module")
def rows():
    with (ROOT / "benchmarks" / "results" / "coverage.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def test_every_module_of_timm_and_every_builder_of_torchvision_is_there(rows):
    assert {row["family"] for row in rows if row["library"] == "timm"} == set(timm.list_modules())
    assert {row["architecture"] for row in rows if row["library"] == "torchvision"} == set(
        torchvision.models.list_models()
    )


def test_the_readme_counts_them(rows):
    def named(some):
        return {(row["library"], row["architecture"]) for row in some}

    answered = named(row for row in rows if row["method"] == "gradcam" and row["status"] == "ok")
    for method in PROMISED:
        assert named(row for row in rows if row["method"] == method and row["status"] == "ok") == answered
    every, quantised = named(rows), named(row for row in rows if row["family"] == "quantization")
    assert every - answered == quantised
    told = (
        f"Grad-CAM, saliency, integrated gradients and occlusion run on {len(answered)} of {len(every)} architectures "
        f"without options; the {len(quantised)} others are quantised"
    )
    assert told in (ROOT / "README.md").read_text()


def test_nothing_is_wrong(rows):
    assert [row for row in rows if row["status"] == "wrong"] == []


def test_what_is_promised_answers_on_every_classifier(rows):
    classifiers = [row for row in rows if row["library"] == "timm" or row["family"] in ("classification", "video")]
    unanswered = {
        (row["architecture"], row["method"])
        for row in classifiers
        if row["status"] != "ok" and (row["method"] in PROMISED or row["status"] == "left out")
    }
    assert unanswered == set()


def test_the_page_shows_what_was_measured(rows, benchmarks):
    from coverage_page import PAGE, page

    shown = PAGE.read_text()
    about = re.search(r"\((\d{4}-\d\d-\d\d, commit [^)]*)\)", shown).group(1)
    assert shown == page(rows, about)


@dataclass(frozen=True)
class Constant(Method):
    """The same everywhere, or not a number, or of another size."""

    name = "constant"
    source = "a test"

    value: float = 1.0
    side: int = 8

    def __call__(self, model, x, target):
        return x.new_full((len(x), 1, self.side, self.side), self.value)


@dataclass(frozen=True)
class Undefined(Method):
    """Gives scores that are no numbers."""

    name = "undefined"
    source = "a test"

    def __call__(self, model, x, target):
        return x * float("nan")


@dataclass(frozen=True)
class Meddling(Method):
    """Leaves the model's parameters changed."""

    name = "meddling"
    source = "a test"

    def __call__(self, model, x, target):
        with torch.no_grad():
            next(model.module.parameters()).add_(1)
        return x


@pytest.mark.parametrize(
    ("method", "status", "text"),
    [
        (Constant(), "wrong", "the same everywhere"),
        (Undefined(), "refused", "finite"),
        (Constant(side=4), "wrong", "scores of shape"),
        (Meddling(), "wrong", "the model was changed"),
    ],
)
def test_the_checks_find_what_is_wrong(method, status, text, benchmarks, monkeypatch):
    import coverage_checks

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    explainer, x = Explainer(model), torch.randn(1, 3, 8, 8)
    monkeypatch.setattr(explainer, "attribute", lambda x, _name, **options: Explainer.attribute(explainer, x, method))
    cell = coverage_checks.check_method(explainer, x, "saliency", {})
    assert cell.status == status
    assert text in cell.text


def test_a_mirrored_image_has_a_mirrored_map_or_the_test_does_not_apply(benchmarks):
    import coverage_checks

    x = torch.randn(1, 3, 16, 16)
    body = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()]
    pooled = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    assert max(coverage_checks.mirror_asymmetry(pooled, x, ("gradcam", "saliency")).values()) < 1e-12
    lopsided = nn.Sequential(*body, nn.Flatten(), nn.Linear(4 * 256, 3))
    assert coverage_checks.mirror_asymmetry(lopsided, x, ("gradcam",)) == {}
