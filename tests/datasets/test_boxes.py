"""Detections as targets: the overlap with a box times the score, by every kind of method."""

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.ops import box_iou

from attribkit import AttribkitError, Box, Explainer, ModelSpec
from attribkit.testing import tiny_cnn

OPTIONS = {"occlusion": {"patch": 8, "stride": 8}, "rise": {"masks": 12, "cells": 4}, "smoothgrad": {"samples": 3}}
METHODS = ["gradcam", "saliency", "input_x_gradient", "smoothgrad", "occlusion", "rise", "scorecam", "ablationcam"]
UNSEEN = "no detection of the class overlaps the box: the score is zero"


class Detector(nn.Module):
    """A box at every cell of a grid, of one of three classes, moved and sized by the image; or some of them."""

    def __init__(self, only=None):
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(3)
            self.body = nn.Sequential(
                nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2, padding=1)
            )
            self.head = nn.Conv2d(6, 3, 1)
        self.only = only

    def forward(self, x):
        maps = self.head(self.body(x).relu())
        rows, columns = torch.meshgrid(*(torch.arange(side, dtype=x.dtype) for side in maps.shape[2:]), indexing="ij")
        return [self.found(each, rows, columns) for each in maps]

    def found(self, maps, rows, columns):
        centre = torch.stack([4 * columns, 4 * rows], -1).flatten(0, 1) + 2 + maps[1].flatten()[:, None]
        half = 3 + maps[2].flatten()[:, None].tanh()
        boxes, labels = torch.cat([centre - half, centre + half], 1), torch.arange(len(centre)) % 3
        kept = slice(None) if self.only is None else labels == self.only
        return {"boxes": boxes[kept], "labels": labels[kept], "scores": maps[0].flatten().sigmoid()[kept]}


def images(count=2):
    return torch.randn(count, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def slow_score(found, box, index):
    """Detection by detection, with torchvision's overlap."""
    best = found["scores"].new_zeros(())
    for own, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
        if index is None or label == index:
            best = torch.maximum(best, box_iou(own[None], own.new_tensor([box]))[0, 0] * score)
    return best


BOXES = [(3.0, 2.0, 11.0, 9.0), (12.0, 5.0, 20.0, 15.0)]


@pytest.mark.parametrize("index", [None, 0, 1, (2, 1)])
def test_scores(index):
    outputs = Detector()(images())
    classes = index if isinstance(index, tuple) else (index, index)
    for boxes in (BOXES, BOXES[0]):
        each = boxes if isinstance(boxes, list) else [boxes, boxes]
        expected = torch.stack([slow_score(*of) for of in zip(outputs, each, classes, strict=True)])
        assert (expected > 0).all()
        torch.testing.assert_close(Box(boxes, index)(outputs), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("index", [None, (2, 1)])
def test_every_method_answers_as_for_the_slow_score(method, index):
    model, x, options = Detector(), images(), OPTIONS.get(method, {})
    if method in ("gradcam", "scorecam", "ablationcam"):
        options = {"layer": "body.2"}
    found = Explainer(model, batch_size=1).attribute(x, method, target=Box(BOXES, index), **options)
    whole = Explainer(model).attribute(x, method, target=Box(BOXES, index), **options)
    torch.testing.assert_close(found.scores, whole.scores)
    assert found.scores.abs().max() > 0
    for i in range(2):
        own = found.target.index[i]
        alone = Explainer(model).attribute(
            x[i : i + 1], method, target=lambda y, i=i, own=own: slow_score(y[0], BOXES[i], own)[None], **options
        )
        torch.testing.assert_close(found.scores[i : i + 1], alone.scores)


def test_the_class_is_that_of_the_best_detection_and_kept():
    model, x = Detector(), images()
    found = Explainer(model).attribute(x, "occlusion", target=Box(BOXES), patch=8, stride=8)
    best = []
    for one, box in zip(model(x), BOXES, strict=True):
        fit = box_iou(one["boxes"], torch.tensor([box]))[:, 0] * one["scores"]
        best.append(int(one["labels"][fit.argmax()]))
    assert found.target == Box(BOXES, tuple(best))
    assert found[1].target == Box(BOXES[1:], (best[1],))


def test_the_gradient_is_that_of_score_and_box():
    model, x = Detector(), images()
    leaf = x.clone().requires_grad_()
    score = sum(slow_score(y, BOXES[0], 1) for y in model(leaf))
    (expected,) = torch.autograd.grad(score, leaf)
    found = Explainer(model).attribute(x, "saliency", target=Box(BOXES[0], 1))
    torch.testing.assert_close(found.scores, expected.abs().amax(1, keepdim=True))


@pytest.mark.parametrize("only", [1, 99])
@pytest.mark.parametrize("method", ["saliency", "occlusion"])
def test_where_nothing_overlaps_the_score_is_zero_and_told(method, only):
    """Of another class, or with no detection at all."""
    found = Explainer(Detector(only), batch_size=1).attribute(
        images(), method, target=Box([BOXES[0], (200, 200, 210, 210)], 1), **OPTIONS.get(method, {})
    )
    assert f"{UNSEEN} (images {[1] if only == 1 else [0, 1]})" in found.notes
    assert not found.scores[1].any()


def test_without_a_class_something_must_overlap():
    with pytest.raises(AttribkitError, match=r"No detection overlaps Box.*in images \[1\]"):
        Explainer(Detector()).attribute(images(), "saliency", target=Box([BOXES[0], (200, 200, 210, 210)]))


def test_double_precision():
    model, x = Detector(), images()
    single = Explainer(model).attribute(x, "saliency", target=Box(BOXES, 1)).scores
    double = Explainer(model.double()).attribute(x.double(), "saliency", target=Box(BOXES, 1)).scores
    torch.testing.assert_close(double.float(), single, rtol=1e-3, atol=1e-6)


def test_parts_repetitions_labels_and_repr():
    box = Box(torch.tensor(BOXES), 1)
    assert box == Box(BOXES, 1)
    assert box.count == 2
    assert box.subset(slice(1, 2)) == Box(BOXES[1:], 1)
    assert box.tile(2) == Box(BOXES * 2, 1)
    assert Box(BOXES[0]).count is None
    assert repr(Box((1, 2, 3, 4), 5)) == "Box(box=(1.0, 2.0, 3.0, 4.0), index=5)"
    explainer = Explainer(Detector(), spec=ModelSpec(labels=["cat", "dog", "cow"]))
    assert explainer.attribute(images(), "saliency", target=Box(BOXES, "dog")).target.index == 1
    each = explainer.attribute(images(), "saliency", target=[Box(BOXES[0], "dog"), Box(BOXES[1])])
    torch.testing.assert_close(
        each.scores[1:], explainer.attribute(images()[1:], "saliency", target=Box(BOXES[1])).scores
    )


@pytest.mark.parametrize(
    "box", [(1, 2, 3), (3, 2, 1, 4), (1, 2, float("nan"), 4), "box", 3, [[[1, 2, 3, 4]]], [], [(1, 2, 3, 4), (1, 2)]]
)
def test_what_is_no_box(box):
    with pytest.raises(AttribkitError, match="box must be "):
        Box(box)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("method", ["gradcam", "saliency", "occlusion"])
def test_what_does_not_fit_is_refused(method):
    with pytest.raises(AttribkitError, match="Box requires a detection model"):
        Explainer(tiny_cnn()).attribute(images(), method, target=Box(BOXES))
    for target in (None, 3):
        with pytest.raises(AttribkitError, match=r"For a detection, pass target=Box\("):
            Explainer(Detector()).attribute(images(), method, target=target)
    with pytest.raises(AttribkitError, match="2 targets for 3 images"):
        Explainer(Detector()).attribute(images(3), method, target=Box(BOXES))


def test_saved_and_read(tmp_path):
    found = Explainer(Detector()).attribute(images(), "saliency", target=Box(BOXES))
    found.save(tmp_path / "a.safetensors")
    assert repr(type(found).load(tmp_path / "a.safetensors").target) == repr(found.target)


# torchvision's, small and untrained

SMALL = {"weights": None, "weights_backbone": None, "num_classes": 4}
SIDES = SMALL | {"min_size": 64, "max_size": 96}
FASTER = SIDES | {"box_score_thresh": 0.0, "rpn_post_nms_top_n_test": 20}
MAKERS = {
    "fasterrcnn": lambda: detection.fasterrcnn_mobilenet_v3_large_320_fpn(**FASTER),
    "ssdlite": lambda: detection.ssdlite320_mobilenet_v3_large(**SMALL, score_thresh=0.0),
    "retinanet": lambda: detection.retinanet_resnet50_fpn(**SIDES, score_thresh=0.0),
    "fcos": lambda: detection.fcos_resnet50_fpn(**SIDES, score_thresh=0.0),
    "maskrcnn": lambda: detection.maskrcnn_resnet50_fpn(**FASTER),
    "keypointrcnn": lambda: detection.keypointrcnn_resnet50_fpn(**FASTER | {"num_classes": 2}),
}
LARGE = {"retinanet", "fcos", "maskrcnn", "keypointrcnn"}
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in MAKERS]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_torchvision(name):
    model, x = MAKERS[name]().eval().double(), torch.rand(2, 3, 64, 64, dtype=torch.float64)
    boxes, labels = zip(*(near_the_largest(found) for found in model(list(x))), strict=True)
    leaf = x.clone().requires_grad_()
    score = sum(slow_score(*each) for each in zip(model(leaf), boxes, labels, strict=True))
    (gradient,) = torch.autograd.grad(score, leaf)
    explained = Explainer(model).attribute(x, "saliency", target=Box(boxes, labels))
    assert explained.scores.max() > 0
    torch.testing.assert_close(explained.scores, gradient.abs().amax(1, keepdim=True))
    single = Explainer(model, batch_size=1).attribute(x, "saliency", target=Box(boxes, labels))
    torch.testing.assert_close(explained.scores, single.scores)


def near_the_largest(found):
    """A box next to the largest detection (on it, the overlap has no derivative), and its label."""
    place = int((found["boxes"][:, 2:] - found["boxes"][:, :2]).prod(1).argmax())
    x1, y1, x2, y2 = found["boxes"][place].tolist()
    return (x1 + 0.3, y1 + 0.2, x2 + 1.1, y2 + 0.7), int(found["labels"][place])


@pytest.mark.slow
def test_layers_of_torchvision():
    """The backbone's last is read unless another is named; grids have the image's proportions inside the model too."""
    model, x = MAKERS["fasterrcnn"]().eval(), torch.rand(2, 3, 48, 64)
    target = Box((5, 5, 40, 40))
    found = Explainer(model).attribute(x, "gradcam", target=target)
    assert found.notes[0].startswith("layer='backbone.body.16': the last layer of the backbone")
    named = Explainer(model).attribute(x, "gradcam", target=target, layer="backbone.body.16")
    assert torch.equal(found.scores, named.scores)
    model, x = MAKERS["ssdlite"]().eval(), x[:1, :, :, :48]
    named = Explainer(model).attribute(
        torch.rand(1, 3, 64, 64), "gradcam", target=target, layer="backbone.features.0.13"
    )
    assert named.scores.shape == (1, 1, 20, 20)


@pytest.mark.slow
def test_occlusion_of_torchvision_is_d_rise_with_patches():
    model, x = MAKERS["fasterrcnn"]().eval(), torch.rand(1, 3, 64, 64)
    box = model(x)[0]["boxes"][0].tolist()
    found = Explainer(model).attribute(x, "occlusion", target=Box(box), patch=32, stride=32)
    index = found.target.index[0]
    before = slow_score(model(x)[0], box, index)
    for i in (0, 32):
        hidden = x.clone()
        hidden[:, :, i : i + 32, 32:] = 0
        fall = before - slow_score(model(hidden)[0], box, index)
        torch.testing.assert_close(found.scores[0, 0, i, 40], fall.detach(), rtol=1e-3, atol=1e-5)
