"""Laws of the maps of real architectures: names of layers, single images, and the positions of cells."""

from pathlib import Path

import pytest
import torch
from torch import nn

from attribkit import Explainer

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def of_image(x):
    return {}


def convolutions(change=nn.Identity):
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 4, 4), change(), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def laws(model):
    from coverage_laws import laws

    return dict(laws(model, torch.randn(1, 3, 32, 32), of_image))


def test_a_plain_network_keeps_all_laws():
    assert {law: cell.status for law, cell in laws(convolutions()).items()} == {
        "gradcam, layer by its name": "ok",
        "gradcam and saliency, image by image": "ok",
        "gradcam, position": "ok",
    }


def test_a_map_that_is_drawn_elsewhere_is_found(monkeypatch):
    attribute = Explainer.attribute

    def mirrored(self, x, method="gradcam", **options):
        return attribute(self, x.flip(3) if method == "saliency" else x, method, **options)

    monkeypatch.setattr(Explainer, "attribute", mirrored)
    model = convolutions()
    assert laws(model)["gradcam, position"].status == "ok"  # of the mirrored image, the gradient stays where it was

    def flipped(self, x, method="gradcam", **options):
        found = attribute(self, x, method, **options)
        if method == "saliency":
            object.__setattr__(found, "scores", found.scores.flip(3))
        return found

    monkeypatch.setattr(Explainer, "attribute", flipped)
    assert laws(model)["gradcam, position"].status == "wrong"
