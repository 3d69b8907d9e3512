"""Whatever is done to a model inside `frozen` is undone; what `captured` keeps is what the layer put out."""

import random
from collections import OrderedDict, namedtuple
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from attribkit._core.nested import tensor_at, tensor_entries, with_tensor_at
from attribkit._state.hooks import TensorRequest, capture, frozen, observe_modules
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_frozen_puts_back_what_a_batch_norm_learns_in_a_forward(dtype, monkeypatch):
    """torch writes running statistics past the tensor's version."""
    # Random numbers are not restored while other threads run, such as those that earlier tests leave behind.
    monkeypatch.setattr("attribkit._state.randomness.other_threads", list)
    model = tiny_cnn().to(dtype).eval()
    before = model_state(model)
    with frozen(model):
        for module in model.modules():
            module.training = True
        model(torch.randn(2, 3, 8, 8, dtype=dtype))
    assert changes(before, model_state(model)) == []


def test_frozen_leaves_a_graph_of_the_users_as_it_is():
    model, x = tiny_cnn().eval(), torch.randn(2, 3, 8, 8, requires_grad=True)
    loss = model(x).sum()
    with frozen(model):
        model(x)
    loss.backward()
    assert x.grad is not None


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
    with capture([TensorRequest(model[0])]) as kept:
        model(x)
    assert (expected < 0).any()
    torch.testing.assert_close(kept[0].tensor.detach(), expected, rtol=0, atol=0)


def test_captured_roots_the_graph_at_the_earliest_layer():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh())
    with frozen(model), capture([TensorRequest(model[2]), TensorRequest(model[0])]) as kept:
        y = model(torch.randn(2, 3)).sum()
    late, early = (each.tensor for each in kept)
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
    with capture([TensorRequest(model, path=(0,))]) as kept:
        tensor, rest = model(torch.ones(1))
    assert rest == "rest"
    assert torch.autograd.grad(tensor.sum(), kept[0].tensor)[0].item() == 1.0


Pair = namedtuple("Pair", "first second")


@dataclass
class Named:
    maps: list
    mask: Tensor


ONE, TWO = torch.ones(1), torch.full((1,), 2.0)
NESTED = {
    "tensor": (ONE, {(): ONE}),
    "list in a tuple": (([ONE, 2], torch.ones(1, dtype=torch.int64), TWO), {(0, 0): ONE, (2,): TWO}),
    "dict": ({"out": ONE, "aux": [TWO]}, {("out",): ONE, ("aux", 0): TWO}),
    "namedtuple": (Pair(ONE, TWO), {(0,): ONE, (1,): TWO}),
    "dataclass": (Named([ONE], TWO), {("maps", 0): ONE, ("mask",): TWO}),
    "neither": ("text", {}),
}


@pytest.mark.parametrize("name", NESTED)
def test_entries_of_nested_outputs_are_found_and_exchanged(name):
    output, expected = NESTED[name]
    assert dict(tensor_entries(output)) == expected
    for path in expected:
        new = torch.zeros(1)
        changed = with_tensor_at(output, path, new)
        assert tensor_at(changed, path) is new
        assert type(changed) is type(output)
        assert {p: t for p, t in tensor_entries(changed) if p != path} == {
            p: t for p, t in expected.items() if p != path
        }
        assert dict(tensor_entries(output)) == expected  # the output itself is as it was


def test_observed_names_modules_in_the_order_they_finish():
    model = nn.Sequential(nn.Sequential(nn.Identity(), nn.Identity()), nn.Identity())
    seen = []
    with observe_modules(model, lambda name, _module, _output: seen.append(name)):
        model(torch.ones(1))
    assert seen == ["0.0", "0.1", "0", "1"]


def test_captured_takes_the_run_that_is_wanted():
    model = nn.ReLU()
    with capture([TensorRequest(model, 1)]) as kept:
        for value in (1.0, 2.0, 3.0):
            model(torch.tensor([value]))
    assert kept[0].tensor.item() == 2.0
    assert kept[0].runs == 3


def test_frozen_undoes_what_a_forward_writes_to_its_module():
    class Scribbling(nn.Module):
        def __init__(self):
            super().__init__()
            self.count, self.cache, self.seen, self.built = 0, {}, [1], False

        def forward(self, x):
            self.count += 1
            self.cache["x"] = x
            self.seen.append(x)
            if not self.built:
                self.head, self.built = nn.Linear(2, 2), True
            return x

    model = Scribbling()
    with frozen(model):
        model(torch.ones(1))
    assert (model.count, model.cache, model.seen, model.built) == (0, {}, [1], False)
    assert not hasattr(model, "head")


def test_frozen_keeps_the_order_of_hooks_and_modules():
    model = nn.Sequential(OrderedDict(a=nn.Identity(), b=nn.Identity()))
    with frozen(model):
        del model.a
        model.c = nn.Identity()
    assert [name for name, _ in model.named_children()] == ["a", "b"]
