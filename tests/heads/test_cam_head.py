"""A CAM head: on the model's own body, with the closed form that it is made for, and trained as it was asked."""

import copy
import itertools
import json
import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from attribkit import AttribkitError, Explainer, cam_head, train_head
from attribkit._core.errors import InvalidInput, UnknownName, UnsupportedModel
from attribkit._heads.body import StoppedForward
from attribkit.io._preprocessing import Preprocessing

ROOT = Path(__file__).parents[2]

FAMILIES = {  # model: (what makes it, pixels, the layer at which it is cut, grid)
    "torchvision alexnet": (lambda: torchvision.models.alexnet(), 64, "features.11", (3, 3)),
    "slow torchvision vgg11": (lambda: torchvision.models.vgg11(init_weights=False), 64, "features.19", (4, 4)),
    "torchvision mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(width_mult=0.25), 96, "features", (3, 3)),
    "torchvision mobilenet_v3": (lambda: torchvision.models.mobilenet_v3_small(), 96, "features", (3, 3)),
    "torchvision resnet18": (lambda: torchvision.models.resnet18(), 64, "layer4", (2, 2)),
    "torchvision densenet": (
        lambda: torchvision.models.DenseNet(8, (1, 1, 1, 1), 16),
        64,
        "features",
        (2, 2),
    ),
    "torchvision efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(), 64, "features", (2, 2)),
    "torchvision convnext": (
        lambda: torchvision.models.ConvNeXt(
            [
                torchvision.models.convnext.CNBlockConfig(16, 32, 1),
                torchvision.models.convnext.CNBlockConfig(32, None, 1),
            ]
        ),
        64,
        "features",
        (8, 8),
    ),
    "timm resnet10t": (lambda: timm.create_model("resnet10t"), 64, "layer4", (2, 2)),
    "timm mobilenetv2": (lambda: timm.create_model("mobilenetv2_035"), 96, "bn2", (3, 3)),
    "timm mobilenetv3": (lambda: timm.create_model("mobilenetv3_small_050"), 96, "blocks", (3, 3)),
    "timm efficientnet": (lambda: timm.create_model("tinynet_e"), 64, "bn2", (2, 2)),
    "timm convnext": (lambda: timm.create_model("convnext_atto", depths=(1, 1, 1, 1)), 64, "stages", (2, 2)),
    "timm swin": (
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=64, window_size=2, embed_dim=12, depths=(1, 1), num_heads=(2, 2)
        ),
        64,
        "norm",
        (8, 8),
    ),
    "slow timm hrnet, whose forward is no row": (
        lambda: timm.create_model("hrnet_w18_small"),
        64,
        "final_layer",
        (2, 2),
    ),
}


def hooked(model, name, x):
    """What a layer of the whole model puts out, by a hook of our own."""
    seen = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _i, output: seen.append(output.clone()))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[-1]


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("slow")) for name in FAMILIES]
)
def test_the_body_is_the_model_up_to_its_last_map(family):
    make, pixels, layer, grid = FAMILIES[family]
    model, x = make().eval(), torch.randn(2, 3, pixels, pixels)
    made = cam_head(model, 5, channels=16, x=x)
    assert made.layer == layer
    with torch.no_grad():
        torch.testing.assert_close(made.body(x), hooked(model, layer, x), rtol=0, atol=0)
        assert made(x).shape == (2, 5)
    attribution = Explainer(made).attribute(x, "gradcam")
    assert attribution.scores.shape == (2, 1, *grid)
    assert attribution.notes[0].startswith("layer='head.relu': the last spatial map")


def cam(model, x, label):
    """Zhou et al., eq. 2, by hand: the classifier's weights times the maps before pooling, and the bias left out."""
    with torch.no_grad():
        maps = model.body(x)
        if "channels_first" in dict(model.head.named_children()):
            maps = maps.permute(0, 3, 1, 2)
        maps = F.relu(model.head.convolution(maps))
        return (model.head.classifier.weight[label][(..., *[None] * (x.ndim - 2))] * maps).sum(1, keepdim=True)


@pytest.mark.parametrize("family", ["torchvision densenet", "timm swin"])
def test_grad_cam_before_its_relu_is_the_cam(family):
    make, pixels, _, grid = FAMILIES[family]
    model = cam_head(make().double(), 5, channels=16)
    x = torch.randn(2, 3, pixels, pixels, dtype=torch.double)
    scores = Explainer(model).attribute(x, "gradcam", target=3, relu=False).scores
    torch.testing.assert_close(scores * grid[0] * grid[1], cam(model, x, 3))
    bias = model.head.classifier.bias[3]
    torch.testing.assert_close(cam(model, x, 3).mean((1, 2, 3)) + bias, model(x)[:, 3])  # eq. 1: the map adds up


class Volumes(nn.Module):
    """A small 3-D network with operations between its modules, which no row of them repeats."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv3d(1, 4, 3, stride=2, padding=1)
        self.two = nn.Conv3d(4, 6, 3, stride=2, padding=1)
        self.heavy = nn.Linear(6 * 4 * 4 * 4, 3)

    def forward(self, x):
        return self.heavy(F.relu(self.two(F.relu(self.one(x)))).flatten(1))


def test_volumes_and_forwards_with_operations_between_modules():
    model, x = Volumes(), torch.randn(2, 1, 16, 16, 16)
    made = cam_head(model, 2, channels=8, x=x)
    assert isinstance(made.body, StoppedForward)
    assert isinstance(made.body.model.heavy, nn.Identity)  # what follows the layer is not carried along
    torch.testing.assert_close(made.body(x), hooked(model, "two", x), rtol=0, atol=0)
    scores = Explainer(made).attribute(x, "gradcam", target=1, relu=False).scores
    torch.testing.assert_close(scores * 4**3, cam(made, x, 1))
    train_head(made, [(x, torch.tensor([0, 1]))], "finetune", epochs=1)


def test_a_stopped_body_is_a_module_like_others():
    x = torch.randn(2, 1, 16, 16, 16)
    made = cam_head(Volumes(), 2, channels=8, x=x)
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(twin(x), made(x))
    assert not made.body.model.two._forward_hooks
    inside = Explainer(made).attribute(x, "gradcam", layer="body.model.two", target=0)
    assert inside.scores.abs().sum() > 0
    with pytest.raises(RuntimeError):
        made(torch.randn(2, 5, 16, 16, 16))
    assert not made.body.model.two._forward_hooks


class Twice(nn.Module):
    """One activation after two convolutions, modules defined in another order than they run in, one that never runs."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.unused = nn.Conv2d(1, 1, 1)
        self.act = nn.ReLU()
        self.late = nn.Conv2d(4, 6, 3, stride=2)
        self.early = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, x):
        return self.fc(self.act(self.late(self.act(self.early(x)))).mean((2, 3)))


def test_modules_are_put_in_the_order_in_which_they_run():
    model, x = Twice(), torch.randn(2, 3, 32, 32)
    made = cam_head(model, 2, channels=4, x=x)
    assert isinstance(made.body, nn.Sequential)
    torch.testing.assert_close(made.body(x), model.act(model.late(model.act(model.early(x)))))


class DropsBetween(nn.Module):
    """Equal to the row of its modules in evaluation, not in training."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.fc = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 6, 3, stride=2), nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(self.two(F.dropout(self.one(x), 0.5, self.training)).mean((2, 3)))


def test_a_body_is_the_same_in_training_too():
    made = cam_head(DropsBetween(), 2, channels=4, x=torch.randn(2, 3, 32, 32))
    assert isinstance(made.body, StoppedForward)


class Counting(nn.Module):
    """A forward that is another one each time."""

    count = itertools.count()

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.conv(x + next(self.count)).relu().mean((2, 3)))


def test_what_cannot_be_proven_equal_is_refused():
    with pytest.raises(
        UnsupportedModel, match=r"A copy of this Counting up to layer 'conv' does not reproduce.*Sequential"
    ):
        cam_head(Counting(), 2, x=torch.randn(2, 3, 32, 32))
    made = cam_head(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2)), 2, layer="0", x=torch.randn(2, 3, 32, 32))
    assert made.layer == "0"


@pytest.mark.parametrize("training", [True, False])
def test_the_given_model_stays_as_it_was(training):
    model = torchvision.models.mobilenet_v2(width_mult=0.25).train(training)
    model.features[0].requires_grad_(False)
    model.features[1].conv[0][0].weight.grad = torch.ones_like(model.features[1].conv[0][0].weight)
    before, flags = copy.deepcopy(model.state_dict()), [p.requires_grad for p in model.parameters()]
    random_state = torch.get_rng_state()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    made = cam_head(model, 2, channels=1, x=x)
    assert [m.training for m in model.modules()] == [training] * len(list(model.modules()))
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not any(m.training for m in made.modules())
    assert all(p.grad is None for p in made.parameters())
    with torch.no_grad():
        train_head(made, [(x, torch.tensor([0, 1]))], "finetune", epochs=1)
    assert model.features[1].conv[0][0].weight.grad.eq(1).all()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert {p.data_ptr() for p in model.parameters()}.isdisjoint(p.data_ptr() for p in made.parameters())
    torch.set_rng_state(random_state)  # the head's weights are the only numbers that were drawn
    again = cam_head(model, 2, channels=1, x=x)
    torch.set_rng_state(random_state)
    expected = nn.Conv2d(again.head.convolution.in_channels, 1, 3, padding=1)
    assert torch.equal(again.head.convolution.weight, expected.weight)


def test_facts_are_kept(cnn):
    labels = ("dog", "cat", "cow")
    made = cam_head(cnn, labels, channels=8)
    assert Preprocessing.from_timm(made) == Preprocessing.from_timm(cnn)
    x = torch.randn(2, 3, 128, 128)
    assert Explainer(made).attribute(x, target="cow").target.index == 2
    with pytest.raises(UnknownName, match="horse"):
        Explainer(made).attribute(x, target="horse")
    assert "classes=3, labels=('dog', 'cat', 'cow')" in repr(made)
    assert "layer='layer4'" in repr(made)
    assert len(Explainer(made).layers()) > 5  # at the size that the body was made for
    twin = cam_head(cnn, labels, channels=8)
    twin.load_state_dict(made.state_dict())
    assert torch.equal(twin(x), made(x))
    assert torch.equal(pickle.loads(pickle.dumps(made))(x), made(x))


def test_a_layer_can_be_named_and_half_precision_kept(cnn):
    made = cam_head(copy.deepcopy(cnn).bfloat16(), 3, channels=8, layer="layer3")
    x = torch.randn(2, 3, 128, 128, dtype=torch.bfloat16)
    assert made(x).dtype == torch.bfloat16
    assert Explainer(made).attribute(x).scores.shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"classes": 1}, InvalidInput, "at least two"),
        ({"classes": True}, InvalidInput, "a number of classes or a sequence of their names"),
        ({"classes": "cat"}, InvalidInput, "a number of classes or a sequence of their names"),
        ({"classes": ("a", "b", "a")}, InvalidInput, "must be unique, got 3 names, only 2 of them distinct"),
        ({"channels": 0}, InvalidInput, "channels must be a positive integer, got 0"),
        ({"layer": "layer9"}, UnknownName, "Did you mean 'layer"),
        ({"layer": "fc"}, UnsupportedModel, "'fc', which does not return a spatial map of these images"),
        ({"x": torch.randn(1, 1, 64, 64)}, InvalidInput, "images with 3 channels, got 1"),
        ({"x": "dog.jpg"}, InvalidInput, "must be a torch.Tensor"),
        ({"model": "resnet18"}, UnsupportedModel, "torch.nn.Module, got str"),
    ],
)
def test_what_a_head_cannot_be_made_of(cnn, change, kind, message, as_users_run):
    with pytest.raises(kind, match=message):
        cam_head(**({"model": cnn, "classes": 3} | change))


def test_tokens_and_unknown_sizes_are_refused(vit):
    with pytest.raises(
        UnsupportedModel, match="returns a sequence of tokens, but the convolution of a CAM head requires a grid"
    ):
        cam_head(vit, 3)
    with pytest.raises(InvalidInput, match=r"does not accept noise of shape \(3, 224, 224\) \(.*Pass images as x"):
        cam_head(Volumes(), 2)


# Training


def body():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 10),
    )


def squares(count, seed=0):
    """Noise with a square that is red, green or blue, the class; and where it is."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.randn(count, 3, 32, 32, generator=generator)
    labels = torch.randint(3, (count,), generator=generator)
    corners = torch.randint(0, 22, (count, 2), generator=generator)
    inside = torch.zeros(count, 32, 32, dtype=torch.bool)
    for i, (top, left) in enumerate(corners.tolist()):
        inside[i, top : top + 10, left : left + 10] = True
        x[i, labels[i], top : top + 10, left : left + 10] += 1
    return x, labels, inside


def small(channels=64, **options):
    return cam_head(body(), 3, channels=channels, x=torch.randn(2, 3, 32, 32), **options)


def loader(count=256, **options):
    return DataLoader(TensorDataset(*squares(count)[:2]), 32, shuffle=True, **options)


def tensors(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def differ(before, module):
    return {name for name, value in module.state_dict().items() if not torch.equal(before[name], value)}


def test_squares_are_told_apart_and_found():
    first = small()
    _learns_squares(first, "finetune")
    _learns_squares(cam_head(first, 3, channels=64, layer="body.5", x=torch.randn(2, 3, 32, 32)), "fixed")


def _learns_squares(model, mode):
    x, labels, inside = squares(100, seed=1)
    history = train_head(model, loader(), mode, epochs=6, learning_rate=5e-3, validation=[(x, labels)])
    assert history.epochs[-1].loss < 0.5 * history.epochs[0].loss
    assert history.epochs[-1].validation > 0.9
    assert history.epochs[-1].validation == (model(x).argmax(1) == labels).double().mean().item()
    points = Explainer(model).attribute(x, target=tuple(labels.tolist())).heatmap().flatten(1).argmax(1)
    assert inside.flatten(1).gather(1, points[:, None]).double().mean() > 0.9  # a square covers a tenth of an image


def test_a_fixed_body_stays_as_it_is_to_the_last_bit():
    model = small()
    before, graphs = tensors(model), []
    model.head.register_forward_pre_hook(lambda _m, args: graphs.append(args[0].requires_grad))
    train_head(model, loader(64), "fixed", epochs=1)
    assert differ(before, model) == {f"head.{name}" for name in model.head.state_dict()}
    assert graphs == [False] * 2


def test_fine_tuning_changes_all_weights_and_no_statistics():
    model = small()
    before = tensors(model)
    train_head(model, loader(64), "finetune", epochs=1)
    assert differ(before, model) == {name for name, _ in model.named_parameters()}


def test_the_first_step_is_adams():
    model, (x, labels, _) = small(), squares(8)
    twin = copy.deepcopy(model)
    history = train_head(model, [(x, labels)], "fixed", epochs=1, flips=False)
    loss = F.cross_entropy(twin(x), labels)
    loss.backward()
    gradient = twin.head.classifier.weight.grad
    step = twin.head.classifier.weight - 1e-3 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(model.head.classifier.weight, step)
    assert history.learning_rate == 1e-3
    assert history.epochs[0].loss == pytest.approx(loss.item())
    assert train_head(model, [(x, labels)], "finetune", epochs=1).learning_rate == 1e-4


def test_losses_are_means_over_images():
    model, (x, labels, _) = small(), squares(9)
    halves = [(x[:6], labels[:6]), (x[6:], labels[6:])]
    with torch.no_grad():
        expected, right = F.cross_entropy(model(x), labels), (model(x).argmax(1) == labels).double().mean()
    history = train_head(model, halves, epochs=1, learning_rate=1e-30, flips=False)
    assert history.epochs[0].loss == pytest.approx(expected.item(), rel=1e-5)
    assert history.epochs[0].accuracy == right.item()
    assert history.epochs[0].validation is None


@pytest.mark.parametrize("flips", [True, False])
def test_images_are_mirrored_one_by_one(flips):
    model, (x, labels, _), seen = small(), squares(16), []
    model.body.register_forward_pre_hook(lambda _m, args: seen.append(args[0].clone()))
    train_head(model, [(x, labels)], epochs=1, flips=flips)
    straight = (seen[0] == x).flatten(1).all(1)
    mirrored = (seen[0] == x.flip(3)).flatten(1).all(1)
    assert (straight ^ mirrored).all()
    assert mirrored.any() == flips
    assert straight.any()


def test_a_seed_repeats():
    first, states = small(), []
    for seed in (0, 0, 1):
        model = copy.deepcopy(first)
        train_head(model, loader(64), epochs=1, seed=seed)
        states.append(tensors(model.head))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["convolution.weight"], states[2]["convolution.weight"])


def test_the_users_random_state_goes_on(as_users_run):  # the shape checks draw from it
    model, drawn = small(), []
    for epochs in (1, 0):
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002  # the global state is the user's
        random.seed(7)
        if epochs:
            train_head(model, loader(64), epochs=epochs)
        drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))  # noqa: NPY002
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("mode", ["fixed", "finetune"])
def test_flags_are_put_back_also_after_an_exception(mode):
    model = small()
    model.body.requires_grad_(False)
    model.head.classifier.bias.requires_grad_(False)
    flags, before = [p.requires_grad for p in model.parameters()], tensors(model)
    x, labels, _ = squares(8)

    def breaking():
        class Loader:
            def __iter__(self):
                yield x, labels
                raise ZeroDivisionError

        return Loader()

    with pytest.raises(ZeroDivisionError):
        train_head(model, breaking(), mode, epochs=1)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert not any(m.training for m in model.modules())
    assert ("body.0.weight" in differ(before, model)) == (mode == "finetune")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"mode": "fixd"}, InvalidInput, "mode must be one of 'fixed', 'finetune', got 'fixd'"),
        ({"epochs": 0}, InvalidInput, "epochs must be a positive integer, got 0"),
        ({"learning_rate": -1}, InvalidInput, "must be above 0, got -1"),
        ({"loader": []}, InvalidInput, "loader did not yield any images"),
        ({"validation": []}, InvalidInput, "validation did not yield any images"),
        ({"loader": iter([])}, InvalidInput, "an iterator, which can be iterated only once"),
        ({"loader": [torch.randn(2, 3, 32, 32)]}, InvalidInput, "two tensors, images"),
        ({"labels": torch.tensor([0, 3])}, InvalidInput, "must be from 0 to 2 for a model of 3 classes, got 3"),
        ({"labels": torch.tensor([-1, 2])}, InvalidInput, "for a model of 3 classes, got -1"),
        (
            {"labels": torch.tensor([0.0, 1.0])},
            InvalidInput,
            r"integers, one for each of the 2 images, got torch.float",
        ),
        ({"labels": torch.tensor([0, 1, 2])}, InvalidInput, r"got torch.int64 \(3,\)"),
        ({"x": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}, InvalidInput, "raw pixels"),
        (
            {"x": torch.full((2, 3, 32, 32), torch.nan)},
            AttribkitError,
            "loss became nan in epoch 1. Lower learning_rate",
        ),
        ({"model": torchvision.models.squeezenet1_1()}, UnsupportedModel, r"must be a CAMModel, got SqueezeNet"),
    ],
)
def test_what_cannot_be_trained(change, kind, message, as_users_run):
    x, labels = change.pop("x", torch.randn(2, 3, 32, 32)), change.pop("labels", torch.tensor([0, 1]))
    arguments = {"model": small(8), "loader": [(x, labels)], "epochs": 1} | change
    with pytest.raises(kind, match=message):
        train_head(**arguments)


def test_half_floats_are_refused_and_doubles_trained():
    with pytest.raises(InvalidInput, match="float16 model cannot be trained"):
        train_head(small().half(), [], epochs=1)
    model, (x, labels, _) = small().double(), squares(8)
    train_head(model, [(x, labels.to(torch.uint8))], epochs=1)
    assert model(x.double()).dtype == torch.double


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", ["fixed", "finetune"])
def test_on_a_gpu(mode):
    model = small().cuda()
    history = train_head(model, loader(), mode, epochs=6, learning_rate=3e-3)
    assert history.epochs[-1].accuracy > 0.8
    assert next(model.parameters()).is_cuda
    made = cam_head(torchvision.models.mobilenet_v2(width_mult=0.25).cuda(), 3, x=torch.randn(2, 3, 64, 64).cuda())
    assert made(torch.randn(2, 3, 64, 64).cuda()).is_cuda


# The benchmark and the page


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import cam_head

    return cam_head


def test_the_benchmark_trains_in_both_modes(benchmark, cnn):
    pictures = [(Image.new("RGB", (32, 32), (25 * label, 0, 0)), label) for label in range(10)]
    arguments = benchmark.parse(["--paper", "--epochs", "1", "--limit", "6", "--channels", "4", "--device", "cpu"])
    body = benchmark.Body(cnn, Preprocessing((64, 64), 64, (0.5,) * 3, (0.5,) * 3))
    result = benchmark.measure("zoo", body, benchmark.Data(pictures, pictures[:7]), arguments)
    assert (result["train"], result["test"]) == (6, 6)
    assert {result[mode]["layer"] for mode in ("fixed", "finetune")} == {"layer4"}
    assert result["finetune"]["history"]["learning_rate"] == 1e-4
    assert json.dumps(result)


def test_the_page_quotes_what_was_measured():
    page = (ROOT / "docs" / "cam_head.md").read_text()
    (body,) = json.loads((ROOT / "benchmarks" / "results" / "cam_head_cifar10.json").read_text())["result"][
        "bodies"
    ].values()
    for mode in ("fixed", "finetune"):
        assert f"| `{mode}` | {body[mode]['test_accuracy']:.1%} |" in page
    assert f"{body['train']:,} training and {body['test']:,} test images" in page
    assert f"{len(body['fixed']['history']['epochs'])} epochs" in page


def test_the_code_of_the_page_runs():
    page = (ROOT / "docs" / "cam_head.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {"loader": [(torch.randn(2, 3, 96, 96), torch.tensor([0, 2]))], "x": torch.randn(2, 3, 96, 96)}
    names["test_loader"] = names["loader"]
    exec(code.replace('weights="DEFAULT"', "weights=None"), names)
    torch.testing.assert_close(names["attribution"].scores, cam(names["model"], names["x"], 1))
