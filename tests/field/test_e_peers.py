"""What the tests of other libraries ask of theirs, asked of attribkit: the meaning, with numbers of our own.

Sections: pytorch-grad-cam, torch-cam, captum, zennit and Quantus. Where attribkit refuses on purpose, the sentence is
tested, and docs/parity.md says why.
"""

import contextlib
import copy
import functools
import gc
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.vgg import make_layers

from attribkit import (
    AttribkitError,
    Attribution,
    Box,
    ClassLogit,
    Contrast,
    Explainer,
    ModelSpec,
    Unit,
    registry,
)
from attribkit.methods._gradients import Saliency

pytestmark = pytest.mark.usefixtures("as_users_run")

OF_GRADIENTS = ["gradcam", "gradcam++", "hirescam", "xgradcam", "layercam", "eigencam"]
OF_FORWARDS = ["scorecam", "ablationcam"]


def close(found, expected, rtol=1e-6, atol=1e-9):
    expected = torch.as_tensor(expected).to(found.dtype)
    torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=rtol, atol=atol)


def read(model, layer, x, score):
    """What a layer puts out for the images, and the derivative of their scores by it."""
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[-1]) or call[-1].clone())
    try:
        scores = score(model(x.clone().requires_grad_()))
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(scores.sum(), kept[-1])
    return kept[-1].detach(), gradient


def by_hand(method, maps, gradient):
    """The map of a method from a layer's maps and their gradient, (b, *grid), written from the papers."""
    over = tuple(range(2, maps.ndim))
    total = maps.sum(over, keepdim=True)
    if method == "eigencam":
        return torch.stack([principal(each) for each in maps])
    weighted = {
        "gradcam": lambda: gradient.mean(over, keepdim=True) * maps,
        "hirescam": lambda: gradient * maps,
        "layercam": lambda: gradient.relu() * maps,
        "xgradcam": lambda: ((gradient * maps).sum(over, keepdim=True) / total).nan_to_num(0, 0, 0) * maps,
        "gradcam++": lambda: (gradient.relu() / (2 + total * gradient)).sum(over, keepdim=True) * maps,
    }
    return weighted[method]().sum(1).relu()


def principal(maps):
    """The positive part of the first principal component of one image's cells.

    It is turned towards the mean activation, or, where that is nearly the same everywhere, towards its largest values.
    """
    cells = maps.flatten(1).T.numpy()
    centred = cells - cells.mean(0)
    values, vectors = np.linalg.eigh(centred @ centred.T)  # of the few cells, rather than of the channels
    scores = vectors[:, values.argmax()] * math.sqrt(values.max())
    products = scores[:, None] * centred
    skewed = abs((scores**3).sum()) > 0.01 * (abs(scores) ** 3).sum()  # two cells never are
    flat = abs(products.sum()) <= 0.01 * abs(products).sum()
    scores *= np.sign((scores**3).sum() if flat and skewed else products.sum())
    return torch.as_tensor(scores).relu().reshape(maps.shape[1:])


def largest(scores):
    return scores.amax(1)


def of_class(index):
    return lambda scores: scores[:, index]


def unit_range(maps):
    """Maps in the range 0 to 1, by the rule of pytorch-grad-cam: a constant map becomes zero."""
    over = tuple(range(1, maps.ndim))
    maps = maps - maps.amin(over, keepdim=True)
    return maps / (1e-7 + maps.amax(over, keepdim=True))


def calibrated(model, x):
    """In double precision, with the statistics of these images in its batch norms."""
    for module in model.modules():
        module.momentum = None if isinstance(module, nn.BatchNorm2d) else getattr(module, "momentum", None)
    model.train().double()
    with torch.no_grad():
        model(x)
    return model.eval()


# pytorch-grad-cam ---------------------------------------------------------------------------------------------------


class NarrowVGG(nn.Module):
    """VGG-11 with few channels: five poolings by two, a last one to 7x7, linear layers."""

    def __init__(self, width=4):
        super().__init__()
        plan = [1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"]
        self.features = make_layers([each if each == "M" else each * width for each in plan])
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(nn.Linear(8 * width * 49, 30), nn.ReLU(), nn.Linear(30, 10))

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


GRIDS = {(40, 32): (2, 1), (32, 40): (1, 2), (32, 128): (1, 4), (128, 32): (4, 1)}  # of a stride of 32, rounded up


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return calibrated(torchvision.models.resnet18(num_classes=10), torch.randn(8, 3, 64, 64).double())


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(1)
    model = NarrowVGG().double().eval()
    for module in model.features:
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.bias, 0.1)  # else a random net of so few channels loses its signal
    return model


@pytest.fixture(scope="module")
def explainers():
    """One explainer for each model, as users have it."""
    return functools.cache(Explainer)


@pytest.fixture(scope="module")
def answers():
    """What was read by hand, kept for the tests of several methods."""
    return {}


@pytest.mark.parametrize("method", [*OF_GRADIENTS, "cam"])
@pytest.mark.parametrize(("layer", "target"), [("layer4.1", None), ("layer4.0", 7)])
@pytest.mark.parametrize("size", GRIDS)
def test_a_resnet_has_maps_on_grids_of_one_row_or_column(resnet, explainers, answers, size, layer, target, method):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(4)).double()
    explainer = explainers(resnet)
    if method == "cam" and layer == "layer4.0":
        with pytest.raises(AttribkitError, match="requires a score that is a weighted sum of averaged channels"):
            explainer.attribute(x, method, target=target, layer=layer)
        return
    found = explainer.attribute(x, method, target=target, layer=layer)
    assert found.scores.shape == (2, 1, *GRIDS[size])
    assert found.heatmap().shape == (2, *size)
    key = size, layer, target
    if key not in answers:
        answers[key] = read(resnet, layer, x, largest if target is None else of_class(target))
    maps, gradient = answers[key]
    assert maps.shape[2:] == GRIDS[size]
    if method == "cam":
        classes = resnet(x).argmax(1) if target is None else [target] * 2
        expected = torch.einsum("bd,bdhw->bhw", resnet.fc.weight[classes], maps)
    else:
        expected = by_hand(method, maps, gradient)
    close(found.scores, expected.detach(), rtol=1e-5)


@pytest.mark.parametrize("method", OF_GRADIENTS)
@pytest.mark.parametrize("size", [(64, 32), (32, 128), (128, 32), (448, 32)])
def test_a_pooling_that_repeats_cells_does_not_hinder_the_choice_of_the_layer_before_it(vgg, size, method):
    x = torch.randn(2, 3, *size).double()
    found = Explainer(vgg).attribute(x, method, target=3)
    assert found.scores.shape[2:] == (size[0] // 32, size[1] // 32)
    assert any("layer='features'" in note for note in found.notes)
    close(found.scores, by_hand(method, *read(vgg, "features", x, of_class(3))), rtol=1e-5)


def masked_scores(model, x, maps, score):
    """Of each channel, the score of the images seen through it, (d, b)."""
    scores = []
    for channel in maps.split(1, 1):
        mask = F.interpolate(channel, x.shape[2:], mode="bilinear" if x.ndim == 4 else "trilinear")
        over = tuple(range(1, mask.ndim))
        low, high = mask.amin(over, keepdim=True), mask.amax(over, keepdim=True)
        scores.append(score(model(x * (mask - low) / (high - low).clamp(min=1e-8))))
    return torch.stack(scores)


def scores_without(model, layer, x, channels, score):
    """The score with each channel of a layer set to zero, (d, b)."""
    scores = []
    for channel in range(channels):

        def cut(_, args, output, channel=channel):
            return output.index_fill(1, torch.tensor([channel]), 0)

        handle = model.get_submodule(layer).register_forward_hook(cut)
        scores.append(score(model(x)))
        handle.remove()
    return torch.stack(scores)


@torch.no_grad()
def slowly(method, model, layer, x, score):
    """Score-CAM and Ablation-CAM, a channel at a time."""
    with torch.enable_grad():
        maps = read(model, layer, x, score)[0]
    if method == "scorecam":
        weights = masked_scores(model, x, maps, score).softmax(0)
    else:
        whole = score(model(x))
        weights = (whole - scores_without(model, layer, x, maps.shape[1], score)) / whole.abs()
    return torch.einsum("db,bd...->b...", weights, maps).relu()


@pytest.mark.parametrize("method", OF_FORWARDS)
@pytest.mark.parametrize(("layer", "target"), [("features.20", None), (None, 3)])
@pytest.mark.parametrize("size", [(64, 32), (32, 128)])
def test_methods_of_forwards_have_maps_on_grids_of_one_row_or_column(vgg, size, layer, target, method):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(4)).double()
    classes = vgg(x).argmax(1).tolist() if target is None else [target] * 2
    found = Explainer(vgg, batch_size=4).attribute(x, method, target=target, layer=layer)
    expected = slowly(method, vgg, "features.20", x, lambda scores: scores[range(len(scores)), classes])
    assert found.scores.shape[2:] == (size[0] // 32, size[1] // 32)
    close(found.scores, expected)


@pytest.mark.parametrize("method", [*OF_GRADIENTS, *OF_FORWARDS, "cam", "guided_gradcam"])
@pytest.mark.parametrize("target", [None, 7])
@pytest.mark.parametrize("model", ["resnet", "vgg"])
def test_a_single_cell_is_refused_in_one_sentence(model, target, method, explainers, request):
    layer = {"resnet": "layer4.1", "vgg": "features.20"}[model]
    x = torch.randn(2, 3, 32, 32).double()
    told = rf"Layer '{layer}' does not have a grid: its output of shape \(2, \d+, 1, 1\) is a single cell for images of"
    with pytest.raises(AttribkitError, match=told):
        explainers(request.getfixturevalue(model)).attribute(x, method, target=target, layer=layer)


@pytest.mark.parametrize("method", OF_GRADIENTS)
@pytest.mark.parametrize(("model", "layer"), [("resnet", "layer3"), ("vgg", "features.19")])
def test_where_the_last_map_is_a_single_cell_the_one_before_it_is_chosen(model, layer, method, request):
    model, x = request.getfixturevalue(model), torch.randn(2, 3, 32, 32).double()
    found = Explainer(model).attribute(x, method, target=7)
    assert any(f"layer='{layer}'" in note for note in found.notes)
    assert found.scores.shape == (2, 1, 2, 2)
    close(found.scores, by_hand(method, *read(model, layer, x, of_class(7))), rtol=1e-5)


@pytest.mark.parametrize(("rise", "noted"), [(1.0, False), (1e-3, True)])
def test_of_two_cells_eigencam_shows_the_one_of_the_larger_mean_and_says_where_that_tells_little(rise, noted):
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Flatten(), nn.Linear(4, 2)).double()
    model[0].weight.data.copy_(torch.eye(2).double()[..., None, None])
    x = torch.tensor([[[[0.0, 2]], [[2.0, 0]]]]).double()  # the channels trade places
    x[..., 1] += rise
    for images, place in ((x, 1), (x.flip(3), 0)):
        found = Explainer(model).attribute(images, "eigencam", layer="0")
        assert found.scores.flatten().argmax() == place
        assert found.scores.flatten()[1 - place] == 0
        assert any("nor the values of largest magnitude determine" in note for note in found.notes) == noted


PEERS_CAMS = {"gradcam": "GradCAM", "hirescam": "HiResCAM", "layercam": "LayerCAM", "xgradcam": "XGradCAM"}


@pytest.mark.parametrize("method", PEERS_CAMS)
@pytest.mark.parametrize(("size", "layers"), [((40, 32), ["layer4.1", "layer4.0"]), ((32, 128), ["layer4.1"])])
def test_on_one_row_or_column_heatmaps_are_those_of_pytorch_grad_cam(resnet, explainers, size, layers, method):
    peers = pytest.importorskip("pytorch_grad_cam")
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(4)).double()
    category = int(resnet(x).sum(0).argmax())

    def loud(outputs):
        return 1e6 * outputs[..., category]

    found = explainers(resnet).attribute(x, method, target=loud, layer=layers).heatmap()
    with getattr(peers, PEERS_CAMS[method])(resnet, [resnet.get_submodule(each) for each in layers]) as cam:
        theirs = cam(input_tensor=x, targets=[loud, loud])
    np.testing.assert_allclose(unit_range(found), theirs, rtol=0, atol=1e-5)


SMALL = ["mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5", "regnet_y_400mf"]


@pytest.mark.parametrize("name", SMALL)
def test_other_models_choose_their_grid_of_one_row(name):
    model = calibrated(torchvision.models.get_model(name), torch.randn(4, 3, 64, 64).double())
    x = torch.randn(1, 3, 32, 128).double()
    found = Explainer(model).attribute(x, "gradcam", target=5)
    note = next(note for note in found.notes if note.startswith("layer="))
    layer = note.split("'")[1]
    maps, gradient = read(model, layer, x, of_class(5))
    assert found.scores.shape[2:] == maps.shape[2:]
    assert min(maps.shape[2:]) == 1
    close(found.scores, by_hand("gradcam", maps, gradient), rtol=1e-5)


def test_grey_images_have_maps_like_images_of_three_channels():
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    x = torch.randn(4, 1, 64, 96).double()
    calibrated(model, x)
    found = Explainer(model).attribute(x, "gradcam", layer=model.layer4)
    close(found.scores, by_hand("gradcam", *read(model, "layer4", x, largest)), rtol=1e-5)


@pytest.mark.parametrize("method", ["gradcam", "eigencam", "scorecam", "ablationcam"])
def test_calls_in_a_loop_leave_no_tensor_behind(vgg, method):
    x = torch.randn(1, 3, 32, 64).double()

    explainer = Explainer(vgg)
    explainer.attribute(x, method, target=3)
    gc.collect()
    gc.freeze()  # what is there already does not count
    try:
        for _ in range(2):
            explainer.attribute(x, method, target=3)
            Explainer(vgg).attribute(x, method, target=3)
        gc.collect()
        left = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    finally:
        gc.unfreeze()
    assert left == []


class Detector(nn.Module):
    """Finds one box whose score is the mean of the image's left half; none where that is too low."""

    def __init__(self, least=-math.inf):
        super().__init__()
        self.weight, self.least = nn.Parameter(torch.ones(()).double()), least

    def forward(self, images):
        found = []
        for image in images:
            score = (self.weight * image[..., :4].mean())[None]
            keep = score > self.least
            boxes = torch.tensor([[0.0, 0, 4, 8]], dtype=image.dtype)
            found.append({"boxes": boxes[keep], "labels": torch.ones(1, dtype=torch.long)[keep], "scores": score[keep]})
        return found


def test_a_box_is_scored_by_its_overlap_times_the_score_of_the_detection():
    x = torch.rand(2, 3, 8, 8).double()
    found = Explainer(Detector()).attribute(x, "saliency", target=Box((0, 0, 8, 8), 1))
    expected = torch.zeros(2, 1, 8, 8).double()
    expected[..., :4] = 0.5 / (3 * 4 * 8)  # the box is half of the one that is asked for
    close(found.scores.amax(1, keepdim=True), expected)
    assert found.scores.dtype == torch.float64
    score = found.target(Detector()(x))
    close(score, x[..., :4].mean((1, 2, 3)) / 2)


def test_no_detection_scores_zero_and_a_note_says_so():
    x = torch.rand(2, 3, 8, 8).double()
    target = Box((0.0, 0, 8, 8), 1)
    assert target(Detector(least=2)(x)).tolist() == [0, 0]
    found = Explainer(Detector(least=2)).attribute(x, "occlusion", target=target, patch=4, stride=4)
    assert any("no detection of the class overlaps the box" in note for note in found.notes)


class Spoilt(nn.Module):
    """Puts out a value that is not a number."""

    def forward(self, x):
        return x.where(x < x.amax((1, 2, 3), keepdim=True), math.nan)


@pytest.mark.parametrize("method", ["eigencam", "gradcam", "layercam", "scorecam"])
def test_a_layer_that_is_not_a_number_is_refused_and_images_are_left_alone(method):
    class Mended(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.spoilt, self.head = nn.Conv2d(3, 4, 3), Spoilt(), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.spoilt(self.first(x)).nan_to_num().mean((2, 3)))

    x = torch.randn(1, 3, 8, 8)
    seen = x.clone()
    with pytest.raises(AttribkitError, match=r"not finite|NaN"):
        Explainer(Mended()).attribute(x, method, target=0, layer="spoilt")
    assert torch.equal(x, seen)


@pytest.mark.parametrize("method", [*PEERS_CAMS, "eigencam"])
def test_adcc_of_every_cam_lies_between_zero_and_one(vgg, method):
    x = torch.rand(2, 3, 64, 64).double()
    explainer = Explainer(vgg)
    found = explainer.attribute(x, method, target=3)
    values = explainer.evaluate(found, "adcc")
    known = values[~values.isnan()]
    assert bool(((known >= 0) & (known <= 1)).all())
    assert bool(known.numel()) or bool((found.heatmap().amax((1, 2)) == 0).all())


# torch-cam ----------------------------------------------------------------------------------------------------------


def small_net(axes=2, classes=3, head=None, inplace=False):
    """Two convolutions, average pooling and a linear head; its maps are not rectified away."""
    torch.manual_seed(2)
    conv, pool = (nn.Conv2d, nn.AdaptiveAvgPool2d) if axes == 2 else (nn.Conv3d, nn.AdaptiveAvgPool3d)
    body = [conv(3, 8, 3, padding=1), nn.ReLU(), conv(8, 16, 3, padding=1), nn.ReLU(inplace), pool(1)]
    return nn.Sequential(nn.Sequential(*body), *(head or [nn.Flatten(), nn.Linear(16, classes)])).double().eval()


def fully_convolutional():
    return small_net(head=[nn.Conv2d(16, 3, 1), nn.Flatten()])


TORCHCAM = {"gradcam": "GradCAM", "layercam": "LayerCAM", "xgradcam": "XGradCAM", "cam": "CAM"}


def of_torchcam(name, model, layer, x, classes, **options):
    methods = pytest.importorskip("torchcam.methods")
    with getattr(methods, name)(model, layer, **options) as extractor:
        return extractor(classes, model(x), normalized=False)[0].detach()


@functools.cache
def net_of_mobilenet():
    return calibrated(torchvision.models.mobilenet_v2(num_classes=10), torch.randn(4, 3, 64, 64).double())


NETS = {
    "mobilenet_v2": (net_of_mobilenet, "features.18.0", "features.18.2", (3, 64, 64)),
    "an image": (small_net, "0.2", "0.3", (3, 12, 10)),
    "in-place ReLU": (lambda: small_net(inplace=True), "0.2", None, (3, 12, 10)),
    "fully convolutional": (fully_convolutional, "0.2", "0.3", (3, 12, 10)),
    "a clip": (lambda: small_net(3), "0.2", "0.3", (3, 8, 6, 6)),
}


@pytest.mark.parametrize("method", TORCHCAM)
@pytest.mark.parametrize(("batch", "classes"), [(1, 1), (2, 1), (2, [1, 2])])
@pytest.mark.parametrize("net", NETS)
def test_raw_maps_are_those_of_torchcam(net, explainers, batch, classes, method):
    build, before, behind, shape = NETS[net]
    torch.manual_seed(0)
    model, x = build(), torch.rand(2, *shape).double()[:batch]
    layer = behind if method == "cam" and behind else before
    if method == "cam" and layer != behind:
        with pytest.raises(AttribkitError, match="requires a score that is a weighted sum of averaged channels"):
            explainers(model).attribute(x, method, target=classes, layer="0.0")
        return
    found = explainers(model).attribute(x, method, target=classes, layer=layer)
    heads = {"mobilenet_v2": "classifier.1", "fully convolutional": "1"}
    options = {"fc_layer": heads.get(net, "2")} if method == "cam" else {}
    if net == "in-place ReLU":  # torch-cam reads what the ReLU wrote, with the gradient from before it
        chosen = [classes] * batch if isinstance(classes, int) else classes
        expected = by_hand(method, *read(model, layer, x, lambda scores: scores[range(batch), chosen]))
    else:
        expected = of_torchcam(TORCHCAM[method], model, layer, x, classes, **options)
    assert float(expected.abs().max()) > 0
    exact = 1e-3 if method == "xgradcam" else 1e-5  # torch-cam adds a constant to the totals of XGrad-CAM
    close(found.scores, expected, rtol=exact, atol=1e-9 + 1e-7 * float(expected.abs().max()))


@pytest.mark.parametrize("method", [*OF_FORWARDS, "gradcam++", "hirescam", "eigencam"])
@pytest.mark.parametrize("net", ["an image", "a clip"])
def test_other_methods_have_maps_of_images_and_clips(net, method):
    build, _, layer, shape = NETS[net]
    model, x = build(), torch.rand(2, *shape).double()
    found = Explainer(model).attribute(x, method, target=1, layer=layer)
    if method in OF_FORWARDS:
        expected = slowly(method, model, layer, x, of_class(1))
    else:
        expected = by_hand(method, *read(model, layer, x, of_class(1)))
    assert float(expected.max()) > 0
    close(found.scores, expected)


@pytest.mark.parametrize(("layer", "classes"), [("0.1", 1), ("0.3", [1, 2])])
@pytest.mark.parametrize("method", [*OF_FORWARDS, "occlusion", "rise", "smoothgrad", "integrated_gradients"])
def test_chunks_of_three_and_of_sixty_four_give_the_same(method, classes, layer):
    model, x = small_net(), torch.rand(2, 3, 8, 8).double()
    options = {
        "occlusion": {"patch": 3, "stride": 2},
        "rise": {"masks": 20, "cells": 3},
        "smoothgrad": {"samples": 7},
        "integrated_gradients": {"steps": 11},
    }.get(method, {"layer": layer})
    few, many = (Explainer(model, batch_size=n).attribute(x, method, target=classes, **options) for n in (3, 64))
    torch.testing.assert_close(few.scores, many.scores)
    assert few.scores.dtype == torch.float64


def state(model):
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
    flags = [m.training for m in model.modules()]
    return hooks, flags, [(p.requires_grad, p.grad) for p in model.parameters()]


def fails_at(call, model):
    """An error of the model itself, in one of its forwards."""
    calls = itertools.count()

    def hook(*_):
        if next(calls) == call:
            raise ZeroDivisionError("boom")

    return model[0][2].register_forward_hook(hook)


CALLS = {
    "an answer": ({"target": 1}, None),
    "a class that is not there": ({"target": 9}, AttribkitError),
    "an option that is not there": ({"target": 1, "nope": 1}, AttribkitError),
    "an error of the model": ({"target": 1}, ZeroDivisionError),
}


@pytest.mark.parametrize("method", [*OF_GRADIENTS, *OF_FORWARDS, "guided_backprop", "smoothgrad", "rise"])
@pytest.mark.parametrize("call", CALLS)
def test_hooks_modes_and_gradients_are_as_they_were(call, method):
    model, x = small_net().train(), torch.rand(1, 3, 8, 8).double()
    model[0][1].eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 2 == 0)
        parameter.grad = torch.ones_like(parameter)
    asked, error = CALLS[call]
    if method == "eigencam" and call == "a class that is not there":
        error = None  # it asks for no class
    few = {"smoothgrad": {"samples": 4}, "rise": {"masks": 16, "cells": 3}}.get(method, {})
    failing = fails_at(1, model) if error is ZeroDivisionError else None
    before = state(model)
    values = copy.deepcopy(model.state_dict())
    with pytest.raises(error) if error else contextlib.nullcontext():
        Explainer(model).attribute(x, method, **asked, **few)
    after = state(model)
    assert before[:2] == after[:2]
    for (flag, gradient), (flag_after, gradient_after) in zip(before[2], after[2], strict=True):
        assert flag == flag_after
        assert gradient is gradient_after
        assert bool((gradient == 1).all())
    assert all(torch.equal(values[name], value) for name, value in model.state_dict().items())
    if failing:
        failing.remove()


WRONG = {
    "a layer that is not there": ({"layer": "3"}, "No layer is named '3'. Known: 0,"),
    "a number for a layer": ({"layer": 3}, "layer must be a string .* or None, got 3"),
    "a list of numbers": ({"layer": [3]}, r"layer must be a string .* or None, got \(3,\)"),
    "no layers": (
        {"layer": []},
        r"layer must be a string that is not empty, a non-empty tuple of these or None, got \(\)",
    ),
    "a module of another model": ({"layer": nn.ReLU()}, "is not a layer of this model"),
    "a layer behind the pooling": ({"layer": "0.4"}, "is a single cell .*, without spatial information"),
    "a layer without space": ({"layer": "2"}, "does not have a grid"),
    "a class below zero": ({"target": -1}, "The class index -1 is out of range: the model has 3 classes, 0 to 2"),
    "a class below zero in a list": ({"target": [-1]}, "The class index -1 is out of range"),
    "a class too many": ({"target": 3}, "The class index 3 is out of range"),
    "two classes for one image": ({"target": [0, 1]}, "2 targets for 1 images"),
    "a class that is a text": ({"target": "0"}, "the labels of this model are unknown"),
    "a truth value": ({"target": True}, "target must be a class index, a label, .* got True"),
    "an option of another library": ({"target_layer": "0.3"}, "No option of 'gradcam' is named 'target_layer'"),
    "a function that returns two scores": (
        {"target": lambda y: y[:, :2]},
        r"must return one score per image, a tensor of shape \(b,\), got a tensor of shape \(1, 2\)",
    ),
    "a function that returns a number": ({"target": lambda y: 1}, "must return one score per image, .* got int"),
    "a score without a gradient": (
        {"target": lambda y: y[:, 0].detach()},
        "the gradient of the score does not reach any spatial map",
    ),
    "the name of no method": ({"method": "gradcan"}, "Did you mean 'gradcam'"),
    "a class that is no method": ({"method": nn.Module}, "method must be a name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused_in_a_sentence(case):
    options, told = WRONG[case]
    with pytest.raises(AttribkitError, match=told):
        Explainer(small_net()).attribute(torch.rand(1, 3, 8, 8).double(), **options)


BAD_IMAGES = {
    "no tensor": (lambda x: None, "Images must be a torch.Tensor"),
    "whole numbers": (lambda x: x.byte(), "got torch.uint8: convert raw pixels to floats"),
    "no batch": (lambda x: x[0], "The batch axis is missing"),
    "no images": (lambda x: x[:0], "no images|empty|at least one"),
    "not a number": (lambda x: x.log() * math.nan, "have NaN or infinite values"),
    "another precision": (lambda x: x.float(), "pass x.to"),
    "a tuple": (lambda x: (x, x), "got tuple of 2 entries"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_images_that_are_none_are_refused_in_a_sentence(case):
    change, told = BAD_IMAGES[case]
    with pytest.raises(AttribkitError, match=told):
        Explainer(small_net()).attribute(change(torch.rand(1, 3, 8, 8).double()))


class Answering(nn.Module):
    """A network with its answer changed."""

    def __init__(self, change):
        super().__init__()
        self.net, self.change = small_net(), change

    def forward(self, x):
        return self.change(self.net(x))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda y: y * math.nan, "score of the target is not finite"),
        (lambda y: (y, y + 1), "several tensors that could be class scores"),
        (lambda y: y[:, :, None, None].expand(-1, -1, 4, 4), "Region"),
    ],
)
def test_outputs_that_are_no_class_scores_are_refused_in_a_sentence(change, told):
    with pytest.raises(AttribkitError, match=told):
        Explainer(Answering(change)).attribute(torch.rand(1, 3, 8, 8).double(), "gradcam")


def rows(scores):
    """What a detector of two things may return: a dict for each image."""
    return [{"first": row[0], "second": row[1]} for row in scores]


def first(outputs):
    return torch.stack([row["first"] for row in outputs])


def second(outputs):
    return torch.stack([row["second"] for row in outputs])


@pytest.mark.parametrize("method", [*OF_GRADIENTS, *OF_FORWARDS])
def test_functions_of_structured_outputs_may_differ_from_image_to_image(method):
    model, x = Answering(rows), torch.rand(2, 3, 8, 8).double()
    found = Explainer(model).attribute(x, method, layer="net.0.3", target=[first, second])
    expected = Explainer(model.net).attribute(x, method, layer="0.3", target=[0, 1])
    torch.testing.assert_close(found.scores, expected.scores)
    assert float(expected.scores.max()) > 0


def net_of_two_sizes():
    """Its two convolutions see the image and half of it."""
    body = small_net()[0]
    return nn.Sequential(body[:2], nn.AvgPool2d(2), *body[2:], nn.Flatten(), nn.Linear(16, 3)).double()


def test_a_list_of_one_layer_has_the_map_of_that_layer():
    explainer, x = Explainer(net_of_two_sizes()), torch.rand(2, 3, 8, 8).double()
    one, of_a_list = (explainer.attribute(x, "layercam", target=1, layer=layer).scores for layer in ("3", ["3"]))
    assert one.shape[2:] == (4, 4)
    assert torch.equal(one, of_a_list)


def test_the_map_of_several_layers_is_the_mean_of_theirs_in_the_range_0_to_1():
    model, x = net_of_two_sizes(), torch.rand(2, 3, 8, 8).double()
    found = Explainer(model).attribute(x, "layercam", target=1, layer=["0", "3"]).scores
    parts = []
    for name in ("0", "3"):
        part = unit_range(by_hand("layercam", *read(model, name, x, of_class(1))))
        parts.append(F.interpolate(part[:, None], (8, 8), mode="bilinear"))
    assert parts[0].shape == parts[1].shape == found.shape
    torch.testing.assert_close(found, torch.stack(parts).mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["GradCAM", "LayerCAM"])
@pytest.mark.parametrize("others", [[2], [0, 2]])
@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_a_score_less_a_share_of_others_has_the_map_of_finer_cam(gamma, others, method):
    methods = pytest.importorskip("torchcam.methods")
    model, x = small_net(), torch.rand(2, 3, 8, 8).double()

    def finer(scores):
        return scores[:, 1] - gamma * scores[:, others].mean(1)

    explainer = Explainer(model)
    name = {"GradCAM": "gradcam", "LayerCAM": "layercam"}[method]
    found = explainer.attribute(x, name, layer="0.3", target=finer).scores
    with methods.FinerCAM(model, "0.3", base_method=getattr(methods, method), gamma=gamma) as extractor:
        expected = extractor([1, 1], model(x), comparison_idx=others, normalized=False)[0]
    close(found, expected.detach(), atol=1e-9)
    if gamma == 1 and others == [2]:
        contrast = explainer.attribute(x, name, layer="0.3", target=Contrast(1, against=2)).scores
        torch.testing.assert_close(contrast, found)


def test_references_are_averaged_before_the_map_is_rectified():
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 3, False))
    nn.init.ones_(model[0].weight)
    model[3].weight.data = torch.tensor([[1.0], [3.0], [-1.0]])
    explainer, x = Explainer(model), torch.ones(1, 1, 2, 2)
    both = explainer.attribute(x, "gradcam", layer="0", target=lambda y: y[:, 0] - y[:, 1:].mean(1)).scores
    assert not both.any()
    pairs = [explainer.attribute(x, "gradcam", layer="0", target=Contrast(0, against=k)).scores for k in (1, 2)]
    close(torch.cat(pairs).amax((1, 2, 3)), [0.0, 0.5])  # the weight 2 over 4 cells


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10)
    nn.init.normal_(model.heads.head.weight)
    return model.double().eval()


def grid_of_tokens(tokens):
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))


@pytest.mark.parametrize("method", ["layercam", "gradcam", "xgradcam"])
def test_tokens_of_a_transformer_have_the_map_of_torchcam_without_a_function_that_reshapes(transformer, method):
    x = torch.randn(2, 3, 32, 32).double()
    layer = "encoder.layers.encoder_layer_1.ln_1"
    found = Explainer(transformer).attribute(x, method, target=[3, 4], layer=layer)
    name = {"layercam": "LayerCAM", "gradcam": "GradCAM", "xgradcam": "XGradCAM"}[method]
    expected = of_torchcam(name, transformer, layer, x, [3, 4], reshape_transform=grid_of_tokens)
    assert found.scores.shape == (2, 1, 4, 4)
    assert float(expected.std()) > 0
    close(found.scores, expected, rtol=1e-4, atol=1e-7)


def test_score_cam_of_tokens_is_that_of_their_grid(transformer):
    x, layer = torch.randn(1, 3, 32, 32).double(), "encoder.layers.encoder_layer_1.ln_1"
    maps = grid_of_tokens(read(transformer, layer, x, of_class(3))[0])
    found = Explainer(transformer, batch_size=7).attribute(x, "scorecam", target=3, layer=layer).scores
    with torch.no_grad():
        weights = masked_scores(transformer, x, maps, of_class(3)).softmax(0)
    close(found, torch.einsum("db,bd...->b...", weights, maps).relu())


@pytest.mark.parametrize(
    ("name", "layer"), [("resnet18", "layer4"), ("mobilenet_v3_large", "features"), ("vgg11", "features")]
)
def test_the_layer_that_people_name_is_chosen(name, layer):
    build = torchvision.models.get_model_builder(name)
    model = NarrowVGG() if name == "vgg11" else build(num_classes=10)
    chosen = [each for each in Explainer(model).layers(torch.randn(1, 3, 96, 96)) if each.chosen]
    assert [each.name for each in chosen] == [layer]


def test_the_layer_before_the_pooling_of_a_container_is_chosen_and_modes_are_kept():
    model = small_net().train()
    model[0][1].eval()
    modes = [each.training for each in model.modules()]
    chosen = [each.name for each in Explainer(model).layers(torch.rand(2, 3, 8, 8).double()) if each.chosen]
    assert chosen == ["0.3"]
    assert modes == [each.training for each in model.modules()]


class Total(nn.Module):
    """The sum of the pixels, and one less it."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()).double())

    def forward(self, x):
        total = self.one * x.flatten(1).sum(1)
        return torch.stack([total, 1 - total], 1)


def mapped(scores, x, index=0):
    scores = torch.as_tensor(scores, dtype=x.dtype).expand(len(x), 1, *x.shape[2:])
    return Attribution(scores, x, ClassLogit(index), Saliency())


QUARTERS = torch.tensor([[[[0.4, 0.3], [0.2, 0.1]]]]).double()
FIFTHS = torch.tensor([[[[0.3, 0.25, 0.2, 0.15, 0.1]]]]).double()


@pytest.mark.parametrize(
    ("x", "steps", "deletion", "insertion"),
    [(QUARTERS, 2, 0.4, 0.6), (FIFTHS, 3, 0.41, 0.59), (QUARTERS.expand(2, 1, 2, 2), 2, 0.4, 0.6)],
)
@pytest.mark.parametrize("batch_size", [1, 100])
def test_deletion_and_insertion_of_a_sum_are_the_areas_of_its_shares(x, steps, deletion, insertion, batch_size):
    explainer, attribution = Explainer(Total(), batch_size=batch_size), mapped(x, x)
    seen = x.clone()
    for name, area in (("deletion", deletion), ("insertion", insertion)):
        values = explainer.evaluate(attribution, name, preset="torchcam", steps=steps)
        assert values.tolist() == pytest.approx([area] * len(x))
    assert torch.equal(x, seen)


def test_the_drop_of_a_sum_is_what_the_map_hides():
    attribution = mapped([[[[1.0, 0], [0, 0]]]], QUARTERS)
    explainer = Explainer(Total())
    assert explainer.evaluate(attribution, "average_drop", preset="torchcam").tolist() == pytest.approx([0.6])
    assert explainer.evaluate(attribution, "increase_in_confidence", preset="torchcam").tolist() == [0]


def test_a_map_that_is_not_a_number_is_refused_before_it_is_measured():
    with pytest.raises(AttribkitError, match=r"NaN|finite"):
        Explainer(Total()).evaluate(mapped([[[[math.nan, 0], [0, 0]]]], QUARTERS), "deletion")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"steps": 0}, "steps must be .*, got 0"),
        ({"steps": 1.5}, "steps must be .*, got 1.5"),
        ({"substrate": 0}, "substrate must be .*, got 0"),
        (
            {"substrate": torch.zeros(3, 3)},
            r"images of an option have shape \(3, 3\), but the explained images have shape \(1, 1, 2, 2\)",
        ),
    ],
)
def test_steps_and_substrates_that_make_no_sense_are_refused(options, told):
    with pytest.raises(AttribkitError, match=told):
        Explainer(Total()).evaluate(mapped(QUARTERS, QUARTERS), "deletion", **options)


# captum -------------------------------------------------------------------------------------------------------------


class OneConvolution(nn.Module):
    """The sum of nine pixels less 50 and less 75, rectified; five of the eight values minus the other three."""

    def __init__(self, inplace=False):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 2, 3), nn.ReLU(inplace)
        self.linear, self.last = nn.Linear(8, 4), nn.ReLU(inplace)
        with torch.no_grad():
            self.conv.weight.fill_(1)
            self.conv.bias.copy_(torch.tensor([-50.0, -75]))
            self.linear.weight.copy_(torch.tensor([1.0] * 5 + [-1] * 3).expand(4, 8))
            self.linear.bias.zero_()

    def forward(self, x, other=None):
        x = x if other is None else x + other
        return self.last(self.linear(self.relu(self.conv(x)).flatten(1)))


COUNT = torch.arange(16.0).view(1, 1, 4, 4)
ONES = torch.ones(1, 1, 4, 4)
GUIDED = [[0.0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1]]
GUIDED_OF_TWO = [[1.0, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]]
BACK = [[2.0, 3, 3, 1], [3, 5, 5, 2], [3, 5, 5, 2], [1, 2, 2, 1]]

ONE_CONVOLUTION = {  # method, options, whether ones are added to the image, the map
    "Grad-CAM of the convolution": ("gradcam", {"layer": "conv"}, False, [[11.25, 13.5], [20.25, 22.5]]),
    "Grad-CAM of the ReLU": ("gradcam", {"layer": "relu"}, False, [[0, 4.0], [28, 32.5]]),
    "Grad-CAM with a second input": ("gradcam", {"layer": "conv"}, True, [[14.5, 19], [32.5, 37]]),
    "HiResCAM of the ReLU": ("hirescam", {"layer": "relu"}, False, [[0, 4.0], [25, 25]]),
    "deconvolution": ("deconvnet", {}, False, BACK),
    "deconvolution with a second input": ("deconvnet", {}, True, BACK),
    "guided backpropagation": ("guided_backprop", {}, False, GUIDED),
    "guided backpropagation with a second input": ("guided_backprop", {}, True, GUIDED_OF_TWO),
    "occlusion of all": ("occlusion", {"patch": 4, "stride": 4}, True, [[67.0] * 4] * 4),
    "occlusion of the halves": (
        "occlusion",
        {"patch": (2, 4), "stride": (2, 1)},
        True,
        [[17.0] * 4] * 2 + [[67.0] * 4] * 2,
    ),
    "occlusion with a stride for each axis": (
        "occlusion",
        {"patch": (2, 3), "stride": (2, 1)},
        True,
        [[17.0] * 4] * 2 + [[64, 65.5, 65.5, 67]] * 2,
    ),
}


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("case", ONE_CONVOLUTION)
def test_maps_of_one_convolution_are_known(case, inplace, learns):
    method, options, added, expected = ONE_CONVOLUTION[case]
    model = OneConvolution(inplace).requires_grad_(learns)
    inputs = {"other": ONES} if added else None
    for score in (0, Unit("linear", 0)) if "layer" not in options else (0,):
        found = Explainer(model).attribute(COUNT, method, target=score, inputs=inputs, **options)
        close(found.scores, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("patch", "stride", "expected"),
    [(4, 4, [[13.0] * 4] * 4), ((1, 2), (1, 2), [[3.0] * 4] * 3 + [[0.0] * 4])],
)
def test_the_second_input_is_explained_by_its_name(patch, stride, expected):
    explainer = Explainer(OneConvolution(), image="other")
    found = explainer.attribute(ONES, "occlusion", target=0, inputs={"x": COUNT}, patch=patch, stride=stride)
    close(found.scores, expected)


@pytest.mark.parametrize("relu", [True, False])
def test_grad_cam_of_a_negative_cell_is_rectified_or_kept(relu):
    model = nn.Sequential(nn.Identity(), OneConvolution())
    x = COUNT.clone()
    x[0, 0, 1, 1] = -4
    found = Explainer(model).attribute(x, "gradcam", target=0, layer="0", relu=relu).scores
    expected = 0.5625 * x
    close(found, expected.relu() if relu else expected)


@pytest.mark.parametrize("layer", ["conv", "relu"])
@pytest.mark.parametrize("added", [False, True])
def test_guided_grad_cam_is_the_product_of_its_two_maps(added, layer):
    inputs = {"other": ONES} if added else None
    found = Explainer(OneConvolution()).attribute(COUNT, "guided_gradcam", target=0, layer=layer, inputs=inputs)
    coarse = {  # Grad-CAM of the layer, by hand
        ("conv", False): [[11.25, 13.5], [20.25, 22.5]],
        ("relu", False): [[0.0, 4], [28, 32.5]],
        ("conv", True): [[14.5, 19.0], [32.5, 37]],
    }.get((layer, added))
    if coarse is None:
        maps, gradient = read(OneConvolution(), "relu", COUNT + ONES, of_class(0))
        coarse = by_hand("gradcam", maps, gradient)[0].tolist()
    fine = F.interpolate(torch.tensor([[coarse]]), (4, 4), mode="bilinear")
    close(found.scores, fine * torch.tensor(GUIDED_OF_TWO if added else GUIDED), rtol=1e-5)


class Layers(nn.Module):
    """Three numbers, their sum four times with a bias, rectified and added up twice."""

    def __init__(self):
        super().__init__()
        self.linear0, self.linear1, self.relu, self.linear2 = (
            nn.Linear(3, 3),
            nn.Linear(3, 4),
            nn.ReLU(),
            nn.Linear(4, 2),
        )
        with torch.no_grad():
            for module, weight, bias in (
                (self.linear0, torch.eye(3), [0.0] * 3),
                (self.linear1, torch.ones(4, 3), [-10.0, 1, 1, 1]),
                (self.linear2, torch.ones(2, 4), [-1.0, 1]),
            ):
                module.weight.copy_(weight)
                module.bias.copy_(torch.tensor(bias))

    def forward(self, x):
        return self.linear2(self.relu(self.linear1(self.linear0(x))))


class Added(nn.Module):
    """The same of a scaled sum of three inputs."""

    def __init__(self):
        super().__init__()
        self.model = Layers()

    def forward(self, a, b, c, scale=1):
        return self.model(scale * (a + b + c))


SERIES = ModelSpec(axes="bn")

VECTORS = {  # method, options, numbers, their attribution
    "each number occluded": ("occlusion", {"patch": 1, "stride": 1}, [[20.0, 50, 30]], [[80.0, 200, 120]]),
    "of two vectors": (
        "occlusion",
        {"patch": 1, "stride": 1},
        [[2.0, 10, 3], [20, 50, 30]],
        [[8.0, 35, 12], [80, 200, 120]],
    ),
    "windows of two, by tens": (
        "occlusion",
        {"patch": 2, "stride": 1, "baseline": torch.full((1, 3), 10.0)},
        [[20.0, 50, 30]],
        [[200.0, 220, 240]],
    ),
    "windows of two in steps of two": ("occlusion", {"patch": 2, "stride": 2}, [[20.0, 50, 30]], [[280.0, 280, 120]]),
    "the gradient": ("saliency", {}, [[20.0, 50, 30]], [[4.0] * 3]),
    "the gradient where one ReLU is closed": ("saliency", {}, [[2.0, 3, 1]], [[3.0] * 3]),
    "the gradient times the numbers": ("input_x_gradient", {}, [[20.0, 50, 30]], [[80.0, 200, 120]]),
    "guided backpropagation": ("guided_backprop", {}, [[20.0, 50, 30]], [[4.0] * 3]),
    "deconvolution": ("deconvnet", {}, [[2.0, 3, 1]], [[4.0] * 3]),
    "integrated gradients": (  # the first ReLU opens at a tenth of the way
        "integrated_gradients",
        {"steps": 60},
        [[20.0, 50, 30]],
        [[78.0, 195, 117]],
    ),
    "integrated gradients of three inputs": (
        "integrated_gradients",
        {"steps": 60},
        [[1.5, 2.0, 1.3], [0.5, 0.1, 2.3], [15, 20, 13]],
        [[4.5, 6, 3.9], [1.5, 0.3, 6.9], [56.875, 75.8333, 49.2917]],
    ),
}


@pytest.mark.parametrize("case", VECTORS)
@pytest.mark.parametrize("batch_size", [1, 10, "auto"])
def test_attributions_of_vectors_are_known(case, batch_size):
    method, options, x, expected = VECTORS[case]
    explainer = Explainer(Layers(), spec=SERIES, batch_size=batch_size)
    found = explainer.attribute(torch.tensor(x), method, target=0, **options)
    close(found.scores, expected, rtol=1e-2 if method == "integrated_gradients" else 1e-5)


SUMMED = {  # of three inputs that are added: which one, the size of its patch, its attribution at scale 1
    "a": (3, [[492.0] * 3, [400.0] * 3]),
    "b": (1, [[80.0, 200, 120], [0, 400, 0]]),
    "c": (2, [[400.0, 420, 440], [48, 50, 52]]),
}


@pytest.mark.parametrize("name", SUMMED)
def test_each_of_several_inputs_is_occluded_on_its_own(name):
    inputs = {
        "a": torch.tensor([[23.0, 100, 0], [20, 50, 30]]),
        "b": torch.tensor([[20.0, 50, 30], [0, 100, 0]]),
        "c": torch.tensor([[0.0, 100, 10], [2, 10, 3]]),
    }
    patch, expected = SUMMED[name]
    x = inputs.pop(name)
    explainer = Explainer(Added(), image=name, spec=SERIES)
    found = explainer.attribute(x, "occlusion", target=0, inputs={**inputs, "scale": 1}, patch=patch, stride=1)
    close(found.scores, expected)


class Formula(nn.Module):
    """A formula of the channels of an image, (b, c, 1, n); a parameter makes it a model."""

    def __init__(self, formula):
        super().__init__()
        self.one, self.formula = nn.Parameter(torch.ones(()).double()), formula

    def forward(self, x):
        return self.one * self.formula(*x.unbind(1)).flatten(1)[:, :1]


FORMULAS = {  # of integrated gradients: the formula, the channels, the exact attribution of each
    "one less than the first, less the second": (lambda a, b: F.relu(F.relu(a) - 1 - F.relu(b)), [3.0, 1], [1.5, -0.5]),
    "the same in another order": (lambda a, b: F.relu(F.relu(a - 1) - F.relu(b)), [3.0, 1], [1.5, -0.5]),
    "saturated at one": (lambda a: 1 - F.relu(1 - a), [1.0], [1.0]),
    "at its baseline": (lambda a: 1 - F.relu(1 - a), [0.0], [0.0]),
    "below its baseline": (lambda a: 1 - F.relu(1 - a), [-1.0], [-1.0]),
    "a product": (lambda a, b: a * b, [3.0, 2], [3.0, 3]),
    "a square": (lambda a, b: a * a + b, [3.0, 2], [9.0, 2]),
}


@pytest.mark.parametrize("case", FORMULAS)
@pytest.mark.parametrize("steps", [200, "auto"])
def test_integrated_gradients_of_formulas_are_exact(case, steps):
    formula, values, expected = FORMULAS[case]
    x = torch.tensor(values).double().view(1, -1, 1, 1)
    found = Explainer(Formula(formula)).attribute(x, "integrated_gradients", target=0, steps=steps)
    close(found.scores, expected, rtol=0, atol=0.02)
    total = formula(*x.unbind(1)) - formula(*torch.zeros_like(x).unbind(1))
    close(found.scores.sum(), total.sum(), rtol=0.01, atol=0.01)


def test_a_model_without_parameters_is_refused():
    with pytest.raises(AttribkitError, match="does not have floating-point parameters: pass the network"):
        Explainer(nn.Sequential(nn.ReLU(), nn.Flatten()))


class Scaled(nn.Module):
    """A model that takes a tensor for each image, a list for each image and a number besides."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.conv, self.linear = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x, weights=None, factors=(1.0, 1.0), power=1):
        maps = self.conv(x).relu() ** power
        maps = maps if weights is None else maps * weights[:, :, None, None]
        return self.linear(factors[0] * maps.mean((2, 3)) + factors[1])


ARGUMENTS = {
    "none": {},
    "a row for each image": {"weights": torch.rand(2, 4, generator=torch.Generator().manual_seed(1)).double()},
    "a row, a list and a number": {
        "weights": torch.rand(2, 4, generator=torch.Generator().manual_seed(1)).double(),
        "factors": [2.0, 3.0],
        "power": 2,
    },
}

INPUT_METHODS = {
    "saliency": ("Saliency", {}, {"abs": False}),
    "input_x_gradient": ("InputXGradient", {}, {}),
    "integrated_gradients": ("IntegratedGradients", {"steps": 20}, {"n_steps": 20, "method": "gausslegendre"}),
    "guided_backprop": ("GuidedBackprop", {}, {}),
    "deconvnet": ("Deconvolution", {}, {}),
    "occlusion": (
        "Occlusion",
        {"patch": (3, 2), "stride": (2, 2)},
        {"sliding_window_shapes": (2, 3, 2), "strides": (2, 2, 2)},
    ),
}


class Rectified(Scaled):
    """With a module for the ReLU, as captum needs it."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x, weights=None, factors=(1.0, 1.0), power=1):
        maps = self.relu(self.conv(x)) ** power
        maps = maps if weights is None else maps * weights[:, :, None, None]
        return self.linear(factors[0] * maps.mean((2, 3)) + factors[1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", INPUT_METHODS)
@pytest.mark.parametrize("target", [1, [0, 2]])
@pytest.mark.parametrize("case", ARGUMENTS)
def test_attributions_with_further_arguments_are_those_of_captum(case, target, method):
    attr = pytest.importorskip("captum.attr")
    name, options, theirs = INPUT_METHODS[method]
    model, x, more = Rectified().double(), torch.randn(2, 2, 6, 7).double(), ARGUMENTS[case]
    found = Explainer(model).attribute(x, method, target=target, inputs=more, **options).scores
    labels = torch.tensor(target if isinstance(target, list) else [target] * 2)
    further = tuple(more.get(key, usual) for key, usual in (("weights", None), ("factors", (1.0, 1.0)), ("power", 1)))
    expected = (
        getattr(attr, name)(model).attribute(x, target=labels, additional_forward_args=further, **theirs).detach()
    )
    if method == "saliency":
        expected = expected.abs().amax(1, keepdim=True)
    elif method == "occlusion":
        expected = expected[:, :1]
    assert float(expected.abs().max()) > 0
    close(found, expected, rtol=1e-6, atol=1e-10)


ALL = {
    **{name: options for name, (_, options, _) in INPUT_METHODS.items()},
    **{name: {"layer": "conv"} for name in [*OF_GRADIENTS, *OF_FORWARDS, "guided_gradcam"]},
    "smoothgrad": {"samples": 4},
    "rise": {"masks": 12, "cells": 3},
}


@pytest.mark.parametrize("method", ALL)
def test_a_batch_with_a_target_for_each_gives_what_single_images_give(method):
    explainer, x = Explainer(Rectified().double()), torch.randn(3, 2, 6, 7).double()
    together = explainer.attribute(x, method, target=[2, 0, 1], **ALL[method]).scores
    assert float(together.abs().max()) > 0
    for i, target in enumerate((2, [0], 1)):
        alone = explainer.attribute(x[i : i + 1], method, target=target, **ALL[method]).scores
        close(together[i : i + 1], alone, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("make", [list, tuple, torch.tensor, np.array])
def test_targets_are_given_as_lists_tensors_and_arrays(make):
    explainer, x = Explainer(Rectified().double()), torch.randn(3, 2, 6, 7).double().requires_grad_()
    (gradient,) = torch.autograd.grad(explainer.model.module(x)[range(3), [2, 0, 1]].sum(), x)
    found = explainer.attribute(x.detach(), "input_x_gradient", target=make([2, 0, 1])).scores
    close(found, gradient * x.detach())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layers", ["conv", "linear"])
@pytest.mark.parametrize(
    "method", ["saliency", "input_x_gradient", "integrated_gradients", "guided_backprop", "deconvnet"]
)
def test_what_a_unit_responds_to_is_what_captum_says_of_the_neuron(layers, method):
    attr = pytest.importorskip("captum.attr")
    model, x = Rectified().double(), torch.randn(2, 2, 6, 7).double()
    place = (1, 2, 3) if layers == "conv" else (1,)
    unit = Unit("conv", 1, (2, 3)) if layers == "conv" else Unit("linear", 1)
    name, options, theirs = {
        "saliency": ("NeuronGradient", {}, {}),
        "input_x_gradient": ("NeuronGradient", {}, {}),
        "integrated_gradients": ("NeuronIntegratedGradients", {"steps": 20}, {"n_steps": 20}),
        "guided_backprop": ("NeuronGuidedBackprop", {}, {}),
        "deconvnet": ("NeuronDeconvolution", {}, {}),
    }[method]
    explainer = Explainer(model)
    if layers == "conv" and method in ("guided_backprop", "deconvnet"):
        with pytest.raises(AttribkitError, match="ReLU"):  # there is none before the layer
            explainer.attribute(x, method, target=unit)
        return
    found = explainer.attribute(x, method, target=unit, **options).scores
    expected = getattr(attr, name)(model, model.get_submodule(layers)).attribute(x, place, **theirs).detach()
    if method == "saliency":
        expected = expected.abs().amax(1, keepdim=True)
    close(found, expected * x if method == "input_x_gradient" else expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("added", [False, True])
def test_what_a_layer_puts_out_and_its_product_with_the_gradient_are_known(added):
    model, more = OneConvolution(), {"inputs": {"other": ONES}} if added else {}
    x = COUNT + ONES if added else COUNT
    sums = F.avg_pool2d(x, 3, 1) * 9
    explainer = Explainer(model)
    close(explainer.feature_maps(COUNT, "conv", **more).values, torch.cat([sums - 50, sums - 75], 1))
    found = explainer.attribute(COUNT, "hirescam", target=0, layer="relu", **more).scores
    diagnostics = torch.tensor([[[1.0, 1], [1, 1]], [[1, -1], [-1, -1]]])
    close(found, (diagnostics * torch.cat([sums - 50, sums - 75], 1).relu()).sum(1).relu())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "gradcam", "occlusion"])
def test_convolutions_along_one_two_and_three_axes_are_those_of_captum(axes, method):
    attr = pytest.importorskip("captum.attr")
    conv, pool = [(nn.Conv1d, nn.MaxPool1d), (nn.Conv2d, nn.MaxPool2d), (nn.Conv3d, nn.MaxPool3d)][axes - 1]
    torch.manual_seed(3)
    parts = [conv(1, 2, 3), nn.ReLU(), pool(2), conv(2, 4, 3), nn.ReLU(), pool(2), nn.Flatten()]
    model = nn.Sequential(*parts, nn.Linear(4 * 2**axes, 10), nn.Softmax(1)).double()
    x = torch.randn(2, 1, *[14] * axes).double()
    explainer = Explainer(model)
    if method == "gradcam":
        found = explainer.attribute(x, method, target=3, layer="3", relu=False).scores
        expected = attr.LayerGradCam(model, model[3]).attribute(x, target=3)
    elif method == "occlusion":
        found = explainer.attribute(x, method, target=3, patch=7, stride=7).scores
        windows = {"sliding_window_shapes": (1, *[7] * axes), "strides": (1, *[7] * axes)}
        expected = attr.Occlusion(model).attribute(x, target=3, **windows)
    elif method == "saliency":
        found = explainer.attribute(x, method, target=3).scores
        expected = attr.Saliency(model).attribute(x, target=3)
    else:
        found = explainer.attribute(x, method, target=3, steps=20).scores
        expected = attr.IntegratedGradients(model).attribute(x, target=3, n_steps=20)
    assert bool(expected.any())
    close(found, expected.detach(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("average", ["mean", "square", "variance"])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 6])
def test_noise_that_is_nearly_none_leaves_the_gradient_its_square_and_no_variance(average, batch_size):
    model, x = Rectified().double(), torch.randn(2, 2, 6, 7).double().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    explainer = Explainer(model, batch_size=batch_size)
    found = explainer.attribute(x.detach(), "smoothgrad", target=1, samples=10, sigma=1e-12, average=average).scores
    expected = {"mean": gradient, "square": gradient**2, "variance": torch.zeros_like(gradient)}[average]
    close(found, expected, rtol=1e-9, atol=1e-15)


def test_the_gradient_of_the_images_themselves_is_left_alone():
    model, x = Rectified().double(), torch.randn(1, 2, 6, 7).double().requires_grad_()
    x.grad = torch.ones_like(x)
    for method in ("saliency", "gradcam", "integrated_gradients"):
        Explainer(model).attribute(x, method, target=1)
    assert bool((x.grad == 1).all())
    assert x.requires_grad


@pytest.mark.parametrize("baseline", ["zero", "one for all", "one for each", "several"])
def test_baselines_for_all_and_for_each_are_those_of_captum(baseline):
    attr = pytest.importorskip("captum.attr")
    model, x = Rectified().double(), torch.randn(2, 2, 6, 7).double()
    one, each = torch.randn(2, 6, 7).double(), torch.randn(2, 2, 6, 7).double()
    given = {"zero": "zero", "one for all": one, "one for each": each, "several": (one, each)}[baseline]
    found = Explainer(model).attribute(x, "integrated_gradients", target=1, steps=20, baseline=given).scores
    starts = {"zero": [0], "one for all": [one[None]], "one for each": [each], "several": [one[None], each]}[baseline]
    peer = attr.IntegratedGradients(model)
    expected = torch.stack([peer.attribute(x, start, target=1, n_steps=20) for start in starts]).mean(0)
    close(found, expected.detach(), rtol=1e-6, atol=1e-10)


WINDOWS = {
    "a window for one axis of two": ({"patch": (2,)}, r"patch must be .*, got \(2,\)"),
    "a window for three axes of two": ({"patch": (1, 2, 2)}, r"patch must be .*, got \(1, 2, 2\)"),
    "a stride for one axis of two": ({"patch": 2, "stride": (1,)}, r"stride must be .*, got \(1,\)"),
    "a stride for three axes of two": ({"patch": 2, "stride": (1, 1, 1)}, r"stride must be .*, got \(1, 1, 1\)"),
    "a stride above the window": ({"patch": (1, 2), "stride": 2}, "leaves pixels uncovered"),
    "a stride above the window along one axis": ({"patch": (4, 2), "stride": (2, 3)}, "leaves pixels uncovered"),
    "a text for a window": ({"patch": "two"}, "patch must be .*, got 'two'"),
    "a set for a window": ({"patch": {3}}, r"patch must be .*, got \{3\}"),
    "texts for a window": ({"patch": ("a", "b")}, r"patch must be .*, got \('a', 'b'\)"),
    "a text for a stride": ({"patch": 2, "stride": "two"}, "stride must be .*, got 'two'"),
    "a set for a stride": ({"patch": 2, "stride": {3}}, r"stride must be .*, got \{3\}"),
    "a window of nothing": ({"patch": 0}, "patch must be .*, got 0"),
}


@pytest.mark.parametrize("case", WINDOWS)
def test_windows_and_strides_that_do_not_fit_are_refused(case):
    options, told = WINDOWS[case]
    with pytest.raises(AttribkitError, match=told):
        Explainer(OneConvolution()).attribute(COUNT, "occlusion", target=0, **options)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["scripted", "traced"])
def test_models_in_which_no_hook_fires_are_refused(kind):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    model = torch.jit.script(net) if kind == "scripted" else torch.jit.trace(net, COUNT)
    with pytest.raises(AttribkitError, match="a traced or scripted module: hooks do not run in it"):
        Explainer(model)


def test_a_model_on_several_devices_is_explained_as_the_one_inside():
    found = Explainer(nn.DataParallel(OneConvolution())).attribute(COUNT, "guided_backprop", target=0)
    close(found.scores, GUIDED)


def test_vectors_need_a_declaration_and_have_no_map_of_a_layer():
    x = torch.tensor([[20.0, 50, 30]])
    with pytest.raises(AttribkitError, match=r'for series, pass ModelSpec\(axes="bn"\)'):
        Explainer(Layers()).attribute(x, "saliency", target=0)
    with pytest.raises(
        AttribkitError, match=r"none of its layers returns a spatial map \(a grid of at least two cells\)"
    ):
        Explainer(Layers(), spec=SERIES).attribute(x, "gradcam", target=0)


def test_whole_numbers_are_refused_as_raw_pixels():
    with pytest.raises(AttribkitError, match="convert raw pixels to floats"):
        Explainer(OneConvolution()).attribute(COUNT.long(), "occlusion", target=0)


class Unused(nn.Module):
    """Runs a layer that its score does not depend on."""

    def __init__(self):
        super().__init__()
        self.used, self.unused, self.linear = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3), nn.Linear(2, 2)

    def forward(self, x):
        self.unused(x)
        return self.linear(self.used(x).mean((2, 3)))


def test_a_layer_that_the_score_does_not_depend_on_is_refused():
    with pytest.raises(AttribkitError, match="unused"):
        Explainer(Unused()).attribute(COUNT, "gradcam", target=0, layer="unused")


def linear_model():
    torch.manual_seed(7)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 4)).double()


def test_a_linear_model_is_explained_without_infidelity_and_its_gradient_never_changes():
    explainer, x = Explainer(linear_model()), torch.randn(4, 3, 6, 6).double()
    shares = explainer.attribute(x, "input_x_gradient", target=1)
    slopes = explainer.attribute(x, "smoothgrad", target=1, samples=1)
    removed = explainer.evaluate(shares, "infidelity", factor=None, score="logit", cells=3)
    close(removed, torch.zeros(4), atol=1e-12)
    close(explainer.evaluate(slopes, "infidelity_under_noise", preset="captum"), torch.zeros(4), atol=1e-12)
    wrong = Attribution(-shares.scores, x, shares.target, shares.method)
    assert bool((explainer.evaluate(wrong, "infidelity", factor=None, score="logit", cells=3) > 1e-3).all())
    close(explainer.evaluate(slopes, "max_sensitivity"), torch.zeros(4), atol=1e-9)


# zennit -------------------------------------------------------------------------------------------------------------


def watched(explainer, x, method, **options):
    """The scores of a second call, and the images that the model was asked about in it."""
    seen = []
    module = explainer.model.module
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    explainer.attribute(x, method, target=2, **options)  # the first call tests the model, too
    seen.clear()
    found = explainer.attribute(x, method, target=2, **options).scores
    handle.remove()
    return found, torch.cat(seen)


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.5])
def test_smoothgrad_of_a_linear_model_is_its_gradient(sigma, samples):
    model, x = linear_model(), torch.randn(2, 3, 6, 6).double()
    found = Explainer(model).attribute(x, "smoothgrad", target=2, samples=samples, sigma=sigma).scores
    close(found, model[1].weight[2].detach().view(1, 3, 6, 6).expand_as(x))


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.3, 0.5])
def test_the_noise_of_smoothgrad_is_a_share_of_the_range_of_each_image(sigma):
    for scale in (1, 20):
        x = scale * torch.randn(1, 3, 6, 6).double()
        _, seen = watched(Explainer(linear_model()), x, "smoothgrad", samples=100, sigma=sigma)
        noise = (seen - x)[(seen != x).flatten(1).any(1)]
        assert len(noise) == (100 if sigma else 0)
        expected = sigma * float(x.max() - x.min())
        assert float(noise.std() if sigma else 0) == pytest.approx(expected, rel=0.1)
        assert float(noise.mean() if sigma else 0) == pytest.approx(0, abs=0.1 * expected)


@pytest.mark.parametrize("baseline", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 100])
def test_the_path_of_integrated_gradients_is_straight_and_exact_for_a_linear_model(baseline, steps):
    model, x = linear_model(), torch.randn(1, 3, 6, 6).double() + 3
    start = torch.full((3, 6, 6), baseline).double()
    found, seen = watched(Explainer(model), x, "integrated_gradients", steps=steps, baseline=start)
    way = (x - start).flatten()
    steps_seen = (seen - start).flatten(1)
    shares = steps_seen @ way / (way @ way)
    close(steps_seen, shares[:, None] * way, atol=1e-9)
    assert bool(((shares > -1e-9) & (shares < 1 + 1e-9)).all())
    assert len(shares.mul(1e6).round().unique()) >= steps
    close(found, model[1].weight[2].detach().view(1, 3, 6, 6) * (x - start))


@pytest.mark.parametrize("patch", [1, 2, 3, (3, 6), (6, 2)])
def test_disjoint_patches_cover_each_pixel_once(patch):
    x = torch.rand(1, 3, 6, 6).double() + 1
    _, seen = watched(Explainer(linear_model()), x, "occlusion", patch=patch, stride=patch)
    hidden = seen[(seen == 0).flatten(1).any(1)]
    lines, columns = (patch, patch) if isinstance(patch, int) else patch
    assert len(hidden) == 36 // (lines * columns)
    close((x - hidden).sum(0), x)


@pytest.mark.parametrize("baseline", [0.0, 1.0])
def test_a_patch_of_the_whole_image_gives_every_pixel_the_fall_of_the_score(baseline):
    model, x = linear_model(), torch.randn(2, 3, 6, 6).double()
    start = torch.full((3, 6, 6), baseline).double()
    found = Explainer(model).attribute(x, "occlusion", target=2, patch=6, stride=6, baseline=start)
    fall = (model(x) - model(start[None]))[:, 2].detach()
    close(found.scores, fall.view(2, 1, 1, 1).expand(2, 1, 6, 6))
    assert any("one region covers the whole" in note for note in found.notes)


@pytest.mark.parametrize("rule", ["guided_backprop", "deconvnet"])
def test_the_rules_of_relus_are_those_of_their_matrices(rule):
    torch.manual_seed(4)
    hidden, outer = nn.Linear(48, 20).double(), nn.Linear(20, 3).double()
    model = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), outer)
    x = torch.randn(2, 3, 4, 4).double()
    back = outer.weight[1].relu().expand(2, 20)
    opened = (hidden(x.flatten(1)) > 0).double()
    expected = (back * opened if rule == "guided_backprop" else back) @ hidden.weight
    close(Explainer(model).attribute(x, rule, target=1).scores, expected.detach())


# Quantus ------------------------------------------------------------------------------------------------------------


def mask_of(lines):
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :lines] = True
    return mask


def bright(lines):
    maps = torch.zeros(1, 1, 8, 8)
    maps[:, :, :lines] = 1 + torch.rand(1, 1, lines, 8)
    return maps


LOCALISED = {  # rows of the object, rows that are bright, and what the metric says
    "pointing_game": [(4, 4, 1.0), (8, 8, 1.0), (4, 2, 1.0)],
    "relevance_mass": [(4, 4, 1.0), (8, 4, 1.0), (4, 2, 1.0)],
    "relevance_rank": [(4, 4, 1.0), (8, 8, 1.0), (8, 4, 1.0), (4, 2, 0.5 + 0.5 * 16 / 48)],
    "localization_auc": [(4, 4, 1.0), (4, 2, 0.75)],
}


@pytest.mark.parametrize(
    ("metric", "case"), [(metric, case) for metric, cases in LOCALISED.items() for case in cases], ids=str
)
def test_bright_maps_on_objects_have_their_known_localisation(metric, case):
    lines, lit, expected = case
    x = torch.rand(1, 3, 8, 8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    attribution = Attribution(bright(lit), x, ClassLogit(0), Saliency())
    assert Explainer(model).evaluate(attribution, metric, mask=mask_of(lines)).tolist() == pytest.approx([expected])


@pytest.mark.parametrize("metric", ["pointing_game", "relevance_mass", "relevance_rank", "localization_auc"])
def test_a_map_that_is_bright_off_the_object_alone_scores_nothing(metric):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    attribution = Attribution(bright(4), torch.rand(1, 3, 8, 8), ClassLogit(0), Saliency())
    options = {"tolerance": 0} if metric == "pointing_game" else {}
    assert Explainer(model).evaluate(attribution, metric, mask=~mask_of(4), **options).tolist() == [0]


@pytest.mark.parametrize(
    ("metric", "even", "single"),
    [("complexity", math.log(64), 0.0), ("sparseness", 0.0, 63 / 64), ("effective_complexity", 64, 1)],
)
def test_complexity_of_an_even_map_and_of_a_single_pixel_are_its_ends(metric, even, single):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    spot = torch.zeros(1, 1, 8, 8)
    spot[..., 3, 5] = 2
    for maps, expected in ((torch.ones(1, 1, 8, 8), even), (spot, single)):
        attribution = Attribution(maps, torch.rand(1, 3, 8, 8), ClassLogit(0), Saliency())
        assert Explainer(model).evaluate(attribution, metric).tolist() == pytest.approx([expected], abs=1e-5)


def test_every_method_that_is_named_here_exists():
    named = {*OF_GRADIENTS, *OF_FORWARDS, *TORCHCAM, *ALL}
    assert named <= set(registry.methods())
