"""The composites of zennit and the epsilon rule of captum on the same networks."""

import contextlib
import copy

import pytest
import torch
import torchvision
from attribkit_lrp import LRP
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from attribkit import Explainer

LOW, HIGH = (-2.5, -3.0, -3.5), (3.5, 3.0, 2.5)
COMPOSITES = ["epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1"]


class Pooled(nn.Module):
    """A global average as a module, as zennit's rules require."""

    def __init__(self):
        super().__init__()
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()

    def forward(self, x):
        return self.flatten(self.pool(x))


def vgg_like():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, groups=4, stride=2, dilation=2), nn.ReLU(), nn.AvgPool2d(2),
        nn.ConvTranspose2d(12, 6, 3, stride=2), nn.BatchNorm2d(6, affine=True), nn.LeakyReLU(0.2),
        nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3), nn.Tanh(), Pooled(),
        nn.Linear(8, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.5), nn.Linear(10, 5),
    )  # fmt: skip


NETWORKS = {
    "vgg_like": (vgg_like, 32),
    "resnet_like": (lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5), 32),
    "bottleneck_like": (lambda: ResNet(Bottleneck, [1, 2, 1, 1], num_classes=5, groups=2, width_per_group=16), 32),
    "vgg16": (torchvision.models.vgg16, 32),
    "resnet18": (torchvision.models.resnet18, 64),
    "resnet50": (torchvision.models.resnet50, 64),
}


def network_and_images(name, dtype):
    make, size = NETWORKS[name]
    model = make().to(dtype).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model, torch.randn(2, 3, size, size, dtype=dtype).clamp(-2.4, 2.4)


@contextlib.contextmanager
def without_eps(model):
    """Set the eps of all batch norms to zero.

    After zennit has merged a batch norm into a layer, the batch norm still divides by sqrt(1 + eps), which changes the
    outputs of the network by 5e-6 for each layer.
    """
    norms = [(each, each.eps) for each in model.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)]
    merged = [(each, eps) for each, eps in norms if bool((each.running_var == 1).all())]
    for each, _ in merged:
        each.eps = 0.0
    yield
    for each, eps in merged:
        each.eps = eps


def zennit_relevance(model, x, target, composite, **options):
    zennit = pytest.importorskip("zennit.composites")
    channels = [torch.tensor(bound, dtype=x.dtype)[None, :, None, None] for bound in (LOW, HIGH)]
    bounds = {"low": channels[0], "high": channels[1]} if composite.endswith("box") else {}
    return run_zennit(model, x, target, zennit.COMPOSITES[composite], **bounds, **options)


def run_zennit(model, x, target, composite, *args, **options):
    """Return zennit's relevance; its canonizer merges the batch norms and makes modules of the additions in ResNets."""
    attribution = pytest.importorskip("zennit.attribution")
    from zennit.torchvision import ResNetCanonizer

    def start(output):
        one_hot = torch.zeros_like(output)
        one_hot[range(len(output)), target] = 1
        return one_hot * output

    model = copy.deepcopy(model)
    rules = composite(*args, canonizers=[ResNetCanonizer()], **options)
    with attribution.Gradient(model, rules) as attributor, without_eps(model):
        return attributor(x.clone(), start)[1]


def assert_equal(ours, theirs, tolerance):
    gap = float((ours - theirs).abs().max() / theirs.abs().max())
    assert gap <= tolerance, gap


def cases():
    """Return each small network with each composite, and each large one with one; the rest is slow."""
    for i, name in enumerate(NETWORKS):
        for j, composite in enumerate(COMPOSITES):
            slow = not name.endswith("like") and i % 3 != j
            yield pytest.param(name, composite, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("name", "composite"), list(cases()))
def test_equals_zennit_in_double_precision(name, composite):
    model, x = network_and_images(name, torch.float64)
    ours = Explainer(model).attribute(x, LRP(composite, low=LOW, high=HIGH), target=[1, 3]).scores
    assert_equal(ours, zennit_relevance(model, x, [1, 3], composite), 1e-9)


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", ["vgg_like", "resnet_like", "resnet18"])
def test_equals_zennit_in_single_precision(name, composite):
    model, x = network_and_images(name, torch.float32)
    ours = Explainer(model).attribute(x, LRP(composite, low=LOW, high=HIGH), target=[1, 3]).scores
    assert_equal(ours, zennit_relevance(model, x, [1, 3], composite), 1e-4)


@pytest.mark.parametrize(
    ("composite", "options"),
    [("epsilon_gamma_box", {"gamma": 0.7, "epsilon": 0.3}), ("epsilon_plus", {"epsilon": 0.1})],
)
def test_options_equal_zennit(composite, options):
    model, x = network_and_images("vgg_like", torch.float64)
    ours = Explainer(model).attribute(x, LRP(composite, low=LOW, high=HIGH, **options), target=[1, 3]).scores
    assert_equal(ours, zennit_relevance(model, x, [1, 3], composite, **options), 1e-9)
    other = Explainer(model).attribute(x, LRP(composite, low=LOW, high=HIGH), target=[1, 3]).scores
    assert float((ours - other).abs().max()) > 1e-2 * float(ours.abs().max())


@pytest.mark.parametrize("first_layer", ["flat", "w_square"])
def test_rules_of_the_first_layer_equal_zennit(first_layer):
    rules = pytest.importorskip("zennit.rules")
    from zennit.composites import SpecialFirstLayerMapComposite, layer_map_base
    from zennit.types import Convolution

    first = {"flat": rules.Flat(), "w_square": rules.WSquare(zero_params=["bias"])}[first_layer]
    layers = [*layer_map_base(), (Convolution, rules.ZPlus()), (nn.Linear, rules.Epsilon())]
    model, x = network_and_images("vgg_like", torch.float64)
    ours = Explainer(model).attribute(x, LRP(first_layer=first_layer), target=[1, 3]).scores
    theirs = run_zennit(model, x, [1, 3], SpecialFirstLayerMapComposite, layers, [(Convolution, first)])
    assert_equal(ours, theirs, 1e-9)
    same = Explainer(model).attribute(x, LRP(), target=[1, 3]).scores
    assert float((ours - same).abs().max()) > 1e-2 * float(ours.abs().max())


class Plain(nn.Module):
    """A network of the modules that captum has rules for."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AvgPool2d(2),
            nn.Conv2d(8, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


@pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning")
def test_epsilon_equals_captum():
    captum = pytest.importorskip("captum.attr")
    from captum.attr._utils.lrp_rules import EpsilonRule

    model, x = Plain().double(), torch.randn(2, 3, 24, 24, dtype=torch.float64)
    ours = Explainer(model).attribute(x, LRP("epsilon"), target=[1, 3]).scores
    peer = copy.deepcopy(model)
    for module in peer.modules():
        if not isinstance(module, nn.ReLU | nn.Sequential | Plain):
            # captum also stabilizes max pooling, through which relevance passes unchanged here and in zennit
            module.rule = EpsilonRule(1e-30 if isinstance(module, nn.MaxPool2d) else 1e-6)
    theirs = captum.LRP(peer).attribute(x.clone().requires_grad_(), target=torch.tensor([1, 3])).detach()
    assert_equal(ours, theirs, 1e-9)
