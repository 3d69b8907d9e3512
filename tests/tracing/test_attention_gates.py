"""Gates: what is recorded is what the modules computed, activations are none, and the method draws those over space."""

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import create_attn
from torch import nn

from attribkit import Explainer
from attribkit._core.errors import UnknownName, UnsupportedModel
from attribkit.methods._attention import AttentionGates
from attribkit.testing import changes, check_method, model_state

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def with_attention(attention):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), attention, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    )


def gates_of(attention, x):
    return Explainer(with_attention(attention)).attention_gates(x)


def feature(attention, x):
    model = with_attention(attention).eval()
    with torch.no_grad():
        return model[1](model[0](x))


@pytest.fixture
def x():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def squeeze_excite(m, a):
    return torch.sigmoid(m.fc2(m.bn(m.fc1(a.mean((2, 3), keepdim=True)).relu()))).flatten(1)


def effective(m, a):
    return ((m.fc(a.mean((2, 3), keepdim=True)) + 3).clamp(0, 6) / 6).flatten(1)


def efficient(m, a):
    return torch.sigmoid(m.conv(a.mean((2, 3))[:, None]))[:, 0]


def channel_of_cbam(m, a):
    perceptron = lambda pooled: m.channel.fc2(m.channel.fc1(pooled).relu())  # noqa: E731
    pooled = a.mean((2, 3), keepdim=True), a.amax((2, 3), keepdim=True)
    return torch.sigmoid(perceptron(pooled[0]) + perceptron(pooled[1])).flatten(1)


def spatial_of_cbam(m, a):
    a = a * channel_of_cbam(m, a)[:, :, None, None]
    pooled = torch.stack([a.mean(1), a.max(1).values], 1)
    return torch.sigmoid(m.spatial.conv.bn(m.spatial.conv.conv(pooled)))[:, 0]


def light_channel(m, a):
    pooled = (a.mean((2, 3), keepdim=True) + a.amax((2, 3), keepdim=True)) / 2
    return torch.sigmoid(m.channel.fc2(m.channel.fc1(pooled).relu())).flatten(1)


def light_spatial(m, a):
    a = a * light_channel(m, a)[:, :, None, None]
    pooled = (a.mean(1, keepdim=True) + a.max(1, keepdim=True).values) / 2
    return torch.sigmoid(m.spatial.conv.bn(m.spatial.conv.conv(pooled)))[:, 0]


def global_context(m, a):
    weights = m.conv_attn(a).flatten(2).softmax(2)
    context = (a.flatten(2) * weights).sum(2)[:, :, None, None]
    hidden = m.mlp_scale.fc1(context)
    hidden = F.layer_norm(
        hidden.movedim(1, -1), hidden.shape[1:2], m.mlp_scale.norm.weight, m.mlp_scale.norm.bias, 1e-6
    )
    return torch.sigmoid(m.mlp_scale.fc2(hidden.movedim(-1, 1).relu())).flatten(1)


def gathered(m, a):
    near = F.avg_pool2d(a, 7, 4, 3, count_include_pad=False)  # the mean of each 7x7 neighbourhood, every 4 pixels
    return torch.sigmoid(near).repeat_interleave(4, 2).repeat_interleave(4, 3)


def gathered_from_everywhere(m, a):
    return torch.sigmoid(a.mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("se", {}, [("2", "channel", squeeze_excite)]),
        ("ese", {}, [("2", "channel", effective)]),
        ("eca", {}, [("2", "channel", efficient)]),
        ("ge", {"extent": 4, "use_mlp": False}, [("2", "both", gathered)]),
        ("ge", {"use_mlp": False}, [("2", "channel", gathered_from_everywhere)]),
        ("gc", {}, [("2", "channel", global_context)]),
        ("cbam", {}, [("2.channel", "channel", channel_of_cbam), ("2.spatial", "spatial", spatial_of_cbam)]),
        ("lcbam", {}, [("2.channel", "channel", light_channel), ("2.spatial", "spatial", light_spatial)]),
    ],
)
def test_a_gate_is_what_the_module_computed(name, options, expected, x):
    torch.manual_seed(0)
    attention = create_attn(name, 16, **options)
    found = gates_of(attention, x)
    assert [(gate.name, gate.kind) for gate in found] == [(where, kind) for where, kind, _ in expected]
    with torch.no_grad():
        a = feature(attention, x)
        for gate, (_, _, by_hand) in zip(found, expected, strict=True):
            torch.testing.assert_close(gate.values, by_hand(attention.eval(), a))


@pytest.mark.parametrize("name", ["splat", "sk"])
def test_paths_share_by_a_softmax(name, x):
    attention = create_attn(name, 16)
    (gate,) = gates_of(attention, x)
    assert (gate.name, gate.kind, tuple(gate.values.shape)) == ("2", "channel", (2, 32))  # two paths, in a row
    torch.testing.assert_close(gate.values.unflatten(1, (2, 16)).sum(1), torch.ones(2, 16))
    assert gate.values.std() > 1e-4


class BAM(nn.Module):
    """F + F * sigmoid(channel branch + spatial branch) (Park et al., BMVC 2018, eqs. 1 to 4)."""

    def __init__(self, channels, as_one_factor):
        super().__init__()
        self.perceptron = nn.Sequential(nn.Linear(channels, 4), nn.ReLU(), nn.Linear(4, channels))
        self.place = nn.Sequential(
            nn.Conv2d(channels, 4, 1),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=4, dilation=4),
            nn.ReLU(),
            nn.Conv2d(4, 1, 1),
        )
        self.as_one_factor = as_one_factor

    def gate(self, a):
        return (self.perceptron(a.mean((2, 3)))[:, :, None, None].expand_as(a) + self.place(a).expand_as(a)).sigmoid()

    def forward(self, a):
        return a * (1 + self.gate(a)) if self.as_one_factor else a + a * self.gate(a)


@pytest.mark.parametrize("as_one_factor", [False, True])
def test_bottleneck_attention(as_one_factor, x):
    attention = BAM(16, as_one_factor)
    (gate,) = gates_of(attention, x)
    with torch.no_grad():
        expected = attention.gate(feature(attention, x)) + as_one_factor  # a gate is the factor, whole
    assert (gate.name, gate.kind) == ("2", "both")
    torch.testing.assert_close(gate.values, expected)


class Product(nn.Module):
    """Multiplies a map by a function of it."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(1, 16, 1, 1))

    def forward(self, a):
        return self.function(self, a)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, a: a * a.sigmoid(),
        lambda m, a: a * torch.sigmoid(1.702 * a),
        lambda m, a: a * torch.sigmoid(m.weight * a),
        lambda m, a: a * (F.relu6(a + 3) / 6),
        lambda m, a: a * F.relu6(a + 3) / 6,
        lambda m, a: a * torch.tanh(F.softplus(a)),
        lambda m, a: 0.5 * a * (1 + torch.tanh(0.8 * (a + 0.0447 * a**3))),
        lambda m, a: a * m.weight,
        lambda m, a: a * m.weight.sigmoid(),
        lambda m, a: F.dropout(a, 0.5, m.training),
        lambda m, a: a * 0.5,
    ],
)
def test_what_is_no_gate(function, x):
    assert gates_of(Product(function), x) == []
    assert gates_of(Product(function), x[:1]) == []


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda m, a: a.mul_(torch.sigmoid(a.mean((2, 3), keepdim=True))), "channel"),
        (lambda m, a: a.mean((2, 3), keepdim=True).sigmoid_() * a, "channel"),
        (lambda m, a: a * (a.mean((2, 3), keepdim=True).add(3).clamp(0, 6).div(6)), "channel"),
        (lambda m, a: a * a.mean(1, keepdim=True).tanh(), "spatial"),
        (lambda m, a: (a.movedim(1, -1) * a.mean(1)[..., None].sigmoid()).movedim(-1, 1), "spatial"),
        (lambda m, a: a.relu().tanh() * a.mean(1, keepdim=True).sigmoid(), "spatial"),
        (lambda m, a: a * (a.mean((2, 3), keepdim=True).sigmoid() * a.mean(1, keepdim=True).sigmoid()), "both"),
        (lambda m, a: a * torch.sigmoid((a - a.mean((2, 3), keepdim=True)) ** 2), "both"),  # SimAM's form
        (lambda m, a: (a.movedim(1, -1) * a.mean((2, 3)).sigmoid()[:, None, None]).movedim(-1, 1), "channel"),
    ],
)
def test_what_is_one_however_it_is_written(function, kind, x):
    (gate,) = gates_of(Product(function), x)
    assert (gate.name, gate.kind) == ("2", kind)
    assert gate.values.shape == {"channel": (2, 16), "spatial": (2, 16, 16), "both": (2, 16, 16, 16)}[kind]


def test_volumes():
    class Excite(nn.Module):
        def forward(self, a):
            return a * a.mean(1, keepdim=True).sigmoid() * a.mean((2, 3, 4), keepdim=True).sigmoid()

    model = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), Excite(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    gates = Explainer(model).attention_gates(torch.randn(2, 1, 6, 8, 8))
    assert [(gate.kind, tuple(gate.values.shape)) for gate in gates] == [("spatial", (2, 6, 8, 8)), ("channel", (2, 4))]


@pytest.mark.parametrize(
    ("name", "count", "last"),
    [("efficientnet_b0", 16, "blocks.6.0.se"), ("seresnet18", 8, "layer4.1.se"), ("resnet18", 0, None)],
)
def test_real_architectures(name, count, last):
    gates = Explainer(timm.create_model(name)).attention_gates(torch.randn(1, 3, 64, 64))
    assert len(gates) == count
    assert all(gate.kind == "channel" for gate in gates)
    assert [gate.name for gate in gates[-1:]] == ([last] if last else [])


def test_a_transformer_has_none(vit):
    assert Explainer(vit).attention_gates(torch.randn(1, 3, 128, 128)) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precisions_and_chunks(dtype, x):
    model = with_attention(create_attn("cbam", 16)).to(dtype)
    whole = Explainer(model).attention_gates(x.to(dtype))
    parts = Explainer(model, batch_size=1).attention_gates(x.to(dtype))
    for one, other in zip(whole, parts, strict=True):
        assert one.values.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
        torch.testing.assert_close(one.values, other.values, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)


def test_leaves_the_model_as_it_was(x):
    model = with_attention(create_attn("cbam", 16)).train()
    before, images = model_state(model), x.clone()
    Explainer(model).attention_gates(x)
    assert not changes(before, model_state(model))
    assert torch.equal(images, x)
    broken = Product(lambda m, a: a * a.mean(1, keepdim=True).sigmoid() @ torch.zeros(3, 3))
    model = with_attention(broken)
    before = model_state(model)
    with pytest.raises(RuntimeError):
        Explainer(model).attention_gates(x)
    assert not changes(before, model_state(model))
    assert torch.overrides._get_current_function_mode_stack() == []


def test_the_method_passes_the_conformance_suite():
    torch.manual_seed(0)
    check_method(AttentionGates(), with_attention(create_attn("cbam", 16)))


def test_the_map_is_the_mean_of_the_spatial_gates(x):
    attention = nn.Sequential(create_attn("cbam", 16), nn.MaxPool2d(2), BAM(16, False))
    explainer = Explainer(with_attention(attention))
    _, spatial, both = explainer.attention_gates(x)
    expected = (spatial.values + F.interpolate(both.values.mean(1, keepdim=True), (16, 16), mode="bilinear")[:, 0]) / 2
    attribution = explainer.attribute(x, "attention_gates")
    torch.testing.assert_close(attribution.heatmap(), expected)
    assert "does not depend on the target" in attribution.notes[0]
    torch.testing.assert_close(explainer.attribute(x, "attention_gates", target=3).scores, attribution.scores)
    one = explainer.attribute(x, "attention_gates", gate="2.0.spatial")
    torch.testing.assert_close(one.scores, spatial.values[:, None])


def test_refusals(x):
    only_channels = Explainer(with_attention(create_attn("se", 16)))
    with pytest.raises(UnsupportedModel, match=r"the model has only 1 channel gates: 2\. Use gradcam"):
        only_channels.attribute(x, "attention_gates")
    with pytest.raises(UnsupportedModel, match="the model has none"):
        Explainer(with_attention(nn.Identity())).attribute(x, "attention_gates")
    with pytest.raises(UnknownName, match=r"Did you mean '2\.spatial'"):
        Explainer(with_attention(create_attn("cbam", 16))).attribute(x, "attention_gates", gate="2.spatia")
