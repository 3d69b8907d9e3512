"""Defaults of torch, checkpoints, missing graphs and mixed types: the same numbers, or one sentence.

The expected values are those of the same call under torch's own defaults, of the same network without the obstacle, or
of a loop.
"""

from contextlib import contextmanager

import pytest
import timm
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from attribkit import AttribkitError, Explainer, Localization, registry

FEW = {
    "rise": {"masks": 24},
    "integrated_gradients": {"steps": 4, "tolerance": 9.0},
    "smoothgrad": {"samples": 3},
    "infidelity_under_noise": {"samples": 8},
}
GATES = {"attention_gates"}  # the networks here have none
ATTENTION = {"attention", "attention_rollout", "gradient_rollout"}
RELU_RULES = {"guided_backprop", "deconvnet", "guided_gradcam"}
FORWARD_ONLY = ["occlusion", "rise"]
METHODS = [name for name in registry.methods() if name not in GATES]
LAYERED = [name for name in METHODS if "layer" in registry.options_of(registry.methods()[name])]


class Net(nn.Module):
    """Two convolutions, an average and a linear head; `around` runs the convolutions."""

    def __init__(self, axes=2, around=lambda run, x: run(x)):
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d}[axes]
        self.first, self.second = conv(3, 8, 3, stride=2, padding=1), conv(8, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 4)
        self.around = around

    def forward(self, x):
        maps = self.around(lambda x: self.second(self.first(x).relu()).relu(), x)
        return self.head(maps.flatten(2).mean(2))


def net(**options):
    torch.manual_seed(0)
    return Net(**options).eval()


def images(axes=2):
    return torch.rand(2, 3, *(32,) * axes, generator=torch.Generator().manual_seed(1)) - 0.5


@contextmanager
def default_type(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def other_defaults():
    """A tensor that is made on the device "meta" has no numbers: whatever reads one fails."""
    with default_type(torch.float64), torch.device("meta"):
        yield


def scores_or_refusal(model, x, name, **options):
    try:
        return Explainer(model).attribute(x, name, target=1, **options, **FEW.get(name, {})).scores
    except AttribkitError as error:
        return str(error)


def answers(model, x, mask):
    """What every method, metric and visualizer makes of the images, by name."""
    explainer = Explainer(model)
    for name in METHODS:
        yield name, scores_or_refusal(model, x, name)
    saliency = explainer.attribute(x, "saliency", target=1)
    for name, metric in registry.metrics().items():
        needs = {"mask": mask} if issubclass(metric, Localization) else {}
        yield name, explainer.evaluate(saliency, name, **needs, **FEW.get(name, {}))
    for name in registry.visualizers():
        yield name, explainer.visualize(1, name, size=tuple(x.shape[1:]), steps=3).images
    yield "check", [str(each) for each in explainer.check(x)]
    yield "layers", [str(each) for each in explainer.layers(x)]


def small_vit():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_classes=4)
    nn.init.normal_(model.head.weight)
    return model.eval()


NETWORKS = {"convolutions": net, "transformer": small_vit}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.slow
def test_torchs_default_type_and_device_change_nothing(name):
    mask = torch.zeros(2, 32, 32, dtype=torch.bool)
    mask[:, 8:20, 10:28] = True
    model, x = NETWORKS[name](), images()
    expected = dict(answers(model, x, mask))
    with other_defaults():
        found = dict(answers(model, x, mask))
    assert found.keys() == expected.keys()
    for each, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert found[each].dtype == value.dtype, each
            torch.testing.assert_close(found[each], value, rtol=1e-5, atol=1e-6, equal_nan=True, msg=each)
        else:
            assert found[each] == value, each


def reentrant(run, x):
    return checkpoint(run, x, use_reentrant=True)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("name", [each for each in METHODS if each not in ATTENTION])
def test_a_reentrant_checkpoint_is_refused_or_does_not_matter(name):
    x = images()
    found = scores_or_refusal(net(around=reentrant), x, name)
    if isinstance(found, str):
        assert "gradient checkpointing" in found
        assert name not in FORWARD_ONLY
    else:
        torch.testing.assert_close(found, scores_or_refusal(net(), x, name))


def without_graph(run, x):
    with torch.no_grad():
        return run(x)


def without_versions(run, x):
    with torch.inference_mode():
        maps = run(x)
    return maps.clone()


@pytest.mark.parametrize("around", [without_graph, without_versions])
@pytest.mark.parametrize("layer", [None, "second"])
@pytest.mark.parametrize("name", LAYERED)
def test_a_layer_without_a_graph_is_refused_or_does_not_matter(name, layer, around):
    x = images()
    found = scores_or_refusal(net(around=around), x, name, layer=layer)
    if isinstance(found, str):
        assert "has no gradient with respect to layer" in found or "gradient of the score does not reach" in found
        assert layer is None or name not in ("eigencam", "scorecam", "ablationcam")
    else:
        torch.testing.assert_close(found, scores_or_refusal(net(), x, name, layer=layer))


class HalfOutput(Net):
    """The scores of a network of float64, rounded to half precision."""

    def forward(self, x):
        return super().forward(x).half()


@pytest.mark.parametrize("name", [each for each in METHODS if each not in ATTENTION])
def test_outputs_of_half_precision_behind_a_model_of_float64(name):
    x = images().double()
    torch.manual_seed(0)
    rounded = HalfOutput().eval().double()
    found, expected = scores_or_refusal(rounded, x, name), scores_or_refusal(net().double(), x, name)
    assert found.dtype == expected.dtype == torch.float64
    near = 1e-2 * float(expected.abs().max())
    if name in ("occlusion", "ablationcam"):
        near = 2e-3  # differences of scores that are rounded to 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=near)


def test_rise_of_signals_is_the_average_of_masks_by_their_scores():
    x = images(1)
    model = net(axes=1)
    made = registry.methods()["rise"](masks=300)
    found = Explainer(model).attribute(x, made, target=1).scores
    masks = torch.cat(list(made._blocks(x)))  # (k, 1, 32)
    assert masks.shape == (300, 1, 32)
    assert masks.min() >= 0
    assert masks.max() <= 1
    with torch.no_grad():
        scores = torch.stack([model(x * mask).softmax(1)[:, 1] for mask in masks], 1)
    expected = torch.stack([(each[:, None, None] * masks).sum(0) for each in scores]) / (300 * 0.5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
