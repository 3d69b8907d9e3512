"""TCAV against captum and autograd, planted concepts, and what is refused or noted."""

import attribkit_concepts as plugin
import attribkit_concepts.classifier as classifiers
import pytest
import torch
from captum.concept import TCAV as CaptumTCAV
from captum.concept import Classifier, Concept
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.utils.data import DataLoader

import attribkit.testing as testing
from attribkit import Explainer, InvalidInput, UnsupportedModel, load_model


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 5, 3, 2, padding=1), nn.ReLU(),
            nn.Conv2d(5, 4, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
        ).double()  # fmt: skip


def red(count, seed):
    """Noise with more of the first channel."""
    x = noise(count, 3, 8, 8, seed=seed)
    x[:, 0] += 2
    return x


def channel_network(weights):
    """A score that is a smooth function of weighted channels, with the images as activation of layer 0."""
    model = nn.Sequential(
        nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1)
    ).double()
    model[0].weight.data = torch.eye(3, dtype=torch.float64)[..., None, None]
    model[3].weight.data = torch.tensor([weights], dtype=torch.float64)
    return model


def measured(model=None, pool=60, **options):
    arguments = {"runs": 3, "layer": "2", "target": 1} | options
    return plugin.tcav(
        Explainer(model or network()), red(12, 1), noise(pool, 3, 8, 8, seed=2), noise(7, 3, 8, 8, seed=3), **arguments
    )


# Against other computations


@pytest.mark.parametrize("features", ["cells", "mean"])
def test_derivatives_are_those_of_autograd(features):
    result, model, x = measured(features=features), network(), noise(7, 3, 8, 8, seed=3)
    activation = model[:3](x).detach().requires_grad_()
    model[3:](activation)[:, 1].sum().backward()
    gradient = activation.grad.flatten(1) if features == "cells" else activation.grad.flatten(2).sum(2)
    expected = gradient @ result.vectors.T
    torch.testing.assert_close(result.derivatives, expected.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(result.scores, (expected > 0).double().mean(0))


def test_derivatives_are_finite_differences():
    result, model, x, step = measured(), network(), noise(7, 3, 8, 8, seed=3), 1e-6
    activation, vector = model[:3](x), result.vectors[0].view(1, 5, 4, 4)
    change = (model[3:](activation + step * vector) - model[3:](activation - step * vector))[:, 1] / (2 * step)
    torch.testing.assert_close(result.derivatives[0], change.detach(), rtol=0, atol=1e-8)


class FixedClassifier(Classifier):
    """A classifier of captum with the weights of another one."""

    def __init__(self, vector):
        self.vector = vector

    def train_and_eval(self, dataloader, **_):
        return {"accs": torch.tensor(1.0)}

    def weights(self):
        return torch.stack([self.vector, -self.vector])

    def classes(self):
        return [0, 1]


def test_scores_are_those_of_captum(tmp_path):
    result, model = measured(), network()
    x = noise(7, 3, 8, 8, seed=3)
    for run in range(3):
        concepts = [Concept(i, f"c{i}", DataLoader(noise(2, 3, 8, 8, seed=i), batch_size=1)) for i in range(2)]
        captum = CaptumTCAV(
            model, "2", classifier=FixedClassifier(result.vectors[run]), save_path=str(tmp_path / str(run))
        )
        scores = captum.interpret(x, [concepts], target=1)["0-1"]["2"]
        assert float(scores["sign_count"][0]) == pytest.approx(float(result.scores[run]))
        assert float(scores["magnitude"][0]) == pytest.approx(float(result.derivatives[run].mean()), rel=1e-5)


def test_the_vector_is_the_normal_of_the_classifier():
    concept, others = red(30, 1).flatten(1), noise(30, 3, 8, 8, seed=2).flatten(1)
    cav = classifiers.train_cav(concept, others, 1 / 3, None, seed=4)
    assert float(cav.vector.norm()) == pytest.approx(1)
    assert float((concept @ cav.vector).mean()) > float((others @ cav.vector).mean())
    scaled = classifiers.train_cav(1000 * concept, 1000 * others, 1 / 3, LogisticRegression(max_iter=1000), seed=4)
    torch.testing.assert_close(scaled.vector, cav.vector, rtol=0, atol=1e-6)
    assert scaled.accuracy == cav.accuracy == 1


def test_the_p_value_is_that_of_welch():
    result = measured(runs=6)
    means, variances = zip(
        *((float(s.mean()), float(s.var()) / 6) for s in (result.scores, result.control_scores)), strict=True
    )
    freedom = sum(variances) ** 2 / sum(variance**2 / 5 for variance in variances)
    expected = 2 * student.sf(abs(means[0] - means[1]) / sum(variances) ** 0.5, freedom)
    assert result.p_value == pytest.approx(expected)


# Planted concepts


@pytest.mark.parametrize("classifier", [None, SGDClassifier(alpha=0.01)], ids=["logistic", "sgd"])
@pytest.mark.parametrize("features", ["cells", "mean"])
def test_a_concept_that_the_score_depends_on(features, classifier):
    options = {"layer": "0", "target": 0, "runs": 30, "features": features, "classifier": classifier, "pool": 400}
    positive = measured(channel_network([1.0, 0.2, -0.2]), **options)
    negative = measured(channel_network([-1.0, 0.2, -0.2]), **options)
    assert positive.score == 1
    assert negative.score == 0
    assert positive.p_value < 0.01
    assert negative.p_value < 0.01
    assert float(positive.accuracy.mean()) > 0.9
    assert 0.2 < float(positive.control_accuracy.mean()) < 0.8
    assert not any("better than chance" in note for note in positive.notes)


def test_a_concept_that_does_not_differ_from_random_images():
    result = plugin.tcav(
        Explainer(channel_network([1.0, 0.2, -0.2])),
        noise(12, 3, 8, 8, seed=5),
        noise(400, 3, 8, 8, seed=2),
        noise(7, 3, 8, 8, seed=3),
        target=0,
        layer="0",
        runs=12,
    )
    assert any("the classifiers are not better than chance" in note for note in result.notes)
    assert result.p_value > 0.01


def test_equal_seeds_give_equal_results():
    first = measured(runs=2, seed=1)
    torch.rand(1)
    again, other = measured(runs=2, seed=1), measured(runs=2, seed=2)
    assert torch.equal(first.derivatives, again.derivatives)
    assert first.p_value == again.p_value
    assert not torch.equal(first.vectors, other.vectors)


# Notes


def test_shared_random_images_are_noted():
    assert any("the runs share random images (3 control runs with 24 of 60)" in note for note in measured().notes)
    few = plugin.tcav(Explainer(network()), red(12, 1), noise(10, 3, 8, 8), noise(2, 3, 8, 8, seed=3), 1, "2", runs=2)
    assert any("each run uses 5 of the 12 concept images" in note for note in few.notes)


def test_zero_gradients_are_noted():
    model = nn.Sequential(channel_network([1.0, 0.0, 0.0]), nn.ReLU())
    model[0][3].bias.data.fill_(-100)
    result = measured(model, layer="0.0", target=0, runs=2)
    assert any("the gradient at the layer is zero for images [0, 1, 2, 3, 4, 5, 6]" in note for note in result.notes)
    assert result.score == 0
    assert result.p_value == 1


def test_linear_scores_are_noted():
    note = "all images have the same derivative, since the score is linear in the layer: each score is 0 or 1"
    assert note in measured(channel_network([1.0, 0.2, -0.2]), layer="0", target=0).notes
    assert note not in measured().notes


def test_tokens_without_a_position_are_noted():
    model, _ = load_model("zoo:vit")
    x = torch.randn(12, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    result = plugin.tcav(Explainer(model), x[:4], x[4:], x[:2], 1, "blocks.1", runs=2, features="mean")
    assert "the 3 tokens before the patches are not part of the activation" in result.notes


def test_the_repr_states_the_result():
    text = repr(measured())
    assert text.startswith("Tcav(score ")
    assert "3 runs, layer '2', ClassLogit(index=1)" in text


# The method


@pytest.mark.parametrize("layer", ["1", "3"])
def test_the_sensitivity_satisfies_the_contract(layer):
    channels = {"1": 4, "3": 6}[layer]
    vector = tuple(torch.randn(channels, generator=torch.Generator().manual_seed(0)).tolist())
    method = plugin.ConceptSensitivity(vector, layer)
    report = testing.report_conformance(method, testing.tiny_cnn(), noise(3, 3, 16, 16).float())
    constant = {"double_precision"} if layer == "3" else set()  # relative to the range of a constant map
    assert {failure.check for failure in report.failures} <= constant, report
    assert repr(method) == f"ConceptSensitivity(vector=<{channels} numbers>, layer={layer!r})"


# What is refused, and what is left as found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 1}, "runs must be an integer >= 2, got 1: the t-test needs several scores"),
        ({"seed": -1}, "seed must be an integer >= 0"),
        ({"features": "all"}, "features must be one of 'cells', 'mean', got 'all'"),
        ({"test_fraction": 0}, "test_fraction must be a number > 0 and < 1, got 0"),
        ({"test_fraction": 0.99}, "A run needs at least 4 images of each class"),
        ({"classifier": KNeighborsClassifier()}, "classifier must be linear, with one coefficient in coef_"),
        ({"layer": "7"}, "does not have a grid"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(InvalidInput, match=message):
        measured(**options)


def test_too_few_images_and_wrong_vectors_are_refused():
    explainer, x = Explainer(network()), noise(7, 3, 8, 8)
    with pytest.raises(InvalidInput, match=r"random_images 8, got 3 and 7 with test_fraction=0.333"):
        plugin.tcav(explainer, x[:3], x, x, 1, "2")
    with pytest.raises(
        InvalidInput, match=r"vector must have 5 numbers, .* or 80, one for each channel and cell, got 2"
    ):
        explainer.attribute(x, plugin.ConceptSensitivity((1.0, 2.0), "2"))
    with pytest.raises(UnsupportedModel, match="no gradient with respect to layer '2'"):
        plugin.tcav(explainer, red(8, 1), noise(16, 3, 8, 8), x, lambda outputs: outputs[:, 0].detach(), "2", 2)


def test_the_model_is_left_as_found():
    model = testing.tiny_cnn()
    before, x = testing.model_state(model), torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plugin.tcav(Explainer(model), x[:6], x, x[:3], 1, "2", runs=2)
    assert not testing.changes(before, testing.model_state(model))
