"""Whatever is done to a model inside `frozen` is undone; what `captured` keeps is what the layer put out."""

import random
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from attribkit.core.hooks import captured, first_tensor, frozen, observed
from attribkit.testing import changes, model_state, tiny_cnn


def _vandalise(model):
    model.train()
    model[0].weight.requires_grad_(True)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[1].running_mean += 1
    model[1].running_var = torch.zeros(4)
    model[2] = nn.GELU()
    model[3].weight = nn.Parameter(torch.zeros_like(model[3].weight))
    model[3].register_forward_hook(lambda *_: None)
    model.register_full_backward_hook(lambda *_: None)
    torch.rand(3)


@pytest.mark.parametrize("error", [None, ValueError("on purpose"), KeyboardInterrupt()])
def test_frozen_undoes_everything(error):
    model = tiny_cnn()
    model[0].weight.grad = torch.full_like(model[0].weight, 3.0)
    model[4].eval()
    model[0].bias.requires_grad_(False)
    before = model_state(model)
    with pytest.raises(type(error)) if error else nullcontext(), frozen(model):
        assert not any(module.training for module in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
        _vandalise(model)
        if error:
            raise error
    assert changes(before, model_state(model)) == []


def test_frozen_keeps_the_random_numbers_of_python():
    state = random.getstate()
    with frozen(tiny_cnn()):
        random.random()
    assert random.getstate() == state


def test_frozen_works_inside_no_grad_and_inference_mode():
    model = tiny_cnn()
    for outside in (torch.no_grad(), torch.inference_mode()):
        with outside, frozen(model):
            x = torch.zeros(1, 3, 16, 16, requires_grad=True)
            assert model(x).requires_grad


def test_captured_is_not_changed_by_what_works_in_place():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = model[0](x)
    with captured([model[0]]) as kept:
        model(x)
    assert (expected < 0).any()
    torch.testing.assert_close(kept[0][0].detach(), expected, rtol=0, atol=0)


def test_captured_roots_the_graph_at_the_earliest_layer():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh())
    with frozen(model), captured([model[2], model[0]]) as kept:
        y = model(torch.randn(2, 3)).sum()
    (late,), (early,) = kept
    assert early.is_leaf
    assert not late.is_leaf
    gradients = torch.autograd.grad(y, [early, late])
    slope = 1 - model[2](early.tanh()).tanh() ** 2
    torch.testing.assert_close(gradients[1], slope)
    torch.testing.assert_close(gradients[0], slope @ model[2].weight * (1 - early.tanh() ** 2))


def test_captured_in_a_tuple():
    class Pair(nn.Module):
        def forward(self, x):
            return x * 2, "rest"

    model = Pair()
    with captured([model]) as kept:
        tensor, rest = model(torch.ones(1))
    assert rest == "rest"
    assert torch.autograd.grad(tensor.sum(), kept[0][0])[0].item() == 1.0


def test_first_tensor():
    one = torch.ones(1)
    assert first_tensor(one) is one
    assert first_tensor(([one, 2], 3)) is one
    assert first_tensor({"a": one}) is None


def test_observed_names_modules_in_the_order_they_finish():
    model = nn.Sequential(nn.Sequential(nn.Identity(), nn.Identity()), nn.Identity())
    with observed(model) as seen:
        model(torch.ones(1))
    assert [name for name, _, _ in seen] == ["0.0", "0.1", "0", "1"]
