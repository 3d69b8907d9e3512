"""What the tests of other libraries ask of theirs, asked of attribkit: the meaning, with numbers of our own.

Sections: pytorch-grad-cam, torch-cam, captum, zennit and Quantus. Where attribkit refuses on purpose, the sentence is
tested, and docs/parity.md says why.
"""

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
from attribkit.methods.saliency import Saliency

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
@pytest.mark.parametrize("target", [None, 7])
@pytest.mark.parametrize("layer", ["layer4.1", "layer4.0"])
@pytest.mark.parametrize("size", GRIDS)
def test_a_resnet_has_maps_on_grids_of_one_row_or_column(resnet, explainers, answers, size, layer, target, method):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(4)).double()
    explainer = explainers(resnet)
    if method == "cam" and layer == "layer4.0":
        with pytest.raises(AttribkitError, match="needs a score that is a weighted sum of averaged channels"):
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
@pytest.mark.parametrize("target", [None, 3])
@pytest.mark.parametrize("layer", ["features.20", None])
@pytest.mark.parametrize("size", [(64, 32), (32, 128), (128, 32)])
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
def test_a_single_cell_is_refused_in_one_sentence(model, target, method, request):
    layer = {"resnet": "layer4.1", "vgg": "features.20"}[model]
    x = torch.randn(2, 3, 32, 32).double()
    told = rf"Layer '{layer}' has no grid: its output of shape \(2, \d+, 1, 1\) is a single cell, which tells no place"
    with pytest.raises(AttribkitError, match=told):
        Explainer(request.getfixturevalue(model)).attribute(x, method, target=target, layer=layer)


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
        assert any("nor its largest values tell" in note for note in found.notes) == noted


PEERS_CAMS = {"gradcam": "GradCAM", "hirescam": "HiResCAM", "layercam": "LayerCAM", "xgradcam": "XGradCAM"}


@pytest.mark.parametrize("method", PEERS_CAMS)
@pytest.mark.parametrize("layers", [["layer4.1"], ["layer4.1", "layer4.0"]])
@pytest.mark.parametrize("size", [(40, 32), (32, 128)])
def test_on_one_row_or_column_heatmaps_are_those_of_pytorch_grad_cam(resnet, size, layers, method):
    peers = pytest.importorskip("pytorch_grad_cam")
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(4)).double()
    category = int(resnet(x).sum(0).argmax())

    def loud(outputs):
        return 1e6 * outputs[..., category]

    found = Explainer(resnet).attribute(x, method, target=loud, layer=layers).heatmap()
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


@pytest.mark.parametrize("method", [*OF_GRADIENTS, *OF_FORWARDS])
def test_calls_in_a_loop_leave_no_tensor_behind(vgg, method):
    x = torch.randn(1, 3, 32, 64).double()

    explainer = Explainer(vgg)
    explainer.attribute(x, method, target=3)
    gc.collect()
    gc.freeze()  # what is there already does not count
    try:
        for _ in range(3):
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


@pytest.mark.parametrize("method", ["eigencam", "gradcam"])
def test_a_layer_that_is_not_a_number_is_refused_and_nothing_is_written_into_it(method):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            self.kept = self.first(x)
            self.kept = self.kept.where(self.kept < 0.5, math.nan)
            return self.head(self.kept.nan_to_num().mean((2, 3)))

    model, x = nn.Sequential(Broken()).eval(), torch.randn(1, 3, 8, 8)
    seen = x.clone()
    found = Explainer(model).attribute(x, method, target=0, layer="0.first")
    assert bool(found.scores.isfinite().all())
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
