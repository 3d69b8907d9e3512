"""The front door: wrappers, outside contexts, notes, preflight."""

import threading

import pytest
import torch
from torch import nn

from attribkit import Explainer
from attribkit.testing import changes, model_state, tiny_cnn
from tests.refusals import ANSWERING

METHODS = list(ANSWERING.values())


@pytest.mark.parametrize("method", METHODS, ids=list(ANSWERING))
def test_in_no_grad_and_inference_mode(method):
    model, x = tiny_cnn(), torch.randn(2, 3, 16, 16)
    expected = Explainer(model).attribute(x, method).scores
    with torch.no_grad():
        assert torch.equal(Explainer(model).attribute(x, method).scores, expected)
    with torch.inference_mode():
        assert torch.equal(Explainer(model).attribute(x.clone(), method).scores, expected)


@pytest.mark.parametrize("method", METHODS, ids=list(ANSWERING))
def test_wrapped_models_are_unwrapped(method):
    model, x = tiny_cnn(), torch.randn(2, 3, 16, 16)
    expected = Explainer(model).attribute(x, method).scores
    for wrapped in (torch.compile(model), nn.DataParallel(model)):
        assert torch.equal(Explainer(wrapped).attribute(x, method).scores, expected)


@pytest.mark.parametrize("method", METHODS, ids=list(ANSWERING))
def test_threads_do_not_disturb_each_other(method):
    model, x = tiny_cnn(), torch.randn(4, 3, 16, 16)
    before = model_state(model)
    explainer = Explainer(model)
    expected = explainer.attribute(x, method).scores
    results = []

    def work():
        results.extend(torch.equal(explainer.attribute(x, method).scores, expected) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 20
    assert changes(before, model_state(model)) == []


def test_a_model_that_works_in_place_on_its_input_leaves_the_images_alone():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = tiny_cnn()

        def forward(self, x):
            return self.body(x.mul_(2).relu_())

    x = torch.randn(2, 3, 16, 16)
    mine = x.clone()
    for method in METHODS:
        Explainer(InPlace()).attribute(mine, method)
        assert torch.equal(mine, x)


def test_a_model_in_training_mode_is_explained_in_evaluation_mode():
    model, x = tiny_cnn(), torch.randn(2, 3, 16, 16)
    trained = Explainer(model.train()).attribute(x, "saliency").scores
    assert all(module.training for module in model.modules())
    assert torch.equal(trained, Explainer(model.eval()).attribute(x, "saliency").scores)


def test_preflight_finds_nothing_in_a_sound_model(cnn, vit):
    for model in (cnn, vit):
        assert Explainer(model).check() == []
    assert Explainer(tiny_cnn()).check(torch.randn(3, 3, 16, 16)) == []


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = tiny_cnn()

    def forward(self, x):
        return nn.functional.dropout(self.body(x), 0.5)


class Neighbours(Random):
    def forward(self, x):
        return self.body(x - x.mean(0, keepdim=True))


class Detached(Random):
    def forward(self, x):
        return self.body(x).detach()


class Blind(Random):
    def forward(self, x):
        return self.body(x) * 0 + self.body(torch.zeros_like(x))


@pytest.mark.parametrize(
    ("model", "level", "words"),
    [
        (Random, "note", "two forward passes of the same images gave scores that differ"),
        (Neighbours, "note", "changes by up to"),
        (Detached, "error", "The score has no gradient"),
        (Blind, "note", "exactly zero for images [0, 1, 2]"),
    ],
)
def test_preflight_finds(model, level, words):
    findings = Explainer(model()).check(torch.randn(3, 3, 16, 16))
    assert any(finding.level == level and words in finding.text for finding in findings), findings


def test_preflight_says_when_the_outputs_are_no_class_scores():
    model = nn.Conv2d(3, 4, 3)
    (finding,) = Explainer(model).check(torch.randn(2, 3, 8, 8))
    assert finding.level == "error"
    assert "instead of class scores" in finding.text


def test_preflight_of_one_image_says_what_it_could_not_test():
    (finding,) = Explainer(tiny_cnn()).check(torch.randn(1, 3, 16, 16))
    assert "pass at least two" in finding.text


def test_the_result_and_the_images_do_not_share_memory():
    x = torch.randn(1, 3, 16, 16)
    attribution = Explainer(tiny_cnn()).attribute(x)
    before = attribution.x.clone()
    x.zero_()
    assert torch.equal(attribution.x, before)


def test_repr():
    assert repr(Explainer(tiny_cnn())).startswith("Explainer(Sequential, spec=ModelSpec(")


def test_other_metrics_of_plugins_are_evaluated():
    from dataclasses import dataclass

    from attribkit import Faithfulness

    @dataclass(frozen=True)
    class Drop(Faithfulness):
        name = "drop"
        source = "nobody"
        higher_is_better = True

        def __call__(self, model, attributions):
            x, target = attributions[0].x, attributions[0].target
            return (model.score(x, target) - model.score(x * 0, target)).expand(len(attributions), -1)

    model, x = tiny_cnn().eval(), torch.randn(3, 3, 16, 16)
    explainer = Explainer(model)
    value = explainer.evaluate(explainer.attribute(x, target=1), Drop())
    torch.testing.assert_close(value, (model(x) - model(x * 0))[:, 1].detach())


@pytest.mark.filterwarnings("default")  # the compiler's own
@pytest.mark.parametrize("method", METHODS, ids=list(ANSWERING))
def test_models_compiled_in_place_or_in_part_are_explained_eagerly(method):
    model, x = tiny_cnn().eval(), torch.randn(2, 3, 16, 16)
    expected = Explainer(model).attribute(x, method).scores
    inside, part = tiny_cnn().eval(), tiny_cnn().eval()
    inside.compile(backend="eager")
    part[3] = torch.compile(part[3], backend="eager")
    for compiled in (inside, part):
        compiled(x)  # now it is compiled
        assert torch.equal(Explainer(compiled).attribute(x, method).scores, expected)
        torch.testing.assert_close(compiled(x), model(x))
