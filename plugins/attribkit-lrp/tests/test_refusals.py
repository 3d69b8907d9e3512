"""What LRP refuses, with the name of the operation."""

import pytest
import torch
import torch.nn.functional as F
from attribkit_lrp import LRP
from torch import nn
from torch.utils.checkpoint import checkpoint

from attribkit import AttribkitError, Explainer, InvalidInput, Probability, UnsupportedModel


class Net(nn.Module):
    """Two convolutions with an operation between them."""

    def __init__(self, operation):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)
        self.operation = operation

    def forward(self, x):
        return self.head(self.second(self.operation(self.first(x))).relu().mean((2, 3)))


def overwritten(x):
    y = x.relu()
    z = y + x
    y.mul_(2)
    return z


def in_part(x):
    x = x.clone()
    x[:, 0] += 1
    return x


REFUSED = {
    "attention": (lambda x: x * F.softmax(x, 1), r"Softmax \(1\).*transformers"),
    "batch statistics": (lambda x: F.batch_norm(x, None, None, training=True), "NativeBatchNorm.*statistics"),
    "checkpoint": (lambda x: checkpoint(torch.relu, x, use_reentrant=True), "checkpointing"),
    "division": (lambda x: 1 / (x.relu() + 1), "Reciprocal"),
    "dynamic weights": (lambda x: F.conv2d(x[:1], x[:, :, :3, :3].mean(0, True).expand(4, 4, 3, 3)), "depend on the"),
    "gate": (lambda x: x * x.mean((2, 3), keepdim=True), "Mul.*two factors.*squeeze-and-excitation"),
    "gelu": (F.gelu, r"Gelu \(1\).*AttnLRP"),
    "hardtanh": (lambda x: F.hardtanh(x, 0.5, 1.0), "Hardtanh.*min_val"),
    "in-place on a part": (in_part, "CopySlices.*in-place"),
    "instance norm": (F.instance_norm, "statistics"),
    "layer norm": (lambda x: F.layer_norm(x, x.shape[1:]), r"NativeLayerNorm \(1\)"),
    "leaky relu": (lambda x: F.leaky_relu(x, -0.5), "LeakyRelu.*negative_slope"),
    "normalized": (lambda x: x / (x.square().sum(1, True) + 1), "Pow"),
    "overwritten": (overwritten, "'add'.*overwritten.*in-place"),
    "quotient": (lambda x: x / (x.sum(1, True) + 1), "Div.*divisor"),
    "sigmoid": (torch.sigmoid, "Sigmoid"),
    "silu": (F.silu, "Silu"),
    "two": (lambda x: F.silu(F.gelu(x)), r"Gelu \(1\), Silu \(1\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_operations_without_a_rule(name):
    operation, message = REFUSED[name]
    model, x = Net(operation), torch.randn(1, 3, 12, 12)
    with pytest.raises(UnsupportedModel, match=message):
        Explainer(model).attribute(x, LRP(), target=1)
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


def test_probabilities():
    with pytest.raises(UnsupportedModel, match=r"(?s)no rule for these operations.*logit"):
        Explainer(Net(torch.relu)).attribute(torch.randn(1, 3, 12, 12), LRP(), target=Probability(1))


def test_transformers():
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    with pytest.raises(UnsupportedModel, match=r"Gelu .*NativeLayerNorm.*transformers"):
        Explainer(model).attribute(torch.randn(1, 3, 32, 32), LRP())


def test_operations_beside_the_path_to_the_score_are_ignored():
    class Auxiliary(Net):
        def forward(self, x):
            self.unused = F.gelu(self.first(x))
            return super().forward(x)

    Explainer(Auxiliary(torch.relu)).attribute(torch.randn(1, 3, 12, 12), LRP())


def test_graphs_that_are_cut():
    with pytest.raises(UnsupportedModel, match="cuts the graph"):
        Explainer(Net(torch.Tensor.detach)).attribute(torch.randn(1, 3, 12, 12), LRP(), target=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": (0.0, 0.0)}, "has 2 values.*3 channels"),
        ({"high": 1.0}, "exceed low=-9.0 and high=1.0"),
        ({"low": 9.0, "high": -9.0}, "exceed"),
    ],
)
def test_bounds_that_do_not_fit(options, message):
    method = LRP("epsilon_gamma_box", **{"low": -9.0, "high": 9.0, **options})
    with pytest.raises(InvalidInput, match=message):
        Explainer(Net(torch.relu)).attribute(torch.randn(1, 3, 12, 12), method)


def test_options():
    with pytest.raises(InvalidInput, match=r"low=None.*low=\(-2.118"):
        LRP("epsilon_gamma_box")
    for options in ({"composite": "gamma"}, {"epsilon": 0}, {"gamma": -1}, {"low": ()}, {"first_layer": "zbox"}):
        with pytest.raises(AttribkitError):
            LRP(**options)
