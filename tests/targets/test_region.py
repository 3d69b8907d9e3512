"""A class in a region of a segmentation: sums of logits, whatever the method and the kind of output."""

import pytest
import torch
from torch import nn
from torchvision.models import segmentation

from attribkit import AttribkitError, Explainer, ModelSpec, Region, registry
from attribkit._targets.outputs import class_maps
from attribkit.testing import tiny_cnn
from tests.refusals import ANSWERING

OPTIONS = {"occlusion": {"patch": 8, "stride": 8}, "rise": {"masks": 32, "cells": 4}, "smoothgrad": {"samples": 3}}
LAYERED = [name for name in ANSWERING if "layer" in registry.options_of(registry.methods()[name])]
METHODS = [name for name in ANSWERING if name != "cam"]
KINDS = {
    "tensor": lambda y: y,
    "out and aux": lambda y: {"out": y, "aux": y * 2},
    "tuple": lambda y: (y, y.mean()),
    "logits": lambda y: type("Output", (), {"logits": y})(),
}


class Segmenter(nn.Module):
    """Four classes at every fourth pixel, or at every pixel."""

    def __init__(self, kind="tensor", enlarged=False, classes=4):
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(2)
            self.body = nn.Sequential(
                nn.Conv2d(3, 6, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1, stride=2), nn.ReLU()
            )
            self.head = nn.Conv2d(6, classes, 1, bias=False)
            nn.init.normal_(self.head.weight)
        self.kind, self.enlarged = KINDS[kind], enlarged

    def forward(self, x):
        maps = self.head(self.body(x))
        return self.kind(nn.functional.interpolate(maps, x.shape[2:], mode="bilinear") if self.enlarged else maps)


def images(count=2, sides=(16, 24)):
    return torch.randn(count, 3, *sides, generator=torch.Generator().manual_seed(1))


def masks(count=2, sides=(16, 24)):
    found = torch.zeros(count, *sides, dtype=torch.bool)
    found[0, 4:9, 3:21] = True
    found[-1, 10:, :7] = True
    return found


def predicted(model, x, c):
    return class_maps(model(x)).argmax(1) == c


def most_frequent(model, x):
    return int(class_maps(model(x)).argmax(1).flatten().mode().values)


def slow_sum(maps, index, weights):
    """The sum of a class's logits over a region, cell by cell."""
    total = []
    for image, c, weight in zip(maps, index, weights, strict=True):
        total.append(sum(image[c, i, j] * weight[i, j] for i in range(maps.shape[2]) for j in range(maps.shape[3])))
    return torch.stack(total)


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_is_the_sum_over_the_mask(kind):
    model, x, mask = Segmenter(kind, enlarged=True).eval(), images(), masks()
    maps = class_maps(model(x))
    expected = slow_sum(maps, [2, 0], mask.float())
    torch.testing.assert_close(Region([2, 0], mask)(model(x)), expected)
    torch.testing.assert_close(
        Region(2, mask[:1])(model(x)), slow_sum(maps, [2, 2], mask[:1].expand(2, 16, 24).float())
    )
    torch.testing.assert_close(Region(2)(model(x)), slow_sum(maps, [2, 2], predicted(model, x, 2).float()))


def test_cells_count_by_the_share_that_the_mask_covers():
    model, x, mask = Segmenter().eval(), images(), masks()
    share = torch.zeros(2, 4, 6)
    for b in range(2):
        for i in range(4):
            for j in range(6):
                share[b, i, j] = mask[b, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].float().mean()
    torch.testing.assert_close(Region(1, mask)(model(x)), slow_sum(model(x), [1, 1], share))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("region", ["given", "predicted"])
def test_every_method_answers_as_for_the_function(method, region):
    model, x = Segmenter("out and aux", enlarged=True).eval(), images()
    c = most_frequent(model, x)
    where = masks() if region == "given" else predicted(model, x, c)
    options = OPTIONS.get(method, {}) | ({"layer": "body.2"} if method in LAYERED else {})
    found = Explainer(model, batch_size=1).attribute(
        x, method, target=Region(c, where if region == "given" else None), **options
    )
    for i in range(2):
        alone = Explainer(model).attribute(
            x[i : i + 1], method, target=lambda y, i=i: (y["out"][:, c] * where[i]).sum((1, 2)), **options
        )
        torch.testing.assert_close(found.scores[i : i + 1], alone.scores, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.target.mask, where)
    assert found.target.index == c


def test_the_predicted_region_is_kept_when_the_image_changes():
    """Under occlusion another class may win; the region must not shrink with it."""
    model, x = Segmenter(enlarged=True).eval(), images()
    c = most_frequent(model, x)
    where = predicted(model, x, c)
    covered = torch.cat([x[:, :, :8] * 0, x[:, :, 8:]], 2)
    assert not torch.equal(predicted(model, covered, c), where)
    found = Explainer(model).attribute(x, "occlusion", target=Region(c), patch=8, stride=8, baseline="zero")
    for i in range(2):
        for j in range(3):
            hidden = x.clone()
            hidden[:, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] = 0
            fall = ((model(x)[:, c] - model(hidden)[:, c]) * where).sum((1, 2))
            torch.testing.assert_close(found.scores[:, 0, 8 * i, 8 * j], fall, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    model, x = Segmenter(enlarged=True).eval(), images()
    mask = masks()
    exact = Explainer(model).attribute(x, "saliency", target=Region(1, mask)).scores
    found = Explainer(model.to(dtype)).attribute(x.to(dtype), "saliency", target=Region(1, mask)).scores
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(torch.corrcoef(torch.stack([found.flatten().float(), exact.flatten()]))[0, 1]) > 0.99


def test_one_logit_per_pixel():
    model, x, mask = Segmenter(classes=1).eval(), images(), masks(sides=(4, 6))
    mask[:, :2] = True
    logit = model(x)[:, 0]
    torch.testing.assert_close(Region(0, mask)(model(x)), (logit * mask).sum((1, 2)))
    torch.testing.assert_close(Region(0, mask, background=True)(model(x)), -(logit * mask).sum((1, 2)))
    torch.testing.assert_close(Region(0)(model(x)), logit.relu().sum((1, 2)))
    torch.testing.assert_close(Region(0, background=True)(model(x)), (-logit).relu().sum((1, 2)))
    with pytest.raises(AttribkitError, match="the model has one output, with index 0"):
        Region(1, mask)(model(x))
    with pytest.raises(AttribkitError, match="background=True requires a model with one map"):
        Region(1, mask, background=True)(Segmenter().eval()(x))
    explainer = Explainer(model, spec=ModelSpec(labels=["background", "person"]))
    for named, meant in (("person", Region(0, mask)), ("background", Region(0, mask, background=True))):
        found = explainer.attribute(x, "input_x_gradient", target=Region(named, mask))
        torch.testing.assert_close(found.scores, explainer.attribute(x, "input_x_gradient", target=meant).scores)


def test_volumes():
    model = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 1)).eval()
    x, mask = torch.randn(2, 1, 5, 8, 8), torch.rand(2, 5, 8, 8) > 0.5
    found = Explainer(model).attribute(x, "saliency", target=Region((2, 0), mask))
    leaf = x.clone().requires_grad_()
    maps = model(leaf)
    score = (maps[0, 2] * mask[0]).sum() + (maps[1, 0] * mask[1]).sum()
    torch.testing.assert_close(found.scores, torch.autograd.grad(score, leaf)[0].abs())


def test_parts_repetitions_and_labels():
    mask = masks(3)
    region = Region([0, 1, 2], mask)
    assert region.count == 3
    assert region.subset(slice(1, 2)).index == (1,)
    assert torch.equal(region.subset(slice(1, 2)).mask, mask[1:2])
    assert torch.equal(region.tile(2).mask, torch.cat([mask, mask]))
    assert Region(0, mask[:1]).count is None
    explainer = Explainer(Segmenter(), spec=ModelSpec(labels=["sky", "cat", "dog", "tree"]))
    assert explainer.attribute(images(), "saliency", target=Region("dog", masks())).target.index == 2
    each = [Region("dog", masks()[:1]), Region("cat")]
    found = explainer.attribute(images(), "saliency", target=each)
    alone = explainer.attribute(images()[1:], "saliency", target=each[1])
    torch.testing.assert_close(found.scores[1:], alone.scores)
    assert explainer.attribute(images(), "gradcam", target=each).target.targets[1].mask.shape == (1, 4, 6)


def test_an_empty_region_is_told():
    model, x = Segmenter().eval(), images()
    with torch.no_grad():
        model.head.weight[3] = -10  # behind a ReLU
    found = Explainer(model).attribute(x, "saliency", target=Region(3))
    assert (
        "the region is empty: the class is not predicted anywhere, or the mask is empty (images [0, 1])" in found.notes
    )
    mask = masks()
    mask[0] = False
    found = Explainer(model, batch_size=1).attribute(x, "occlusion", target=Region(1, mask), patch=8, stride=8)
    assert any(note.startswith("the region is empty") and note.endswith("(images [0])") for note in found.notes)


@pytest.mark.parametrize(
    ("region", "words"),
    [
        (lambda: Region(4, masks()), "The class index 4 is out of range: the model has 4 classes"),
        (
            lambda: Region(1, masks(sides=(16, 20))),
            r"mask must have shape .*, with the size of the images or of the model's .*, 4x6, got shape \(2, 16, 20\)",
        ),
        (lambda: Region(1, masks()[0]), "16 targets for 2 images"),
        (lambda: Region(1, masks(3)), "3 targets for 2 images"),
        (lambda: Region([1, 2], masks(3)), "different numbers of classes"),
        (lambda: Region(1, masks().float()), "must be a torch.bool tensor"),
        (lambda: Region(1.5), "target must be a class index, a label, .* got 1.5"),
        (lambda: None, r"pass target=Region\(class\)"),
        (lambda: 2, r"pass target=Region\(class\)"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("method", ["gradcam", "saliency", "occlusion"])
def test_what_does_not_fit_is_refused(region, words, method):
    with pytest.raises(AttribkitError, match=words):
        Explainer(Segmenter("out and aux")).attribute(images(), method, target=region())


def test_a_classifier_has_no_regions():
    with pytest.raises(AttribkitError, match="Region requires a segmentation model"):
        Explainer(tiny_cnn()).attribute(images(), "saliency", target=Region(1))


def test_told_and_saved(tmp_path):
    found = Explainer(Segmenter()).attribute(images(), "gradcam", target=Region(1, masks()))
    assert repr(found.target) == repr(Region(1, masks()))
    assert repr(found.target).startswith("Region(index=1, mask=((2, 16, 24), crc32=")
    assert repr(found.target) != repr(Region(1, ~masks()))
    found.save(tmp_path / "a.safetensors")
    assert repr(type(found).load(tmp_path / "a.safetensors").target) == repr(found.target)
    assert repr(Region(1)) == "Region(index=1)"


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_torchvision(name):
    model = segmentation.__dict__[name](weights=None, weights_backbone=None, num_classes=4).eval()
    x = torch.randn(2, 3, 48, 64)
    c = most_frequent(model, x)
    explainer = Explainer(model)
    leaf = x.clone().requires_grad_()
    maps = model(leaf)["out"]
    (gradient,) = torch.autograd.grad((maps[:, c] * (maps.argmax(1) == c)).sum(), leaf)
    torch.testing.assert_close(
        explainer.attribute(x, "saliency", target=Region(c)).scores, gradient.abs().amax(1, True)
    )
    found = explainer.attribute(x, "gradcam", target=Region(c))
    assert found.notes[0].startswith("layer=")
    assert min(found.scores.shape[2:]) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_large_torchvision(name):
    model = segmentation.__dict__[name](weights=None, weights_backbone=None, num_classes=4, aux_loss=True).eval()
    x = torch.randn(2, 3, 64, 96)
    for method in ("gradcam", "saliency", "guided_backprop", "layercam"):
        assert Explainer(model).attribute(x, method, target=Region(most_frequent(model, x))).scores.isfinite().all()
