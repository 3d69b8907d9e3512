"""Closed forms, conservation, and the rules of operations without weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
from attribkit_lrp import LRP
from torch import nn

from attribkit import BroadcastInput, Explainer

EXACT = {"epsilon": 1e-12}


def relevance(model, x, target=0, composite="epsilon", inputs=None, **options):
    return Explainer(model).attribute(x, LRP(composite, **options), target=target, inputs=inputs).scores


def two_layers():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    values = {
        "1.weight": [[1.0, -2.0], [3.0, 1.0]],
        "1.bias": [0.5, -1.0],
        "3.weight": [[2.0, -1.0]],
        "3.bias": [1.0],
    }
    model.load_state_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})
    return model, torch.tensor([4.0, 1.0], dtype=torch.float64).reshape(1, 1, 1, 2)


def test_epsilon_by_hand():
    # hidden 4 - 2 + 0.5 = 2.5 and 12 + 1 - 1 = 12; score 5 - 12 + 1 = -6
    # with epsilon 1: hidden relevances 5 / -7 * -6 = 30/7 and -12 / -7 * -6 = -72/7
    # pixel 1: 4 / 3.5 * 30/7 + 12 / 13 * -72/7; pixel 2: -2 / 3.5 * 30/7 + 1 / 13 * -72/7
    model, x = two_layers()
    expected = [4 / 3.5 * 30 / 7 - 12 / 13 * 72 / 7, -2 / 3.5 * 30 / 7 - 1 / 13 * 72 / 7]
    ours = relevance(model, x, epsilon=1.0).flatten()
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def convolution_1x1(weight):
    model = nn.Sequential(nn.Conv2d(2, 1, 1, bias=False), nn.Flatten()).double()
    model[0].weight.data = torch.tensor(weight, dtype=torch.float64).reshape(1, 2, 1, 1)
    return model


@pytest.mark.parametrize(
    ("options", "expected"),
    [  # contributions 3 * 2 = 6 and 1 * -4 = -4, score 2
        ({"composite": "epsilon"}, [6, -4]),
        ({"composite": "epsilon_plus"}, [2, 0]),
        ({"composite": "epsilon_alpha2_beta1"}, [2 * 2, -2]),
        ({"composite": "epsilon_gamma_box", "gamma": 1.0, "first_layer": "same"}, [12 / 8 * 2, -4 / 8 * 2]),
        ({"first_layer": "flat"}, [1, 1]),
        ({"first_layer": "w_square"}, [2 * 4 / 20, 2 * 16 / 20]),
        # 6 - -1 * 2 = 8 and -4 - 5 * -4 = 16
        ({"composite": "epsilon_gamma_box", "low": -1, "high": 5}, [2 * 8 / 24, 2 * 16 / 24]),
        ({"first_layer": "box", "low": (-1, 0), "high": (5, 1)}, [2 * 8 / 8, 0]),
    ],
)
def test_each_rule_by_hand(options, expected):
    x = torch.tensor([3.0, 1.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    ours = relevance(convolution_1x1([2.0, -4.0]), x, **options).flatten()
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_addition_by_hand():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(3.0, dtype=torch.float64), requires_grad=False)

        def forward(self, x):
            return (self.factor * x + x.flip(3)).flatten(1)

    x = torch.tensor([2.0, -1.0], dtype=torch.float64).reshape(1, 1, 1, 2)
    # score 3 * 2 - 1 = 5, of which 6 come from the first pixel and -1 from the second
    torch.testing.assert_close(relevance(Skip(), x).flatten(), x.new_tensor([6, -1]), rtol=1e-5, atol=0)


class Residual(nn.Module):
    """A network without biases: convolutions, in-place ReLUs, skip connections, pooling and concatenation."""

    def __init__(self):
        super().__init__()
        self.stem, self.narrow = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 1, bias=False)
        self.wide, self.head = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Linear(16, 5, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = F.max_pool2d(self.relu(self.stem(x)), 2)
        for _ in range(2):
            y = self.wide(self.relu(self.narrow(x)))
            y += x
            x = self.relu(y)
        x = torch.cat([F.avg_pool2d(x, 2), F.max_pool2d(x, 2)], 1)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(
    "options",
    [
        {"composite": "epsilon"},
        {"composite": "epsilon_plus"},
        {"composite": "epsilon_gamma_box", "low": -5, "high": 5},
        {"first_layer": "flat"},
        {"first_layer": "w_square"},
    ],
    ids=str,
)
def test_relevance_is_conserved_without_biases(options):
    """Alpha2-beta1 is left out: a unit without negative contributions passes on twice its relevance."""
    model, x = Residual().double(), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    attribution = Explainer(model).attribute(x, LRP(**options), target=[0, 1, 4])
    with torch.no_grad():
        score = model(x)[range(3), [0, 1, 4]]
    torch.testing.assert_close(attribution.scores.sum((1, 2, 3)), score, rtol=1e-4, atol=0)


def test_epsilon_is_the_gradient_times_the_input_for_piecewise_linear_networks():
    model, x = Residual().double(), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    expected = Explainer(model).attribute(x, "input_x_gradient", target=2).scores
    torch.testing.assert_close(
        relevance(model, x, 2, **EXACT), expected, rtol=0, atol=1e-4 * float(expected.abs().max())
    )


OPERATIONS = {
    "adaptive_avg": lambda x: F.adaptive_avg_pool2d(x, 3),
    "adaptive_max": lambda x: F.adaptive_max_pool2d(x, 3),
    "add": lambda x: x + 2 * x.flip(2),
    "add_constant": lambda x: x + torch.linspace(1, 2, 8).to(x),
    "add_in_place": lambda x: x.clone().add_(x.flip(3), alpha=0.5),
    "amax": lambda x: x.amax(2),
    "avg": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "cat": lambda x: torch.cat([x, 2 * x], 1),
    "constant_pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "divide": lambda x: x / 3,
    "divide_by_tensor": lambda x: x / torch.linspace(1, 2, 8).to(x),
    "expand": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "gather": lambda x: x.gather(1, torch.zeros(len(x), 2, 8, 8, dtype=torch.long)),
    "index": lambda x: x[:, [0, 2, 2]],
    "index_select": lambda x: x.index_select(2, torch.tensor([1, 1, 3])),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.3),
    "max": lambda x: x.max(3).values,
    "max_pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "mean": lambda x: x.mean(1),
    "multiply": lambda x: 3 * x,
    "multiply_by_mask": lambda x: x * torch.linspace(0, 2, 8).to(x),
    "multiply_in_place": lambda x: x.clone().mul_(2),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "negative": lambda x: -x,
    "permute": lambda x: x.permute(0, 2, 3, 1).reshape(len(x), -1),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "reflection_pad": lambda x: F.pad(x, (1, 2, 0, 1), mode="reflect"),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "replication_pad": lambda x: F.pad(x, (1, 2, 0, 1), mode="replicate"),
    "reversed_subtraction": lambda x: 1 - x,
    "roll": lambda x: x.roll(2, 3),
    "select": lambda x: x[:, 1],
    "slice": lambda x: x[:, :, 2:-1, ::2],
    "split": lambda x: x.split(3, 1)[1],
    "stack": lambda x: torch.stack([x, 2 * x]).sum(0),
    "subtract": lambda x: x - 0.3 * x.flip(2),
    "sum": lambda x: x.sum((2, 3)),
    "to_double": lambda x: x.double(),
    "transpose": lambda x: x.transpose(1, 3).contiguous(),
    "unbind": lambda x: x.unbind(1)[2],
    "unfold": lambda x: x.unfold(2, 3, 2),
}


class WithOperation(nn.Module):
    """A convolution, an operation and a linear layer, with biases."""

    def __init__(self, operation):
        super().__init__()
        self.first, self.operation = nn.Conv2d(3, 4, 3, padding=1), operation
        self.size = operation(torch.zeros(1, 4, 8, 8)).numel()
        self.last = nn.Linear(self.size, 5)

    def forward(self, x):
        return self.last(self.operation(self.first(x)).reshape(len(x), -1).to(self.last.weight.dtype))


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_without_weights(name):
    """With a small epsilon the relevance is the gradient times the input, whatever piecewise linear operation it is."""
    model, x = WithOperation(OPERATIONS[name]).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    nn.init.constant_(model.first.bias, 4.0)  # the stabilizer of averages dominates sums that are nearly zero
    expected = Explainer(model).attribute(x, "input_x_gradient", target=2).scores
    ours = relevance(model, x, 2, **EXACT)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_in_half_precision(name, dtype):
    model, x = WithOperation(OPERATIONS[name]), torch.randn(2, 3, 8, 8)
    single = relevance(model, x, 2, epsilon=1e-2)
    half = relevance(model.to(dtype), x.to(dtype), 2, epsilon=1e-2)
    assert half.dtype == torch.float32
    least = 0.95 if "max" in name else 0.99  # rounding changes which element is the largest
    assert float(torch.corrcoef(torch.stack([single.flatten(), half.flatten()]))[0, 1]) > least


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, groups=2, padding=2, dilation=2, stride=2),
        nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2, output_padding=1),
        nn.ConvTranspose2d(4, 6, 2, bias=False),
        nn.Conv2d(4, 6, 1, bias=False),
    ],
    ids=["grouped", "transposed and grouped", "transposed", "1x1"],
)
def test_batch_norm_is_merged_with_the_layer(layer):
    """The relevance is that of the network whose layer has the weights and the bias of both."""
    norm = nn.BatchNorm2d(6)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), layer, norm, nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    model.double().eval()(x)
    if layer.groups > 1 and isinstance(layer, nn.ConvTranspose2d):  # torch does not fuse these
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        fused = copy.deepcopy(layer)
        fused.weight = nn.Parameter((layer.weight.unflatten(0, (2, 2)) * scale.reshape(2, 1, 3, 1, 1)).flatten(0, 1))
        fused.bias = nn.Parameter((layer.bias - norm.running_mean) * scale + norm.bias)
    else:
        fused = torch.nn.utils.fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, nn.ConvTranspose2d))
    merged = nn.Sequential(*model[:2], fused, *model[4:])
    torch.testing.assert_close(merged(x), model(x))
    for composite in ("epsilon", "epsilon_plus", "epsilon_alpha2_beta1"):
        torch.testing.assert_close(relevance(model, x, 1, composite), relevance(merged, x, 1, composite))


def test_batch_norm_of_shared_features_is_not_merged():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)

        def forward(self, x):
            x = self.conv(x)
            return self.head((self.norm(x) + x).mean((2, 3)))

    attribution = Explainer(Shared()).attribute(torch.randn(1, 3, 8, 8), LRP())
    assert attribution.notes == (
        "1 batch norms do not follow a convolution or linear layer: the relevance passes through them unchanged",
    )


def test_preprocessing_in_the_model_does_not_change_the_relevance():
    class Normalized(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model
            self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6])[:, None, None])
            self.register_buffer("std", torch.tensor([0.2, 0.3, 0.25])[:, None, None])

        def forward(self, x):
            return self.model((x - self.mean) / self.std)

    model, x = Residual(), torch.rand(2, 3, 16, 16)
    outer = Normalized(model)
    for options in ({}, {"first_layer": "flat"}, {"composite": "epsilon_gamma_box", "low": -4, "high": 4}):
        method = LRP(**options)
        inner = Explainer(model).attribute((x - outer.mean) / outer.std, method, target=1).scores
        torch.testing.assert_close(Explainer(outer).attribute(x, method, target=1).scores, inner)


def test_products_with_constant_matrices():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(12, 6)), nn.Parameter(torch.randn(6))

        def forward(self, x):
            return x.flatten(1) @ self.weight + self.bias

    model, x = Product().double(), torch.randn(2, 3, 2, 2, dtype=torch.float64)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 6)).double()
    linear[1].load_state_dict({"weight": model.weight.mT, "bias": model.bias})
    torch.testing.assert_close(relevance(model, x, 2, **EXACT), relevance(linear, x, 2, **EXACT), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", [F.relu, torch.relu, torch.relu_, nn.ReLU(), nn.ReLU(inplace=True)])
def test_it_does_not_matter_how_a_relu_is_called(way):
    class Net(nn.Module):
        def __init__(self, relu):
            super().__init__()
            torch.manual_seed(0)
            self.convolution, self.head, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 4), relu

        def forward(self, x):
            for _ in range(3):
                x = self.relu(self.convolution(x))
            return self.head(x.mean((2, 3)))

    x = torch.randn(2, 3, 8, 8)
    expected = relevance(Net(lambda x: x.relu()), x, 1, "epsilon_plus")
    assert torch.equal(relevance(Net(way), x, 1, "epsilon_plus"), expected)


def test_function_targets():
    model, x = Residual().double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    one, other = relevance(model, x, 1, "epsilon_plus"), relevance(model, x, 3, "epsilon_plus")
    both = relevance(model, x, lambda output: output[:, 1] - output[:, 3], "epsilon_plus")
    torch.testing.assert_close(both, one - other, rtol=0, atol=1e-4 * float(one.abs().max()))


def test_further_inputs_are_constants():
    class Modulated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 5)

        def forward(self, x, gain, offset):
            x = self.conv(x) * gain[:, None, None, None] + offset
            return self.head(x.relu().mean((2, 3)))

    model, x = Modulated().double(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    inputs = {"gain": torch.tensor([0.5, 1.0, -2.0]).double(), "offset": BroadcastInput(torch.ones(1).double())}
    expected = Explainer(model).attribute(x, "input_x_gradient", target=2, inputs=inputs).scores
    ours = relevance(model, x, 2, inputs=inputs, **EXACT)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


def test_volumes():
    model = nn.Sequential(
        nn.Conv3d(1, 4, 3, bias=False),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.AvgPool3d(2),
        nn.Flatten(),
        nn.LazyLinear(3, False),
    )
    x = torch.randn(2, 1, 10, 12, 10)
    score = model(x)[:, 1]
    ours = relevance(model, x, 1, "epsilon_plus")
    torch.testing.assert_close(ours.sum((1, 2, 3, 4)), score.detach(), rtol=1e-3, atol=1e-4)
