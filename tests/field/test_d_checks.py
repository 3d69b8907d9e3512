# ruff: noqa: NPY002  (NumPy's global generator is what is tested)
"""Randomness, batches and gradients that make an answer unsound are told with every answer."""

import os
import random
import re
import time

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from attribkit import Explainer, Similarity
from attribkit.testing import tiny_cnn

pytestmark = pytest.mark.usefixtures("as_users_run")

FINDINGS = ("random numbers", "of its batch", "not the derivative")


def images(count=2, side=16):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


class Through(nn.Module):
    """A small network between functions of its images and of its scores."""

    def __init__(self, before=lambda x: x, after=lambda scores: scores):
        super().__init__()
        self.body, self.before, self.after = tiny_cnn(), before, after

    def forward(self, x):
        return self.after(self.body(self.before(x)))


def findings(notes):
    return [note for note in notes if any(words in note for words in FINDINGS)]


def noted(model, x=None, method="saliency", target=1, **options):
    return findings(Explainer(model).attribute(images() if x is None else x, method, target=target, **options).notes)


# Randomness

OWN = torch.Generator()
GENERATOR = np.random.default_rng()
NUMPY, PYTHON, UNKNOWN = "NumPy's global generator", "Python's random module", "from an unknown source"
RANDOM = {
    "torch": (lambda x: F.dropout(x, 0.3), "torch's global generator, as functional dropout does"),
    "random": (lambda x: x * (1 + 0.1 * random.random()), PYTHON),
    "numpy": (lambda x: x + 0.1 * torch.from_numpy(np.random.standard_normal(x.shape)).float(), NUMPY),
    "both": (lambda x: x * (random.random() + np.random.rand()), f"{NUMPY} and {PYTHON}"),
    "default_rng": (lambda x: x + 0.1 * torch.from_numpy(GENERATOR.standard_normal(x.shape)).float(), UNKNOWN),
    "urandom": (lambda x: x * (1 + os.urandom(1)[0] / 255), UNKNOWN),
    "time": (lambda x: x * (1 + time.perf_counter_ns() % 1000 / 1000), UNKNOWN),
    "own generator": (lambda x: x + 0.1 * torch.randn(x.shape, generator=OWN), UNKNOWN),
}  # fmt: skip


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", RANDOM)
def test_randomness_is_told_by_attribute(name, count):
    before, source = RANDOM[name]
    for method, options in (("saliency", {}), ("gradcam", {}), ("rise", {"masks": 16, "cells": 4})):
        (note,) = noted(Through(before), images(count), method, **options)
        assert note.startswith("two forward passes of the same images gave scores that differ")
        assert "draws random numbers in evaluation mode" in note
        assert source in note
        assert "average several explanations" in note


def test_the_note_on_randomness_says_by_how_much_scores_differ():
    """The score is the class's logit plus 0 or 1 in turn."""
    calls = iter(range(1000))
    model = Through(after=lambda scores: scores + next(calls) % 2)
    alone = model.body.eval()(images(1))[0, 1].item()
    (note,) = noted(model, images(1))
    assert " differ by up to 1, " in note
    assert f"scores of magnitude {max(abs(alone), abs(alone + 1)):.2g}: " in note


def test_randomness_is_told_by_compare_measure_and_check():
    explainer, x = Explainer(Through(RANDOM["urandom"][0])), images()
    attributions = explainer.compare(x, ["gradcam", "saliency", "occlusion"], targets=[1])
    for attribution in attributions:
        assert len(findings(attribution.notes)) == 1
    (measured,) = explainer.measure(attributions[:1], ["deletion"])
    assert len(findings(measured.notes)) == 1
    assert [str(finding).startswith("note: two forward passes") for finding in explainer.check(x, 1)] == [True]


def seeded(x):
    random.seed(0)
    np.random.seed(0)
    return x * (1 + random.random() + np.random.rand())


def test_numbers_that_a_forward_seeds_anew_are_no_chance():
    assert noted(Through(seeded)) == []
    assert Explainer(Through(seeded)).check(images(), 1) == []


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_numbers_that_are_drawn_without_a_difference_are_told(draw):
    def before(x):
        draw()
        return x

    (note,) = noted(Through(before))
    assert "although two forward passes of the same images gave the same scores" in note
    assert [finding.text for finding in Explainer(Through(before)).check(images(), 1)] == [note]


def test_the_generators_are_left_as_they_were():
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    noted(Through(RANDOM["both"][0]))
    assert states[0] == random.getstate()
    assert (states[1] == np.random.get_state()[1]).all()
    assert torch.equal(states[2], torch.get_rng_state())


# Batches


def statistics(x):
    return F.batch_norm(x, None, None, training=True)


def attention(x):
    rows = x.flatten(1)
    return ((rows @ rows.T / rows.shape[1]).softmax(-1) @ rows).view_as(x)


BATCH = {
    "mean": lambda x: x - x.mean(0, keepdim=True),
    "statistics": statistics,
    "attention": attention,
    "range": lambda x: (x - x.min()) / (x.max() - x.min()),
    "largest": lambda x: x / x.abs().amax(),
    "scale": lambda x: x / x.std(),
    "neighbour": lambda x: x + x.roll(1, 0),
    "rank": lambda x: x * (1 + x.mean((1, 2, 3)).argsort().argsort())[:, None, None, None],
}  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, "alike"])
@pytest.mark.parametrize("name", BATCH)
def test_a_score_that_depends_on_the_batch_is_told_by_attribute(name, count):
    """Also of one image, and of several that are equal: the next call may give others."""
    x = images(1).expand(2, -1, -1, -1) if count == "alike" else images(count)
    for method, options in (("saliency", {}), ("gradcam", {}), ("rise", {"masks": 16, "cells": 4})):
        (note,) = noted(Through(BATCH[name]), x, method, **options)
        assert "changes by up to" in note
        assert "explain the images one at a time with Explainer(model, batch_size=1)" in note


@pytest.mark.parametrize("name", BATCH)
def test_images_that_run_one_by_one_do_not_depend_on_others(name):
    explainer = Explainer(Through(BATCH[name]), batch_size=1)
    assert findings(explainer.attribute(images(), "saliency", target=1).notes) == []


def test_the_note_on_batches_says_by_how_much_the_score_changes():
    """The score is that of the image plus the number of images less one."""
    model = Through(after=lambda scores: scores + len(scores) - 1)
    (note,) = noted(model, images(1))
    assert "changes by up to 1 " in note


@pytest.mark.parametrize(
    ("after", "target"),
    [
        (lambda scores: scores, lambda outputs: outputs.softmax(0)[:, 1]),
        (lambda scores: {"logits": scores - scores.mean(0)}, lambda outputs: outputs["logits"][:, 1]),
        (lambda scores: (scores, scores / scores.norm()), lambda outputs: outputs[1][:, 1]),
        (
            lambda scores: [{"scores": each} for each in scores - scores.mean(0)],
            lambda outputs: torch.stack([each["scores"].max() for each in outputs]),
        ),
        (lambda scores: scores - scores.mean(0), Similarity(torch.ones(5))),
    ],
    ids=["a function of the whole batch", "dict", "several outputs", "detections", "embedding"],
)
def test_outputs_of_any_form_are_tested_by_the_targets_score(after, target):
    for count in (1, 2):
        (note,) = noted(Through(after=after), images(count), target=target)
        assert "of its batch" in note


def test_another_target_is_tested_on_its_own():
    explainer, x = Explainer(tiny_cnn()), images()
    assert findings(explainer.attribute(x, "saliency", target=1).notes) == []
    batchwise = explainer.attribute(x, "saliency", target=lambda outputs: outputs.softmax(0)[:, 1])
    assert len(findings(batchwise.notes)) == 1
    assert findings(explainer.attribute(x, "saliency", target=2).notes) == []


class Conditioned(nn.Module):
    """Scores images by words that are given beside them."""

    def __init__(self, normalised):
        super().__init__()
        self.body, self.normalised = tiny_cnn(), normalised

    def forward(self, x, words):
        words = words - words.mean(0) if self.normalised else words
        return self.body(x) + words + (x.mean((1, 2, 3)) - x.mean())[:, None] * self.normalised


@pytest.mark.parametrize("normalised", [False, True])
def test_models_of_several_inputs(normalised):
    inputs = {"words": torch.arange(10.0).view(2, 5)}
    notes = noted(Conditioned(normalised), inputs=inputs)
    assert len(notes) == normalised
    explainer = Explainer(Conditioned(normalised))
    attributions = explainer.compare(images(), ["saliency"], targets=[1, 2], inputs=inputs)
    assert [len(findings(each.notes)) for each in attributions] == [normalised] * 2


# Gradients


class Binarised(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, x):
        return (x > 0).to(x)

    @staticmethod
    def backward(_ctx, gradient):
        return gradient


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(_ctx, gradient):
        return -gradient


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, x):
        return 3 * x

    @staticmethod
    def backward(_ctx, gradient):
        return gradient


def rounded(x, levels):
    return x + ((x * levels).round() / levels - x).detach()


WRONG = {
    "straight-through binarisation": Binarised.apply,
    "straight-through rounding": lambda x: rounded(x, 0.5),
    "detach": lambda x: x + 2 * x.flip(-1).detach(),
    "detached statistics": lambda x: x / (0.1 + x.abs().mean((1, 2, 3), keepdim=True)).detach() ** 2,
    "gradient reversal": Reversed.apply,
    "scaled backward": Scaled.apply,
    "no_grad": lambda x: x + torch.no_grad()(torch.tanh)(3 * x),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_gradient_that_is_not_the_derivative_is_found_and_repeated(name):
    explainer, x = Explainer(Through(WRONG[name])), images()
    assert findings(explainer.attribute(x, "saliency", target=1).notes) == []
    (finding,) = explainer.check(x, 1)
    assert finding.text.startswith("the gradient is not the derivative of the score")
    for attribution in explainer.compare(x, ["saliency", "gradcam"], targets=[1, 2]):
        assert finding.text in attribution.notes
    assert findings(explainer.attribute(images(side=20), "saliency", target=1).notes) == []  # of another size


def test_the_note_on_gradients_says_both_slopes():
    model = Through(Scaled.apply)
    (finding,) = Explainer(model).check(images(), 1)
    slopes = re.search(
        r"the slope of the score is (\S+) by finite differences, but (\S+) by the gradient", finding.text
    )
    by_differences, by_gradient = map(float, slopes.groups())
    assert by_differences == pytest.approx(3 * by_gradient, rel=0.15)


class Own(torch.autograd.Function):
    """A ReLU with its own, right backward."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] > 0)


RIGHT = {
    "relu": F.relu,
    "own relu": Own.apply,
    "clamp": lambda x: x.clamp(0, 1),
    "abs": torch.abs,
    "max pooling": lambda x: F.max_pool2d(x, 3, 1, 1),
    "fine rounding": lambda x: rounded(x, 255),
    "norm": lambda x: x / x.norm(dim=1, keepdim=True).clamp(min=1e-3),
    "sort": lambda x: x.sort(-1).values,
    "gelu": F.gelu,
}


@pytest.mark.parametrize("of", ["noise", "corners", "constant"])
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_gradient_is_not_complained_about(name, of):
    """Also where pixels are exactly at a corner of the function."""
    x = {"noise": images(), "corners": images().round().clamp(0, 1), "constant": torch.zeros(2, 3, 16, 16)}[of]
    assert [str(finding) for finding in Explainer(Through(RIGHT[name])).check(x, 1) if findings([finding.text])] == []


# Ordinary models

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
ORDINARY = {
    "resnet": lambda: timm.create_model("resnet10t", num_classes=5),
    "mobilenet": lambda: timm.create_model("mobilenetv3_small_050", num_classes=5),
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=5, **SMALL),
    "convnext": lambda: timm.create_model("convnext_atto", num_classes=5),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_models_have_no_finding(name, dtype):
    torch.manual_seed(0)
    model, x = ORDINARY[name]().eval().to(dtype), images(2, 32).to(dtype)
    if name == "vit":
        nn.init.normal_(model.head.weight, std=0.1)
    explainer = Explainer(model)
    for each in (x[:1], x):
        assert findings(explainer.attribute(each, "saliency", target=1).notes) == []
    if dtype == torch.float32 or name == "vit":
        assert [finding.text for finding in explainer.check(x, 1) if findings([finding.text])] == []


class Single(nn.Module):
    """A model that takes one image at a time."""

    def __init__(self):
        super().__init__()
        self.body = tiny_cnn()

    def forward(self, x):
        if len(x) != 1:
            raise ValueError("one image at a time")
        return self.body(x)


def test_a_model_that_takes_no_other_image_is_explained():
    assert noted(Single(), images(1)) == []

    def target(outputs):
        return torch.stack([row[row > 0.0][0] for row in outputs])  # fails where no score is positive

    model, x = Through(after=lambda scores: scores - scores[:1].amin() + 1e-3 - (len(scores) - 1) * 100), images(1)
    assert Explainer(model).attribute(x, "saliency", target=target).scores.isfinite().all()


# Cost


@pytest.mark.parametrize("method", ["saliency", "gradcam", "eigencam"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_first_call_costs_four_forwards_at_most_and_others_one(method, count):
    model, calls = tiny_cnn(), []
    explainer, x = Explainer(model), images(count)
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    explainer.attribute(x, method, target=1)
    first = len(calls)
    calls.clear()
    explainer.attribute(x, method, target=1)
    handle.remove()
    assert first <= 4
    assert len(calls) == 1


def test_methods_that_do_not_ask_the_model_cost_no_forward():
    model, calls = tiny_cnn(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    (explainer := Explainer(model)).attribute(images(), "edges", target=1)
    assert len(calls) <= 1  # the trace of the layers
    before = explainer.model.image_count
    explainer.attribute(images(), "saliency", target=1)
    assert explainer.model.image_count - before == 2  # those of the method alone
