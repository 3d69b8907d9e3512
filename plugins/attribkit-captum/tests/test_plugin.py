"""Names, options, refusals, notes and warnings of the methods of captum."""

import inspect
import warnings

import attribkit_captum as plugin
import captum.attr
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.checkpoint import checkpoint

import attribkit.testing as testing
import attribkit.zoo as zoo
from attribkit import Explainer, InvalidInput, Probability, UnknownName, UnsupportedModel, load_model, register


def images(b=2, side=16):
    return torch.randn(b, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def explainer():
    return Explainer(testing.tiny_cnn())


@pytest.mark.parametrize("method", plugin.METHODS, ids=lambda method: method.__name__)
def test_names_and_documentation(method):
    assert method in plugin.attribkit_methods()
    assert method.name == f"captum.{method.__name__}"
    assert hasattr(captum.attr, method.__name__)
    assert "Reference:" in method.__doc__
    assert method.source
    for option in inspect.signature(method).parameters:
        assert f"{option}:" in method.__doc__, option


@pytest.mark.parametrize("method", plugin.METHODS, ids=lambda method: method.__name__)
def test_defaults_are_those_of_captum(method):
    own = {"baseline", "seed", "layer", "feature_mask", "perturbations_per_eval", "sliding_window_shapes", "strides"}
    own |= {"alpha", "distance_mode", "kernel_width", "rule", "epsilon", "gamma", "attribution_method"}
    peer = getattr(captum.attr, method.__name__)
    theirs = {**inspect.signature(peer.__init__).parameters, **inspect.signature(peer.attribute).parameters}
    for name, option in inspect.signature(method).parameters.items():
        assert name in own or option.default == theirs[name].default, name


def test_the_registered_name():
    register(plugin.DeepLift)
    attribution = Explainer(testing.tiny_cnn()).attribute(images(), "captum.DeepLift", baseline="blur")
    assert attribution.method == plugin.DeepLift(baseline="blur")


def test_baselines_and_segments_of_each_image(explainer):
    x = images(3)
    baseline, labels = images(3).flip(0), torch.arange(3 * 16).reshape(3, 4, 4) % 7
    labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    for make in (
        lambda i: plugin.IntegratedGradients(baseline=baseline[i], n_steps=3),
        lambda i: plugin.DeepLiftShap(baseline=(baseline[i], "blur")),
        lambda i: plugin.KernelShap(baseline=baseline[i], feature_mask=labels[i]),
    ):
        together = explainer.attribute(x, make(slice(None)), target=1).scores
        for i in range(3):
            alone = explainer.attribute(x[i : i + 1], make(i), target=1).scores
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-6)


def test_perturbations_share_forwards(explainer):
    forwards, counts = [], []
    labels = (torch.arange(256) // 32).reshape(16, 16)
    with explainer.model.module.register_forward_hook(lambda *_: forwards.append(1)):
        for rows in (1, 8):
            start, before = len(forwards), explainer.model.image_count
            method = plugin.FeatureAblation(feature_mask=labels, perturbations_per_eval=rows)
            explainer.attribute(images(1), method, target=1)
            counts.append((explainer.model.image_count - before, len(forwards) - start))
    assert counts[0][0] >= 9
    assert counts[1][1] <= counts[0][1] - 6


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            lambda: plugin.ShapleyValues(feature_mask=torch.arange(256).reshape(16, 16) // 29),
            "9 segments.*3,265,920 fo",
        ),
        (lambda: plugin.Occlusion(sliding_window_shapes=17), "larger than the image"),
        (lambda: plugin.Occlusion(sliding_window_shapes=4, strides=5), "leaves pixels uncovered"),
        (lambda: plugin.Occlusion(sliding_window_shapes=(1, 2, 3, 4)), "must be one size"),
        (lambda: plugin.NoiseTunnel(attribution_method=plugin.LayerActivation()), "captum.NoiseTunnel accepts"),
        (lambda: plugin.NoiseTunnel(attribution_method="Lime"), "attribution_method must be"),
        (lambda: plugin.IntegratedGradients(method="simpson"), "method must be one of"),
        (lambda: plugin.DeepLift(baseline="blue"), "baseline must be"),
        (lambda: plugin.KernelShap(n_samples=0), "n_samples must be"),
    ],
)
def test_invalid_options(explainer, method, message):
    with pytest.raises(InvalidInput, match=message):
        explainer.attribute(images(), method())


class Odd(nn.Module):
    """A network with an operation after the first convolution."""

    def __init__(self, operation):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 14 * 14, 5)
        self.operation = operation

    def forward(self, x):
        return self.head(self.operation(self.conv(x)).flatten(1))


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (F.gelu, "Gelu"),
        (lambda maps: maps.relu() * 2, "Mul"),
        (lambda maps: maps.relu() * maps.mean((2, 3), keepdim=True).sigmoid(), "Mul"),
        (lambda maps: F.avg_pool2d(maps, 3, 1, 1), "AvgPool2D"),
        (lambda maps: maps.relu() + 1, "Add"),
        (lambda maps: F.conv2d(maps, torch.ones(4, 1, 3, 3), padding=1, groups=4), "Convolution"),
    ],
)
def test_lrp_refuses_operations_without_a_rule(operation, name):
    with pytest.raises(UnsupportedModel, match=rf"captum.LRP does not support operations .*\b{name}\b"):
        Explainer(Odd(operation)).attribute(images(), plugin.LRP())


@pytest.mark.parametrize("target", [Probability(1), lambda outputs: outputs[:, 0] - outputs[:, 1]])
def test_lrp_refuses_targets_that_do_not_select_an_output(explainer, target):
    with pytest.raises(UnsupportedModel, match=r"captum\.LRP does not support"):
        explainer.attribute(images(), plugin.LRP(), target=target)


def test_lrp_accepts_functions_that_move_or_select_elements():
    def operation(maps):
        first, second = maps.relu().chunk(2, 1)
        return F.max_pool2d(torch.cat([second, first], 1), 3, 1, 1)

    found = Explainer(Odd(operation)).attribute(images(), plugin.LRP(), target=1)
    assert found.scores.abs().max() > 0


@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution", "GuidedGradCam"])
def test_models_without_relus_are_refused(name):
    with pytest.raises(UnsupportedModel, match="does not run any"):
        Explainer(Odd(F.gelu)).attribute(images(), getattr(plugin, name)())


def test_activations_other_than_relu_are_noted():
    (note,) = Explainer(Odd(lambda maps: F.gelu(maps).relu())).attribute(images(), plugin.GuidedBackprop()).notes
    assert note == "only ReLUs change the gradient; it is the plain one at Gelu"
    assert not Explainer(Odd(F.relu)).attribute(images(), plugin.GuidedBackprop()).notes


def test_checkpointing_is_refused():
    class Checkpointed(Odd):
        def forward(self, x):
            maps = checkpoint(lambda y: self.relu(self.conv(y)), x, use_reentrant=False)
            return self.head(maps.flatten(1))

    model = Checkpointed(None)
    model.relu = nn.ReLU()
    with pytest.raises(UnsupportedModel, match="gradient checkpointing"):
        Explainer(model).attribute(images(), plugin.GuidedBackprop())


def test_deeplift_notes_what_it_cannot_explain():
    (note,) = Explainer(Odd(F.gelu)).attribute(images(), plugin.DeepLift()).notes
    assert "operations without a rule" in note
    (note,) = Explainer(Odd(F.relu)).attribute(images(), plugin.DeepLift()).notes
    assert note.endswith("at most 0.00%")


def test_a_path_that_depends_on_the_image():
    def branch(maps):
        return maps.relu() if maps.mean() > 0 else maps

    notes = Explainer(Odd(branch)).attribute(images(), plugin.DeepLift()).notes
    assert any("may depend on the image" in note for note in notes)


class Identity(nn.Module):
    """A model that computes something else if one of its modules is replaced."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 5)

    def forward(self, x):
        maps = self.conv(x)
        maps = self.relu(maps) if type(self.relu) is nn.ReLU else maps * 3
        return self.head(maps.mean((2, 3)))


def test_a_copy_with_another_score_is_refused():
    with pytest.raises(UnsupportedModel, match="depends on the identity of its modules"):
        Explainer(Identity()).attribute(images(), plugin.DeepLift())


def test_a_model_that_cannot_be_copied_is_refused(explainer):
    class Uncopyable(Odd):
        def __deepcopy__(self, memo):
            raise RuntimeError("no")

    with pytest.raises(UnsupportedModel, match="cannot be copied"):
        Explainer(Uncopyable(F.relu)).attribute(images(), plugin.GuidedBackprop())


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.conv2, self.relu, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.relu(self.conv2(self.relu(self.conv(x)))).mean((2, 3)))


@pytest.mark.parametrize("name", ["LayerActivation", "LayerGradCam", "LayerDeepLift", "GuidedGradCam"])
def test_layers_that_run_twice_are_refused(name):
    with pytest.raises(UnsupportedModel, match="one of several outputs or runs"):
        Explainer(Twice()).attribute(images(), getattr(plugin, name)(layer="relu"))
    with pytest.raises(UnknownName):
        Explainer(Twice()).attribute(images(), getattr(plugin, name)(layer="rule"))


def test_layers_of_tokens():
    explainer = Explainer(testing.tiny_transformer())
    with pytest.raises(UnsupportedModel, match=r"captum.LayerGradCam averages gradients"):
        explainer.attribute(images(), plugin.LayerGradCam())
    layer = "blocks.1.norm1"
    found = explainer.attribute(images(), plugin.LayerGradientXActivation(layer=layer), target=1).scores
    activation = []
    module, x = explainer.model.module.eval(), images().requires_grad_()
    with module.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: activation.append(output)):
        score = module(x)[:, 1].sum()
    gradient = torch.autograd.grad(score, activation[0])[0]
    expected = (activation[0] * gradient)[:, 1:].sum(2).reshape(2, 1, 4, 4)
    torch.testing.assert_close(found, expected.detach())


def test_an_underdetermined_regression_is_noted(explainer):
    labels = torch.arange(256).reshape(16, 16) // 8
    notes = explainer.attribute(images(), plugin.KernelShap(feature_mask=labels)).notes
    assert any("n_samples=25 is less than the 32 segments" in note for note in notes)


def test_warnings_of_the_model_remain_and_those_of_solvers_become_notes():
    def warn(maps):
        warnings.warn("my own", UserWarning, stacklevel=1)
        return maps.relu()

    with pytest.warns(UserWarning, match="my own"):
        Explainer(Odd(warn)).attribute(images(), plugin.GuidedBackprop())

    method = plugin.Lime(feature_mask=torch.arange(256).reshape(16, 16) // 32, alpha=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notes = Explainer(Odd(F.relu)).attribute(images(1), method).notes
    assert any("the regression reports" in note for note in notes)


def test_random_numbers_repeat_and_the_global_generators_are_restored(explainer):
    state = torch.get_rng_state()
    first = explainer.attribute(images(), plugin.GradientShap(stdevs=0.2))
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(first.scores, explainer.attribute(images(), plugin.GradientShap(stdevs=0.2)).scores)
    other = explainer.attribute(images(), plugin.GradientShap(stdevs=0.2, seed=1))
    assert not torch.equal(first.scores, other.scores)


def test_a_trained_model_and_a_scene():
    model, preprocess = load_model("zoo:cnn")
    x = preprocess(Image.fromarray(zoo.scene(0).image))[None]
    attribution = Explainer(model).attribute(x, plugin.DeepLift())
    assert attribution.notes[0].endswith("at most 0.00%")
