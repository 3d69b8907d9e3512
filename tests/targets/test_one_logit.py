"""Models with one output, several labels at once, and outputs of every kind."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torchvision import models

from attribkit import (
    AttribkitError,
    ClassLogit,
    Contrast,
    Counterfactual,
    Explainer,
    ModelSpec,
    MultiLabel,
    Probability,
)
from attribkit import Binary as Side
from attribkit._targets.logits import Predicted
from attribkit.testing import tiny_cnn

TOLD = "the model has one output: the score is the output itself; Binary(0) scores its negative class"
TOLD_SIDES = "the model has one output: Binary(1) scores its positive class, Binary(0) its negative class"


def images(count=4):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Binary(nn.Module):
    """One logit of each image, (b, 1) or (b,)."""

    def __init__(self, flat=False):
        super().__init__()
        self.body, self.flat = tiny_cnn().eval(), flat
        self.middle = self.body(images())[:, 2].detach().mean()  # so that the images have both signs

    def forward(self, x):
        logit = self.body(x)[:, 2:3] - self.middle
        return logit.flatten() if self.flat else logit


LOGIT = torch.tensor([[2.0], [-3.0], [0.5]])


@pytest.mark.parametrize("outputs", [LOGIT, LOGIT.flatten(), (LOGIT,), {"logits": LOGIT}])
def test_scores_of_one_logit(outputs):
    logit = LOGIT.flatten()
    torch.testing.assert_close(ClassLogit(0)(outputs), logit)
    torch.testing.assert_close(Counterfactual(0)(outputs), -logit)
    torch.testing.assert_close(Probability(0)(outputs), logit.sigmoid())
    torch.testing.assert_close(Side(1)(outputs), logit)
    torch.testing.assert_close(Side(0)(outputs), -logit)
    torch.testing.assert_close(Side((1, 0, 0))(outputs), torch.tensor([2.0, 3.0, -0.5]))
    torch.testing.assert_close(Side(1, "probability")(outputs), logit.sigmoid())
    torch.testing.assert_close(Side(0, "probability")(outputs), 1 - logit.sigmoid())
    torch.testing.assert_close(Side()(outputs), logit.abs())
    assert Side().resolved(Side().decision(outputs)) == Side((1, 0, 1))
    torch.testing.assert_close(Predicted()(outputs), logit)
    assert Predicted().resolved(Predicted().decision(outputs)) == ClassLogit((0, 0, 0))
    for target in (ClassLogit(1), Probability(1), Counterfactual((0, 1, 0)), MultiLabel((0, 1))):
        with pytest.raises(
            AttribkitError, match="The class index 1 is out of range: the model has one output, with index 0"
        ):
            target(outputs)
    with pytest.raises(AttribkitError, match="compares two classes, but the model has one output"):
        Contrast(1, 0)(outputs)


def test_sides_that_do_not_exist():
    with pytest.raises(
        AttribkitError, match=r"index must be 1 \(positive class\), 0 \(negative class\) or a label, got 2"
    ):
        Side(2)
    with pytest.raises(
        AttribkitError,
        match=r"requires a model with one output, but this model has 5 classes\. Pass the index of a class",
    ):
        Explainer(tiny_cnn()).attribute(images(), "saliency", target=Side(1))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("method", ["gradcam", "saliency", "occlusion", "rise", "scorecam", "ablationcam", "cam"])
def test_the_predicted_side_is_that_of_the_logit(method, flat):
    model, x = Binary(flat).eval(), images()
    options = {"rise": {"masks": 32, "cells": 4}, "occlusion": {"patch": 8, "stride": 8}}.get(method, {})
    side = (model(x).flatten() > 0).long()
    assert 0 < side.sum() < len(x)
    explainer = Explainer(model, batch_size=3)
    whole, found = explainer.attribute(x, method, **options), explainer.attribute(x, method, target=Side(), **options)
    assert whole.target == ClassLogit((0,) * len(x))
    assert found.target == Side(tuple(side.tolist()))
    assert TOLD in whole.notes or method == "rise"
    assert TOLD_SIDES in found.notes
    # the same model with two logits, whose class 0 has the negated score
    signed = Explainer(Signed(model))
    if method != "rise":  # which asks for the probability: the two-sided one is another
        torch.testing.assert_close(found.scores, signed.attribute(x, method, target=side, **options).scores)
        torch.testing.assert_close(whole.scores, signed.attribute(x, method, target=1, **options).scores)


class Signed(nn.Module):
    def __init__(self, binary):
        super().__init__()
        self.body, self.binary = binary.body, binary

    def forward(self, x):
        logit = self.binary(x).reshape(-1, 1)
        return torch.cat([-logit, logit], 1)


def test_a_probability_is_the_sigmoid_and_its_gradient():
    model, x = Binary().eval(), images()
    found = Explainer(model).attribute(x, "saliency", target=Probability(0))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf).sigmoid().sum(), leaf)
    torch.testing.assert_close(found.scores, expected.abs().amax(1, keepdim=True))
    assert any("the probability of its positive class is the sigmoid" in note for note in found.notes)


def test_labels_of_one_logit():
    """The first of two labels is the negative side; index 0 is the output itself, labels or not."""
    explainer, x = Explainer(Binary(), spec=ModelSpec(labels=["benign", "malignant"])), images()
    whole = explainer.attribute(x, "input_x_gradient", target=0)
    for target, meant, sign in (
        ("malignant", Side(1), 1),
        ("benign", Side(0), -1),
        (Counterfactual("malignant"), Side(0), -1),
        (["benign", "malignant", "benign", "benign"], Side((0, 1, 0, 0)), None),
    ):
        found = explainer.attribute(x, "input_x_gradient", target=target)
        assert found.target == meant
        diagnostics = torch.tensor([-1, 1, -1, -1] if sign is None else [sign] * 4)[:, None, None, None]
        torch.testing.assert_close(found.scores, whole.scores * diagnostics)
    found = explainer.attribute(x, "saliency", target=Probability("benign"))
    assert found.target == Side(0, "probability")
    two = Explainer(Signed(Binary()), spec=ModelSpec(labels=["benign", "malignant"]))
    assert two.attribute(x, "saliency", target="benign").target == ClassLogit(0)


def test_models_of_more_classes_are_told_nothing():
    assert not any("one output" in note for note in Explainer(tiny_cnn()).attribute(images()).notes)


def test_several_labels_are_the_sum_of_their_logits():
    logits = torch.randn(3, 5)
    torch.testing.assert_close(MultiLabel((1, 4))(logits), logits[:, 1] + logits[:, 4])
    model, x = tiny_cnn(), images()
    explainer = Explainer(model, spec=ModelSpec(labels=["a", "b", "c", "d", "e"]))
    found = explainer.attribute(x, "input_x_gradient", target=MultiLabel(["b", 4]))
    assert found.target == MultiLabel((1, 4))
    parts = [explainer.attribute(x, "input_x_gradient", target=each).scores for each in (1, 4)]
    torch.testing.assert_close(found.scores, parts[0] + parts[1])
    for method, options in (("occlusion", {"patch": 8, "stride": 8}), ("gradcam", {})):
        single = Explainer(model, batch_size=1).attribute(x, method, target=MultiLabel((1, 4)), **options)
        whole = explainer.attribute(x, method, target=MultiLabel((1, 4)), **options)
        torch.testing.assert_close(whole.scores, single.scores)


@pytest.mark.parametrize("given", [3, (), (1, 1), [[1], [2]]])
def test_what_is_no_set_of_labels(given):
    with pytest.raises(AttribkitError):
        MultiLabel(given)


def test_several_labels_per_image():
    x, each = images(3), [MultiLabel((0, 1)), MultiLabel((2, 3, 4)), 1]
    found = Explainer(tiny_cnn()).attribute(x, "saliency", target=each)
    for i, target in enumerate(each):
        alone = Explainer(tiny_cnn()).attribute(x[i : i + 1], "saliency", target=target)
        torch.testing.assert_close(found.scores[i : i + 1], alone.scores)


# What models return


@dataclass
class LikeModelOutput(OrderedDict):
    """As Hugging Face's: a dict whose entries are attributes too; absent ones are left out."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple | None = None

    def __post_init__(self):
        self.update({name: value for name, value in vars(self).items() if value is not None})

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]


Namedtuple = namedtuple("Namedtuple", ["logits", "aux_logits2", "aux_logits1"])

KINDS = {
    "tuple": lambda y: (y, "more"),
    "list": lambda y: [y],
    "dict": lambda y: {"logits": y, "features": y[:, :3]},
    "model output": lambda y: LikeModelOutput(logits=y, hidden_states=(y[:, None], y[:, None])),
    "namedtuple": lambda y: Namedtuple(y, 2 * y, 3 * y),
}


class Returning(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.body, self.kind = tiny_cnn(), KINDS[kind]

    def forward(self, x):
        return self.kind(self.body(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["gradcam", "saliency", "occlusion", "ablationcam"])
def test_whatever_the_model_returns_its_class_scores_are_found(method, kind):
    x, options = images(), {"occlusion": {"patch": 8, "stride": 8}}.get(method, {})
    expected = Explainer(tiny_cnn()).attribute(x, method, **options)
    found = Explainer(Returning(kind), batch_size=3).attribute(x, method, **options)
    assert found.target == expected.target
    torch.testing.assert_close(found.scores, expected.scores)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_models_with_auxiliary_heads(name):
    """In training they return a namedtuple; explained, they are in evaluation mode."""
    model = models.get_model(name, weights=None, init_weights=False, num_classes=7)
    side = 75 if name == "inception_v3" else 64
    x = torch.randn(1, 3, side, side)
    found = Explainer(model).attribute(x, "saliency")
    assert model.training
    assert found.target == ClassLogit((int(model.eval()(x).argmax()),))
