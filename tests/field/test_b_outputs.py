"""What the outputs of a model mean: one output, probabilities, and methods that need no target."""

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attribkit import (
    AttribkitError,
    Attribution,
    Binary,
    ClassLogit,
    Contrast,
    Counterfactual,
    Explainer,
    Method,
    ModelSpec,
    MultiLabel,
    NoTarget,
    Probability,
    Region,
    registry,
)
from attribkit.testing import tiny_cnn


def images(count=3):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Ended(nn.Module):
    """A small CNN whose scores of five classes end in something else; sharper: times a number first."""

    def __init__(self, end, classes=5, sharper=4.0):
        super().__init__()
        self.body, self.end, self.classes, self.sharper = tiny_cnn().eval(), end, classes, sharper
        self.middle = self.body(images(6))[:, 0].detach().mean() if classes == 1 else 0  # so that there are both signs

    def logits(self, x):
        return (self.body(x)[:, : self.classes] - self.middle) * self.sharper

    def forward(self, x):
        return self.end(self.logits(x))


def gradient_of(score, x):
    """d score / d x by hand; score: images to (b,)."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(score(leaf).sum(), leaf)[0]


# One output

ONE = {"(b, 1)": lambda y: y, "(b,)": lambda y: y[:, 0], "squeezed": lambda y: y.squeeze(), "tuple": lambda y: (y, 1)}


@pytest.mark.parametrize("end", ONE)
@pytest.mark.parametrize("count", [1, 3])
def test_index_zero_is_the_output_itself(end, count):
    """Equal to captum's Saliency and to autograd of the output, for target=0 and for no target."""
    model, x = Ended(ONE[end], classes=1).eval(), images(count)
    expected = gradient_of(lambda x: model.logits(x)[:, 0], x)
    theirs = captum.attr.Saliency(lambda x: model.logits(x)).attribute(x.clone().requires_grad_(), target=0, abs=False)
    torch.testing.assert_close(expected, theirs)
    for target, sign in ((0, 1), (None, 1), (Binary(1), 1), (Counterfactual(0), -1), (Binary(0), -1)):
        found = Explainer(model).attribute(x, "input_x_gradient", target=target)
        torch.testing.assert_close(found.scores, sign * x * expected)
        assert any("the model has one output" in note for note in found.notes)


def test_a_side_is_saved_and_loaded(tmp_path):
    found = Explainer(Ended(ONE["(b, 1)"], classes=1)).attribute(images(), "saliency", target=Binary((1, 0, 1)))
    found.save(tmp_path / "map.safetensors")
    assert Attribution.load(tmp_path / "map.safetensors").target == Binary((1, 0, 1))


def test_targets_that_a_single_output_does_not_have():
    explainer, x = Explainer(Ended(ONE["(b, 1)"], classes=1)), images()
    for target in (1, -1, [0, 1, 0], Probability(1), Counterfactual(1), MultiLabel((0, 1))):
        with pytest.raises(
            AttribkitError, match=r"is out of range: the model has one output, with index 0\. Use index 0 .* Binary"
        ):
            explainer.attribute(x, "saliency", target=target)
    with pytest.raises(AttribkitError, match="compares two classes, but the model has one output"):
        explainer.attribute(x, "saliency", target=Contrast(0, 0))


@pytest.mark.parametrize("end", ["(b, 1)", "(b,)", "squeezed"])
def test_cam_of_a_single_output(end):
    """The weights are those of the last layer by hand; the mean of the map plus the bias is the output."""
    body = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 1)
    )
    model, x = nn.Sequential(*body, _Apply(ONE[end])).eval(), images()
    maps = body[1](body[0](x))
    expected = torch.einsum("bdhw,d->bhw", maps, body[4].weight[0]).unsqueeze(1)
    for target, sign in ((None, 1), (0, 1), (Binary(0), -1), (Counterfactual(0), -1)):
        torch.testing.assert_close(Explainer(model).attribute(x, "cam", target=target).scores, sign * expected)
    found = Explainer(model).attribute(x, "cam").scores.mean((1, 2, 3)) + body[4].bias
    torch.testing.assert_close(found, body(x)[:, 0])


def test_cam_of_several_labels():
    body = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    ).eval()
    x = images()
    weights = body[4].weight[1] + body[4].weight[3]
    expected = torch.einsum("bdhw,d->bhw", body[1](body[0](x)), weights).unsqueeze(1)
    torch.testing.assert_close(Explainer(body).attribute(x, "cam", target=MultiLabel((1, 3))).scores, expected)


def test_class_scores_that_are_squeezed_for_a_single_image():
    model, x = Ended(lambda y: y.squeeze()).eval(), images(1)
    found = Explainer(model).attribute(x, "saliency", target=2)
    expected = gradient_of(lambda x: model.logits(x)[:, 2], x).abs().amax(1, keepdim=True)
    torch.testing.assert_close(found.scores, expected)
    assert Explainer(model).attribute(x, "ablationcam").target == ClassLogit((int(model(x).argmax()),))


def test_a_loss_beside_the_scores_is_no_score():
    with pytest.raises(AttribkitError, match="instead of class scores"):
        Explainer(Ended(lambda y: (y.sum(), y))).attribute(images(1), "saliency")


def test_probability_metrics_of_a_single_logit_use_its_sigmoid():
    model, x = Ended(ONE["(b, 1)"], classes=1).eval(), images()
    explainer = Explainer(model)
    found = explainer.attribute(x, "input_x_gradient")
    measured = explainer.measure([found], ["deletion"])[0]
    torch.testing.assert_close(
        measured.details["curve"][0, :, 0].float(), model(x)[:, 0].sigmoid(), rtol=1e-4, atol=1e-5
    )


class _Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("axes", ["(b, 1, h, w)", "(b, h, w)"])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_one_map_of_a_segmentation(axes, sigmoid):
    """Sums over the mask by hand; the predicted region is where the logit is above zero, or p above one half."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    end = _Apply((lambda y: y.sigmoid()) if sigmoid else (lambda y: y))
    model = nn.Sequential(*body, end, _Apply((lambda y: y.squeeze(1)) if axes == "(b, h, w)" else (lambda y: y))).eval()
    x, mask = images(), torch.zeros(3, 16, 16, dtype=torch.bool)
    mask[:, 3:9, 5:15] = True

    def own(x):
        return end(body(x))[:, 0]

    where = body(x)[:, 0] > 0
    for target, score in (
        (Region(0, mask), lambda x: (own(x) * mask).sum((1, 2))),
        (Region(0, mask, background=True), lambda x: -(own(x) * mask).sum((1, 2))),
        (Region(0), lambda x: (own(x) * where).sum((1, 2))),
        (Region(0, background=True), lambda x: -(own(x) * ~where).sum((1, 2))),
    ):
        found = Explainer(model).attribute(x, "input_x_gradient", target=target)
        torch.testing.assert_close(found.scores, x * gradient_of(score, x))
        assert any("the model returns probabilities" in note for note in found.notes) == sigmoid


# Probabilities

SOFTMAX = {
    "softmax": lambda y: y.softmax(1),
    "of a temperature": lambda y: (y / 2).softmax(1),
    "exp of log-softmax": lambda y: y.log_softmax(1).exp(),
    "a quotient": lambda y: y.exp() / y.exp().sum(1, keepdim=True),
    "a mean of two": lambda y: (y.softmax(1) + (2 * y).softmax(1)) / 2,
    "in a dict": lambda y: {"logits": y.softmax(1)},
    "clamped": lambda y: y.softmax(1).clamp(1e-7, 1),
    "cut from the graph": lambda y: y.softmax(1).detach(),
}
SIGMOID = {
    "sigmoid": lambda y: y.sigmoid(),
    "a quotient": lambda y: 1 / (1 + (-y).exp()),
    "tanh": lambda y: (y.tanh() + 1) / 2,
    "of a softmax": lambda y: torch.stack([-y, y], 1).softmax(1)[:, 1],
    "clamped": lambda y: y.sigmoid().clamp(1e-6, 1 - 1e-6),
}


def first(outputs):
    return outputs["logits"] if isinstance(outputs, dict) else outputs


@pytest.mark.parametrize("end", SOFTMAX)
def test_a_probability_that_the_model_returns_is_read_as_it_is(end):
    model, x = Ended(SOFTMAX[end]).eval(), images()
    p = first(model(x)).detach()
    explainer = Explainer(model)
    with torch.no_grad():
        masked = explainer.attribute(x, "occlusion", target=Probability(3), patch=16, stride=16, baseline="zero")
        whole = first(model(torch.zeros_like(x)))[:, 3]
    torch.testing.assert_close(masked.scores[:, 0, 0, 0], p[:, 3] - whole, rtol=1e-4, atol=1e-6)
    assert "the model returns probabilities, which are used as scores without conversion" in masked.notes
    if end != "cut from the graph":
        found = explainer.attribute(x, "input_x_gradient", target=Probability(3))
        expected = x * gradient_of(lambda x: first(model(x))[:, 3], x)
        torch.testing.assert_close(found.scores, expected)
        torch.testing.assert_close(explainer.attribute(x, "input_x_gradient", target=3).scores, expected)
    curve = explainer.measure([masked], ["deletion"])[0].details["curve"][0, :, 0]
    torch.testing.assert_close(curve.float(), p[:, 3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("end", SIGMOID)
@pytest.mark.parametrize("classes", [1, 5])
def test_a_sigmoid_is_read_as_it_is(end, classes):
    model, x = Ended(SIGMOID[end], classes).eval(), images()
    c = classes - 1
    found = Explainer(model).attribute(x, "input_x_gradient", target=Probability(c))
    torch.testing.assert_close(found.scores, x * gradient_of(lambda x: model(x)[:, c], x))
    assert "the model returns probabilities, which are used as scores without conversion" in found.notes


@pytest.mark.parametrize("end", SIGMOID)
def test_the_predicted_side_of_a_sigmoid_is_decided_at_one_half(end):
    model, x = Ended(SIGMOID[end], classes=1).eval(), images(6)
    side = (model.logits(x)[:, 0] > 0).long()
    assert 0 < int(side.sum()) < 6
    explainer = Explainer(model)
    assert explainer.attribute(x, "saliency", target=Binary()).target == Binary(tuple(side.tolist()))
    sign = (2 * side - 1)[:, None, None, None]
    expected = x * sign * gradient_of(lambda x: model(x).reshape(-1), x)
    for target in (Binary(), Binary(score="probability")):
        torch.testing.assert_close(explainer.attribute(x, "input_x_gradient", target=target).scores, expected)


@pytest.mark.parametrize("several", [True, False])
def test_log_probabilities(several):
    model = Ended((lambda y: y.log_softmax(1)) if several else F.logsigmoid).eval()
    x = images()
    explainer = Explainer(model)
    found = explainer.attribute(x, "input_x_gradient", target=Probability(1))
    torch.testing.assert_close(found.scores, x * gradient_of(lambda x: model(x).exp()[:, 1], x))
    found = explainer.attribute(x, "input_x_gradient", target=1)
    torch.testing.assert_close(found.scores, x * gradient_of(lambda x: model(x)[:, 1], x))
    assert "the model returns log-probabilities, which are used as scores without conversion" in found.notes


def test_a_probability_of_nearly_zero():
    """p = 7.7e-64 is the score; the softmax of the softmax would be 0.1488."""
    logits = torch.tensor([[0.0, 145.32, 0.0, 0.0, 0.0]], dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 5).double(), nn.Softmax(1)).eval()
    with torch.no_grad():
        model[1].weight.mul_(0)
        model[1].bias.copy_(logits[0])
    x = torch.ones(2, 3, 1, 1, dtype=torch.float64)
    explainer = Explainer(model)
    score = explainer.model.bind(x).score(x, Probability(0))
    torch.testing.assert_close(score, logits.softmax(1)[:, 0].expand(2), rtol=1e-9, atol=0)
    assert float(score[0]) == pytest.approx(7.7e-64, rel=0.05)


def test_a_saturated_probability_is_noted():
    told = "the probability is nearly 0 or 1, so its gradient nearly vanishes: explain the logits"
    sharp, x = Ended(lambda y: y.softmax(1), sharper=3000.0).eval(), images()
    assert any(note.startswith(told) for note in Explainer(sharp).attribute(x, "occlusion", patch=8, stride=8).notes)
    mild = Ended(lambda y: y.softmax(1), sharper=0.1)
    assert not any(note.startswith(told) for note in Explainer(mild).attribute(x, "saliency").notes)
    assert any(note.startswith(told) for note in (each.text for each in Explainer(sharp).check(x)))


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
@pytest.mark.parametrize("order", ["probabilities first", "logits first"])
def test_pairs_of_logits_and_probabilities(link, order):
    def ended(y):
        p = y.softmax(1) if link == "softmax" else y.sigmoid()
        return (p, y) if order == "probabilities first" else (y, p)

    model, x = Ended(ended).eval(), images()
    explainer = Explainer(model)

    def p(x):
        return (model.logits(x).softmax(1) if link == "softmax" else model.logits(x).sigmoid())[:, 2]

    for target, score in ((2, lambda x: model.logits(x)[:, 2]), (Probability(2), p)):
        found = explainer.attribute(x, "input_x_gradient", target=target)
        torch.testing.assert_close(found.scores, x * gradient_of(score, x))
    predicted = explainer.attribute(x, "gradcam").target
    assert predicted == ClassLogit(tuple(model.logits(x).argmax(1).tolist()))


def test_two_heads_are_no_pair():
    with pytest.raises(AttribkitError, match="several tensors that could be class scores"):
        Explainer(Ended(lambda y: (y, 2 * y))).attribute(images(), "saliency")


@pytest.mark.parametrize(
    "end",
    [lambda y: y * 0 + 0.2, lambda y: y.relu().clamp(max=1), lambda y: y * y.sigmoid(), lambda y: y.tanh()],
    ids=["constant 0.2", "clamped", "swish", "tanh"],
)
def test_logits_that_only_look_like_probabilities(end):
    model, x = Ended(end, sharper=0.1).eval(), images()
    explainer = Explainer(model)
    score = explainer.model.bind(x).score(x, Probability(1))
    torch.testing.assert_close(score, model(x).softmax(1)[:, 1].detach())


@pytest.mark.parametrize(
    ("stated", "read"),
    [
        ("logits", lambda y: y.softmax(1)),
        ("probabilities", lambda y: y),
        ("log_probabilities", lambda y: y.exp()),
    ],
)
def test_the_spec_overrides(stated, read):
    model, x = Ended(lambda y: y.softmax(1)).eval(), images()
    explainer = Explainer(model, spec=ModelSpec(outputs=stated))
    score = explainer.model.bind(x).score(x, Probability(1))
    torch.testing.assert_close(score, read(model(x))[:, 1].detach())


def test_a_flag_that_is_set_between_two_calls():
    """What the outputs are is decided for each call."""
    model, x = Ended(lambda y: y).eval(), images()
    explainer = Explainer(model)
    explainer.attribute(x, "saliency", target=Probability(1))
    model.end = lambda y: y.softmax(1)
    found = explainer.attribute(x, "input_x_gradient", target=Probability(1))
    torch.testing.assert_close(found.scores, x * gradient_of(lambda x: model.logits(x).softmax(1)[:, 1], x))


def test_maps_of_probabilities():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.Softmax(1)).eval()
    x, mask = images(), torch.ones(1, 16, 16, dtype=torch.bool)
    found = Explainer(model).attribute(x, "input_x_gradient", target=Region(2, mask))
    torch.testing.assert_close(found.scores, x * gradient_of(lambda x: model(x)[:, 2].sum((1, 2)), x))
    assert "the model returns probabilities, which are summed without conversion" in found.notes


def test_rise_masks_the_probability_and_not_its_softmax():
    """The same masks by hand: the sum of the masks, each times the probability of the masked image."""
    model, x = Ended(lambda y: y.softmax(1)).eval(), images(2)
    plain = Ended(lambda y: y).eval()
    options = {"masks": 16, "cells": 4, "target": 1}
    found = Explainer(model).attribute(x, "rise", **options)
    torch.testing.assert_close(found.scores, Explainer(plain).attribute(x, "rise", **options).scores)
    deleted = [
        Explainer(each).evaluate(Attribution(found.scores, x, ClassLogit(1), found.method), "deletion")
        for each in (model, plain)
    ]
    torch.testing.assert_close(*deleted)


# Methods that need no target

NEED_NONE = ["eigencam", "random", "centre", "edges", "constant", "input_norm"]
RETURNS = {
    "an embedding": lambda y: y.flatten(2).mean(2),
    "a map": lambda y: y,
    "tokens": lambda y: y.flatten(2).transpose(1, 2),
    "a dict": lambda y: {"tokens": y.flatten(2), "pooled": y.mean((2, 3))},
    "a normalised embedding": lambda y: F.layer_norm(y.flatten(2).mean(2), (6,)),
}


class Backbone(nn.Module):
    """A small CNN without classes, which returns its maps in some way."""

    def __init__(self, end):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU())
        self.end = end

    def forward(self, x):
        return self.end(self.last(self.stem(x)))


def test_methods_that_need_no_target():
    found = {name for name, method in registry.methods().items() if not method.uses_target}
    assert found == {*NEED_NONE, "attention", "attention_rollout", "attention_gates"}
    assert Method.uses_target  # of third parties, which need not know of it


@pytest.mark.parametrize("returns", RETURNS)
@pytest.mark.parametrize("method", NEED_NONE)
def test_a_model_without_classes_is_explained_without_a_target(method, returns):
    """The same map as with a target by hand; eigencam's is that of the layer that it names, by its SVD."""
    model, x = Backbone(RETURNS[returns]).eval(), images()
    explainer = Explainer(model)
    found = explainer.attribute(x, method)
    assert repr(found.target) == "NoTarget()"
    by_hand = explainer.attribute(
        x, method, target=lambda y: y["pooled"].sum(1) if returns == "a dict" else y.flatten(1).sum(1)
    )
    if returns != "a normalised embedding":  # whose sum is constant, so that its gradient is noise
        torch.testing.assert_close(found.scores, by_hand.scores)
    if method == "eigencam" and returns != "a map":
        layer = next(note for note in found.notes if note.startswith("layer=")).split("'")[1]
        maps = explainer.feature_maps(x, layer=layer).values
        points = maps.flatten(2).transpose(1, 2)
        points = points - points.mean(1, keepdim=True)
        theirs = (points @ torch.linalg.svd(points, full_matrices=False).Vh[:, 0, :, None])[..., 0].reshape(
            3, 1, *maps.shape[2:]
        )
        diagnostics = torch.stack([each.relu() for each in (theirs, -theirs)])
        same = [any(torch.allclose(found.scores[i], sign[i], atol=1e-5) for sign in diagnostics) for i in range(3)]
        assert all(same)


@pytest.mark.parametrize("method", ["attention", "attention_rollout"])
@pytest.mark.parametrize("pooled", [True, False])
def test_attention_of_a_vit_without_classes(method, pooled):
    """The row of the class token, as for a class of the same body; all rows where the model returns tokens."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, depth=2, num_classes=0, global_pool="token" if pooled else ""
    )
    model.eval()
    x = torch.randn(2, 3, 64, 64)
    explainer = Explainer(model)
    found = explainer.attribute(x, method)
    assert repr(found.target) == "NoTarget()"
    function = (lambda y: y[:, 3]) if pooled else (lambda y: y[..., 3].sum(1))
    torch.testing.assert_close(found.scores, explainer.attribute(x, method, target=function).scores)
    assert ("attention of token 0" in found.notes) == pooled
    if method == "attention":
        weights = explainer.attention(x)[-1].weights.mean(1)  # (b, queries, keys)
        rows = weights[:, :1] if pooled else weights
        torch.testing.assert_close(found.scores, rows.mean(1)[:, None, 1:].unflatten(2, (4, 4)))


def test_no_target_is_scored():
    """A control costs no forward; a target that is given is kept."""
    model, x = tiny_cnn(), images()
    explainer = Explainer(model)
    found = explainer.attribute(x, "edges")
    assert explainer.model.image_count == 0
    assert found.target == NoTarget()
    assert explainer.attribute(x, "edges", target=3).target == ClassLogit(3)
    compared = explainer.compare(x, ["edges", "gradcam", "eigencam"])
    assert [type(each.target) for each in compared] == [NoTarget, ClassLogit, NoTarget]
    assert all(each.target == NoTarget() for each in explainer.compare(x, ["edges", "eigencam"]))


def test_metrics_of_maps_without_a_target():
    """They are asked about the target of the maps beside them, or about what no target means: the predicted class."""
    model, x = tiny_cnn(), images()
    explainer = Explainer(model)
    edges, gradcam = explainer.compare(x, ["edges", "gradcam"], targets=[None])
    given = explainer.attribute(x, "edges", target=gradcam.target)
    expected = explainer.evaluate(given, "deletion")
    torch.testing.assert_close(explainer.evaluate(edges, "deletion"), expected)
    torch.testing.assert_close(explainer.measure([edges, gradcam], ["deletion"])[0].values[0], expected)
    other = explainer.attribute(x, "gradcam", target=2)
    expected = explainer.evaluate(explainer.attribute(x, "edges", target=2), "deletion")
    torch.testing.assert_close(explainer.measure([edges, other], ["deletion"])[0].values[0], expected)
    backbone = Explainer(Backbone(RETURNS["tokens"]))
    found = backbone.attribute(x, "edges")
    assert backbone.evaluate(found, "complexity").isfinite().all()
    assert backbone.evaluate(found, "max_sensitivity").isfinite().all()
    with pytest.raises(AttribkitError, match="instead of class scores"):
        backbone.evaluate(found, "deletion")
