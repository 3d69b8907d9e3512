"""Every method against captum, called by hand on a plain model, and models that captum itself explains wrongly."""

import contextlib

import attribkit_captum as plugin
import captum.attr as peer
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr._utils.custom_modules import Addition_Module
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, GammaRule
from torch import nn

from attribkit import Explainer, Unit, substrate_images

SEED = 3
LABELS = torch.arange(4)[:, None].expand(4, 8).reshape(4, 8).repeat_interleave(4, 0)[:, torch.arange(16) // 2]
HALVES = LABELS + 4 * (torch.arange(16) // 8)[None]  # 8 segments of an image of 16 x 16 pixels


class Clone(nn.Module):
    """Separates two modules: captum's DeepLift is incomplete if a ReLU's output is the input of a max pooling."""

    def forward(self, x):
        return x.clone()


class Net(nn.Module):
    """A CNN with ReLUs, max pooling and a linear head, whose scores a second input multiplies."""

    def __init__(self, inplace=False):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1),
            nn.BatchNorm2d(6), nn.ReLU(inplace),
        )  # fmt: skip
        self.head = nn.Linear(6 * 64, 5)

    def forward(self, x, scale=None):
        scores = self.head(self.body(x).flatten(1))
        return scores if scale is None else scores * scale[:, None]


@contextlib.contextmanager
def generators():
    """The generators that captum draws from, seeded as the methods do."""
    with torch.random.fork_rng([]):
        torch.manual_seed(SEED)
        np.random.seed(SEED)  # noqa: NPY002
        yield


def networks():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        clean, model = Net().double().eval(), Net(inplace=True).double()
        nn.init.uniform_(clean.body[4].running_var, 0.5, 2.0)
        x = torch.randn(3, 3, 16, 16).double()
    model.load_state_dict(clean.state_dict())
    return clean, model, x


def blur(x):
    return substrate_images(x.detach(), "blur")


def both(x):
    return torch.cat([torch.zeros_like(x), blur(x)]).detach()


def summed(attributions):
    return attributions.sum(1, keepdim=True)


def conv(net):
    return net.body[3]


def rules(net, make):
    for each in net.modules():
        if isinstance(each, nn.Conv2d | nn.Linear):
            each.rule = make()
    return peer.LRP(net)


PATH = {"n_steps": 6, "baseline": "blur"}
SEGMENTS = {"feature_mask": HALVES, "baseline": "blur", "seed": SEED}
LIME = {"alpha": 1e-4, "distance_mode": "euclidean", "kernel_width": 20.0}

# Each method, and captum by hand: a function of the network, one image (1, 3, 16, 16) and its class.
ORACLES = {
    plugin.Saliency(): lambda net, x, t: peer.Saliency(net).attribute(x, t),
    plugin.Saliency(abs=False): lambda net, x, t: peer.Saliency(net).attribute(x, t, abs=False),
    plugin.InputXGradient(): lambda net, x, t: peer.InputXGradient(net).attribute(x, t),
    plugin.IntegratedGradients(): lambda net, x, t: peer.IntegratedGradients(net).attribute(x, target=t),
    plugin.IntegratedGradients(method="riemann_trapezoid", multiply_by_inputs=False, **PATH): lambda net, x, t: (
        peer.IntegratedGradients(net, False).attribute(x, blur(x), t, n_steps=6, method="riemann_trapezoid")
    ),
    plugin.GradientShap(stdevs=0.3, seed=SEED, n_samples=7): lambda net, x, t: peer.GradientShap(net).attribute(
        x, both(x), 7, 0.3, t
    ),
    plugin.NoiseTunnel(seed=SEED): lambda net, x, t: peer.NoiseTunnel(peer.Saliency(net)).attribute(x, target=t),
    plugin.NoiseTunnel(
        attribution_method=plugin.IntegratedGradients(**PATH), nt_type="vargrad", stdevs=0.5, seed=SEED
    ): lambda net, x, t: peer.NoiseTunnel(peer.IntegratedGradients(net)).attribute(
        x, "vargrad", 5, stdevs=0.5, target=t, baselines=blur(x), n_steps=6
    ),
    plugin.NoiseTunnel(attribution_method="GuidedBackprop", seed=SEED): lambda net, x, t: peer.NoiseTunnel(
        peer.GuidedBackprop(net)
    ).attribute(x, target=t),
    plugin.NoiseTunnel(attribution_method="DeepLift", nt_type="smoothgrad_sq", seed=SEED): lambda net, x, t: (
        peer.NoiseTunnel(peer.DeepLift(net)).attribute(x, "smoothgrad_sq", nt_samples_batch_size=1, target=t)
    ),
    plugin.GuidedBackprop(): lambda net, x, t: peer.GuidedBackprop(net).attribute(x, t),
    plugin.Deconvolution(): lambda net, x, t: peer.Deconvolution(net).attribute(x, t),
    plugin.GuidedGradCam(layer="body.3"): lambda net, x, t: peer.GuidedGradCam(net, conv(net)).attribute(x, t),
    plugin.GuidedGradCam(layer="body.5", interpolate_mode="bilinear"): lambda net, x, t: peer.GuidedGradCam(
        net, net.body[5]
    ).attribute(x, t, interpolate_mode="bilinear"),
    plugin.DeepLift(baseline="blur"): lambda net, x, t: peer.DeepLift(net).attribute(x, blur(x), t),
    plugin.DeepLift(multiply_by_inputs=False): lambda net, x, t: peer.DeepLift(net, False).attribute(x, target=t),
    plugin.DeepLiftShap(): lambda net, x, t: peer.DeepLiftShap(net).attribute(x, both(x), t),
    plugin.LRP(): lambda net, x, t: peer.LRP(net).attribute(x, t),
    plugin.LRP(rule="gamma", gamma=0.4): lambda net, x, t: rules(net, lambda: GammaRule(0.4)).attribute(x, t),
    plugin.LRP(rule="alpha1_beta0"): lambda net, x, t: rules(net, Alpha1_Beta0_Rule).attribute(x, t),
    plugin.FeatureAblation(**SEGMENTS): lambda net, x, t: peer.FeatureAblation(net).attribute(
        x, blur(x), t, feature_mask=HALVES[None, None]
    ),
    plugin.Occlusion(sliding_window_shapes=4, strides=2, baseline="blur"): lambda net, x, t: peer.Occlusion(
        net
    ).attribute(x, (3, 4, 4), (3, 2, 2), blur(x), t),
    plugin.Occlusion(sliding_window_shapes=(1, 8, 4), strides=(1, 4, 4)): lambda net, x, t: peer.Occlusion(
        net
    ).attribute(x, (1, 8, 4), (1, 4, 4), target=t),
    plugin.ShapleyValueSampling(n_samples=4, **SEGMENTS): lambda net, x, t: peer.ShapleyValueSampling(net).attribute(
        x, blur(x), t, feature_mask=HALVES[None, None], n_samples=4
    ),
    plugin.ShapleyValues(feature_mask=LABELS, baseline="blur"): lambda net, x, t: peer.ShapleyValues(net).attribute(
        x, blur(x), t, feature_mask=LABELS[None, None]
    ),
    plugin.KernelShap(n_samples=40, **SEGMENTS): lambda net, x, t: peer.KernelShap(net).attribute(
        x, blur(x), t, feature_mask=HALVES[None, None], n_samples=40
    ),
    plugin.Lime(n_samples=40, **SEGMENTS, **LIME): lambda net, x, t: peer.Lime(
        net,
        peer._core.lime.SkLearnLasso(alpha=1e-4),
        peer._core.lime.get_exp_kernel_similarity_function("euclidean", 20.0),
    ).attribute(x, blur(x), t, feature_mask=HALVES[None, None], n_samples=40),
    plugin.LayerGradCam(layer="body.3"): lambda net, x, t: peer.LayerGradCam(net, conv(net)).attribute(x, t),
    plugin.LayerGradCam(layer="body.5", relu_attributions=True): lambda net, x, t: peer.LayerGradCam(
        net, net.body[5]
    ).attribute(x, t, relu_attributions=True),
    plugin.LayerActivation(layer="body.3"): lambda net, x, t: peer.LayerActivation(net, conv(net)).attribute(x),
    plugin.LayerGradientXActivation(layer="body.3"): lambda net, x, t: peer.LayerGradientXActivation(
        net, conv(net)
    ).attribute(x, t),
    plugin.LayerConductance(layer="body.3", **PATH): lambda net, x, t: peer.LayerConductance(net, conv(net)).attribute(
        x, blur(x), t, n_steps=6
    ),
    plugin.InternalInfluence(layer="body.1", **PATH): lambda net, x, t: peer.InternalInfluence(
        net, net.body[1]
    ).attribute(x, blur(x), t, n_steps=6),
    plugin.LayerIntegratedGradients(layer="body.3", **PATH): lambda net, x, t: peer.LayerIntegratedGradients(
        net, conv(net)
    ).attribute(x, blur(x), t, n_steps=6),
    plugin.LayerGradientShap(layer="body.3", seed=SEED): lambda net, x, t: peer.LayerGradientShap(
        net, conv(net)
    ).attribute(x, both(x), target=t),
    plugin.LayerDeepLift(layer="body.3", baseline="blur"): lambda net, x, t: peer.LayerDeepLift(
        net, conv(net)
    ).attribute(x, blur(x), t),
    plugin.LayerDeepLiftShap(layer="body.3"): lambda net, x, t: peer.LayerDeepLiftShap(net, conv(net)).attribute(
        x, both(x), t
    ),
}
CASES = [pytest.param(method, oracle, id=f"{method.name}-{i}") for i, (method, oracle) in enumerate(ORACLES.items())]


def by_hand(method, oracle, x, targets, factors):
    """Return captum's attributions of single images in the form of the plugin's scores."""
    maps = []
    for image, target, factor in zip(x, targets, factors, strict=True):
        clean = networks()[0].requires_grad_(False)
        with torch.no_grad():
            clean.head.weight.mul_(factor)
            clean.head.bias.mul_(factor)
        if "DeepLift" in repr(method):
            clean.body[1] = nn.Sequential(clean.body[1], Clone())
        with generators():
            attributions = oracle(clean, image[None].clone().requires_grad_(), target).detach()
        if method.name.startswith("captum.Layer") or method.name == "captum.InternalInfluence":
            attributions = summed(attributions)
        one_map = isinstance(method, plugin.FeatureAblation.__mro__[1]) or (
            isinstance(method, plugin.Occlusion) and method.strides == 2
        )
        maps.append(attributions[:, :1] if one_map else attributions)
    return torch.cat(maps)


@pytest.mark.filterwarnings("ignore")  # captum's own, when it is called by hand
@pytest.mark.parametrize(("method", "oracle"), CASES)
def test_captum_by_hand(method, oracle):
    _, model, x = networks()
    explainer = Explainer(model)
    factors = [1.0, -2.0, 0.5]
    for targets, inputs, changes in [
        (2, None, [1.0] * 3),
        ([0, 3, 1], {"scale": torch.tensor(factors).double()}, factors),
    ]:
        if isinstance(method, plugin.LRP):
            inputs, changes = None, [1.0] * 3  # a product with another input is refused
        each = [targets] * 3 if isinstance(targets, int) else targets
        found = explainer.attribute(x, method, target=targets, inputs=inputs).scores
        if isinstance(method, plugin.LayerActivation):
            changes = [1.0] * 3
        expected = by_hand(method, oracle, x, each, changes)
        scale = float(expected.abs().max())
        assert scale > 0
        torch.testing.assert_close(found, expected.to(found), rtol=0, atol=1e-6 * scale)
    if method.uses_target:
        as_function = explainer.attribute(x, method, target=lambda outputs: outputs[:, 2]).scores
        torch.testing.assert_close(as_function, explainer.attribute(x, method, target=2).scores)


class Block(nn.Module):
    """A residual block that calls one ReLU twice, and adds in place."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.norm(self.conv2(self.relu(self.conv1(x))))
        out += x
        return self.relu(out)


class PlainBlock(nn.Module):
    """The same block in the form that captum requires: a module for every call."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(channels)
        self.relu, self.relu2, self.add = nn.ReLU(), nn.ReLU(), Addition_Module()

    def forward(self, x):
        return self.relu2(self.add(self.norm(self.conv2(self.relu(self.conv1(x)))), x))


class Residual(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.stem, self.block1, self.block2 = nn.Conv2d(3, 4, 3, stride=2), block(4), block(4)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.pool(self.block2(self.block1(self.stem(x)))).flatten(1))


class Functional(Residual):
    """The same network with a functional ReLU in place of every module."""

    def forward(self, x):
        x = self.stem(x)
        for block in (self.block1, self.block2):
            out = block.norm(block.conv2(F.relu(block.conv1(x), inplace=True)))
            x = (out + x).relu_()
        return self.head(self.pool(x).flatten(1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [lambda: Residual(Block), lambda: Functional(Block)])
@pytest.mark.parametrize("name", ["DeepLift", "LRP", "GuidedBackprop", "Deconvolution", "LayerDeepLift"])
def test_reused_and_functional_activations(name, make):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        plain, model = Residual(PlainBlock).double().eval(), make().double()
        x = torch.randn(2, 3, 16, 16).double()
    model.load_state_dict(plain.state_dict())
    own = {"layer": "block1.conv2"} if name.startswith("Layer") else {}
    layers = [plain.block1.conv2] if own else []
    expected = getattr(peer, name)(plain, *layers).attribute(x.clone().requires_grad_(), target=1).detach()
    attribution = Explainer(model).attribute(x, getattr(plugin, name)(**own), target=1)
    torch.testing.assert_close(attribution.scores, summed(expected) if own else expected, rtol=1e-6, atol=1e-8)


def test_deeplift_is_complete_for_a_pooling_after_a_relu_also_with_overlapping_windows():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        x = torch.randn(2, 3, 17, 19).double()
        for pool in (
            nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d((3, 2), 1), nn.MaxPool2d(2, 3),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        ):  # fmt: skip
            body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), pool, nn.Conv2d(4, 4, 2), nn.ReLU(), nn.Flatten())
            head = nn.Linear(body(x.float()).shape[1], 3)
            model = nn.Sequential(body, head).double()
            baseline = torch.randn_like(x)
            attribution = Explainer(model).attribute(x, plugin.DeepLift(baseline=baseline), target=1)
            expected = (model(x) - model(baseline))[:, 1].detach()
            torch.testing.assert_close(attribution.scores.sum((1, 2, 3)), expected, rtol=1e-8, atol=1e-10)
            assert "at most 0.00%" in attribution.notes[0]


def test_neuron_methods_are_methods_with_a_unit_as_target():
    clean, model, x = networks()
    found = Explainer(model).attribute(x, plugin.IntegratedGradients(n_steps=5), target=Unit("body.3", 2, (4, 3)))
    expected = peer.NeuronIntegratedGradients(clean, conv(clean)).attribute(x, (2, 4, 3), n_steps=5)
    torch.testing.assert_close(found.scores, expected.detach())
