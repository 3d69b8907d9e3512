"""Units and directions of a layer as targets: what cut models answer, by every method."""

import pytest
import timm
import torch
from torch import nn

from attribkit import AttribkitError, Direction, Explainer, Probability, Unit, registry
from attribkit.testing import tiny_cnn
from tests.refusals import ANSWERING

OPTIONS = {"occlusion": {"patch": 6, "stride": 3}, "rise": {"masks": 32, "cells": 4}}
LAYERED = [name for name in ANSWERING if "layer" in registry.options_of(registry.methods()[name])]
METHODS = [name for name in ANSWERING if name != "cam"]  # refused: a unit is no weighted sum of averages


def images(count=3):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def options(method, layer="2"):
    return OPTIONS.get(method, {}) | ({"layer": layer} if method in LAYERED else {})


def cut(model, layers):
    return nn.Sequential(*list(model)[:layers]).eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("unit", "score"),
    [
        (Unit("3", 2), lambda maps: maps[:, 2].mean((1, 2))),
        (Unit("3", 4, (1, 5)), lambda maps: maps[:, 4, 1, 5]),
        (Direction("3", [1.0, -2.0, 0, 0, 0.5, 0]), lambda m: (m[:, 0] - 2 * m[:, 1] + 0.5 * m[:, 4]).mean((1, 2))),
    ],
)
def test_the_answer_is_that_of_the_model_cut_behind_the_layer(method, unit, score):
    model, x = tiny_cnn(), images()
    expected = Explainer(cut(model, 4)).attribute(x, method, target=score, **options(method))
    found = Explainer(model).attribute(x, method, target=unit, **options(method))
    assert found.target is unit
    torch.testing.assert_close(found.scores, expected.scores)


@pytest.mark.parametrize("method", METHODS)
def test_chunks_and_precision_do_not_matter(method):
    model, x, unit = tiny_cnn().double(), images().double(), Unit("3", 1, "centre")
    whole = Explainer(model).attribute(x, method, target=unit, **options(method))
    single = Explainer(model, batch_size=1).attribute(x, method, target=unit, **options(method))
    assert whole.scores.dtype == torch.float64
    torch.testing.assert_close(whole.scores, single.scores)
    half = Explainer(tiny_cnn().bfloat16()).attribute(x.bfloat16(), method, target=unit, **options(method))
    assert half.scores.dtype == torch.float32
    assert half.scores.isfinite().all()


def test_an_operation_in_place_behind_the_layer_does_not_change_it():
    """The batch norm's output is overwritten by the ReLU that follows."""
    model, x = tiny_cnn(), images()
    expected = Explainer(cut(model, 2)).attribute(x, "saliency", target=lambda maps: maps[:, 3].mean((1, 2)))
    torch.testing.assert_close(Explainer(model).attribute(x, "saliency", target=Unit("1", 3)).scores, expected.scores)


def test_the_layer_that_is_read_comes_before_the_units():
    model = tiny_cnn()
    for unit, layer in ((Unit("4", 2), "3"), (Unit("3", 2), "2"), (Unit("5", 2), "4"), (Unit("8", 2), "4")):
        attribution = Explainer(model).attribute(images(), "gradcam", target=unit)
        assert attribution.notes[0].startswith(f"layer={layer!r}: ")
        chosen = [each.name for each in Explainer(model).layers(images(), unit) if each.chosen]
        assert chosen == [layer]


def test_the_units_own_layer_shows_where_it_responds():
    found = Explainer(tiny_cnn()).attribute(images(), "gradcam", target=Unit("4", 2), layer="4")
    maps = cut(tiny_cnn(), 5)(images())[:, 2:3]
    torch.testing.assert_close(found.scores, maps / maps[0].numel())
    assert found.notes == ()  # the layer ran once


def test_a_later_layer_is_refused():
    with pytest.raises(AttribkitError, match="The score has no gradient with respect to layer '3'"):
        Explainer(tiny_cnn()).attribute(images(), "gradcam", target=Unit("2", 1), layer="3")


@pytest.mark.parametrize("method", ["cam", "attention"])
def test_methods_that_cannot_answer_say_so(method):
    with pytest.raises(AttribkitError):
        Explainer(tiny_cnn()).attribute(images(), method, target=Unit("3", 1))


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        (Unit("3", 6), "channel=6 is out of range: layer '3' has 6 channels, 0 to 5"),
        (Unit("nothing", 0), "No layer is named 'nothing'"),
        (Unit("3", 1, (8, 0)), r"8x8 grid of layer '3', got \(8, 0\)"),
        (Direction("3", [1.0]), "one number per channel of layer '3', 6, got 1"),
    ],
)
@pytest.mark.parametrize("method", ["gradcam", "saliency", "ablationcam"])
def test_units_that_are_not_there(unit, words, method):
    with pytest.raises(AttribkitError, match=words):
        Explainer(tiny_cnn()).attribute(images(), method, target=unit)


def test_a_unit_asked_of_the_models_outputs_is_refused():
    with pytest.raises(AttribkitError, match="scores the output of layer '3', not the outputs of the model"):
        Unit("3", 1)(torch.randn(2, 5))


def test_tokens_are_a_grid():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=5, depth=3).eval()
    x = torch.randn(2, 3, 32, 32)
    found = Explainer(model).attribute(x, "saliency", target=Unit("blocks.1", 7, (2, 3)))
    leaf = x.clone().requires_grad_()
    tokens = model.blocks[1](model.blocks[0](model.norm_pre(model._pos_embed(model.patch_embed(leaf)))))
    (expected,) = torch.autograd.grad(tokens[:, 1 + 4 * 2 + 3, 7].sum(), leaf)
    torch.testing.assert_close(found.scores, expected.abs().amax(1, keepdim=True))


def test_compare_asks_units_and_classes_alike():
    model, x, targets = tiny_cnn(), images(), [Unit("3", 2), None, Unit("4", 1), Unit("3", 0), Probability(2)]
    methods = ["gradcam", "saliency", "guided_backprop"]
    several = iter(Explainer(model).compare(x, methods, targets=targets))
    for target in targets:
        for method in methods:
            found, expected = next(several), Explainer(model).attribute(x, method, target=target)
            torch.testing.assert_close(found.scores, expected.scores)
            assert found.notes == expected.notes


def test_a_layer_that_runs_twice_is_told():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.body = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.last = nn.Linear(4, 5)

        def forward(self, x):
            return self.last(self.body(self.body(self.one(x)).relu()).relu().mean((2, 3)))

    model, x = Twice().eval(), images()
    found = Explainer(model).attribute(x, "saliency", target=Unit("body", 1, (0, 2)))
    assert "layer='body' returns several spatial maps (body@0, body@1): 'body@1' was used" in found.notes
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model.body(model.body(model.one(leaf)).relu())[:, 1, 0, 2].sum(), leaf)
    torch.testing.assert_close(found.scores, expected.abs().amax(1, keepdim=True))


def test_preflight_of_a_unit():
    assert Explainer(tiny_cnn()).check(images(), target=Unit("3", 1)) == []


def test_saved_and_read(tmp_path):
    attribution = Explainer(tiny_cnn()).attribute(images(), "saliency", target=Unit("3", 1, "centre"))
    attribution.save(tmp_path / "a.safetensors")
    assert repr(type(attribution).load(tmp_path / "a.safetensors").target) == repr(attribution.target)
