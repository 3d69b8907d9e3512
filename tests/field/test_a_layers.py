"""Which tensor is read: an answer depends on its own image, target and options alone, and a name means one tensor."""

import itertools

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import get_model

from attribkit import AttribkitError, BroadcastInput, Explainer, Region, registry
from tests.cases import few

pytestmark = pytest.mark.usefixtures("as_users_run")

QUICK = {"rise": {"masks": 8, "cells": 4}, "occlusion": {"patch": 8, "stride": 8}}
METHODS = [name for name in registry.methods() if name not in ("attention_gates",)]


def images(count=3, channels=3, side=32):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(5))


def convolutions(*widths, stride=2):
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*[nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.Tanh()) for a, b in pairs])


class Tokens(nn.Module):
    """A small transformer whose tokens stand in an order that the image decides."""

    def __init__(self, arrange, keep=16):
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 8, 8)
        self.position = nn.Parameter(torch.randn(1, 16, 12))
        self.norm1, self.norm2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.mix, self.head = nn.Linear(keep, keep), nn.Linear(12, 5)
        self.arrange = arrange

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
        tokens = self.norm1(self.arrange(tokens))
        tokens = tokens + self.mix(tokens.transpose(1, 2)).transpose(1, 2)
        return self.head(self.norm2(tokens).mean(1))


def sorted_tokens(tokens):
    order = tokens.norm(dim=2).argsort(1)
    return tokens.gather(1, order[..., None].expand_as(tokens))


def routed(tokens):
    return tokens.flip(1) if bool(tokens.mean() > 0) else tokens


class Branches(nn.Module):
    """A fine and a coarse branch, each with a head of its own."""

    def __init__(self, join):
        super().__init__()
        self.stem, self.fine, self.coarse = convolutions(3, 6), convolutions(6, 6, stride=1), convolutions(6, 8, 8)
        self.fine_head, self.coarse_head, self.join = nn.Linear(6, 2), nn.Linear(8, 2), join

    def forward(self, x):
        x = self.stem(x)
        fine, coarse = self.fine(x).mean((2, 3)), self.coarse(x).mean((2, 3))
        return self.join(self.fine_head(fine), self.coarse_head(coarse))


def larger_by_the_sum(a, b):
    return torch.stack([p if p.sum() > q.sum() else q for p, q in zip(a, b, strict=True)])


BUILD = {
    "sorted tokens": lambda: Tokens(sorted_tokens),
    "routed tokens": lambda: Tokens(routed),
    "heads side by side": lambda: Branches(lambda a, b: torch.cat([a, b], 1)),
    "the larger of two heads": lambda: Branches(torch.maximum),
    "a head by the image": lambda: Branches(larger_by_the_sum),
}  # fmt: skip


def build(name):
    torch.manual_seed(3)
    return BUILD[name]().eval()


def answer(explainer, x, method, target=None, **options):
    """The heatmap, or the kind of refusal."""
    try:
        return explainer.attribute(x, method, target=target, **QUICK.get(method, {}), **options).heatmap()
    except AttribkitError as error:
        return type(error)


def assert_same(one, other, what):
    if isinstance(one, type) or isinstance(other, type):
        assert one is other, f"{what}: {one} and {other}"
        return
    limit = 1e-5 * max(float(other.abs().max()), 1e-6)
    assert one.shape == other.shape, what
    assert float((one - other).abs().max()) <= limit, what


@pytest.mark.parametrize(
    "method",
    few(METHODS, "saliency", "guided_backprop", "cam", "gradcam", "ablationcam", "occlusion", "gradient_rollout"),
)
@pytest.mark.parametrize("name", BUILD)
def test_one_explainer_gives_what_fresh_ones_give(name, method):
    model, x = build(name), images()
    used = Explainer(model)
    for target in (1, 0):
        fresh = [answer(Explainer(model), x[i : i + 1], method, target) for i in range(len(x))]
        for i in (2, 0, 1):
            assert_same(answer(used, x[i : i + 1], method, target), fresh[i], f"image {i}, target {target}")
        batch = answer(used, x, method, target)
        if not isinstance(batch, type):
            for i in range(len(x)):
                assert_same(batch[i : i + 1], fresh[i], f"image {i} in the batch, target {target}")


def test_a_batch_whose_classes_have_other_layers_gives_what_single_images_give():
    """Class 0 is a row of the fine head, class 3 of the coarse one; the gradient of the other branch is zero."""
    model, x = build("heads side by side"), images()
    together = Explainer(model).attribute(x, "gradcam", target=[0, 3, 0]).heatmap()
    for i, target in enumerate([0, 3, 0]):
        alone = Explainer(model).attribute(x[i : i + 1], "gradcam", target=target).heatmap()
        assert_same(together[i : i + 1], alone, f"image {i}")


def test_pruned_tokens_are_not_stretched_over_the_image():
    """A quarter of the tokens is kept, by the image: a map of 2 x 2 cells over all of it would be wrong."""
    model = Tokens(
        lambda tokens: tokens.gather(1, tokens.norm(dim=2).topk(4, 1).indices[..., None].expand(-1, -1, 12)), keep=4
    )
    x = images(1)
    with torch.no_grad():
        kept = (model.embed(x).flatten(2).transpose(1, 2) + model.position).norm(dim=2).topk(4, 1).indices[0].tolist()
    try:
        attribution = Explainer(model.eval()).attribute(x, "gradcam", target=0, layer="norm1")
    except AttribkitError:
        return
    heatmap = attribution.heatmap()[0]
    inside = torch.zeros(4, 4, dtype=torch.bool).flatten()
    inside[kept] = True
    outside = ~inside.view(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert float(heatmap[outside].abs().sum()) <= 0.5 * float(heatmap.abs().sum())


# What was found for one target, or for the model as it was, is not used for another


class Dictionary(Branches):
    def __init__(self):
        super().__init__(lambda a, b: {"fine": a, "coarse": b})


KEY = "fine"


def by_the_global_key(outputs):
    return outputs[KEY][:, 0]


def test_one_lambda_over_the_keys_of_a_dict_reads_each_branch(monkeypatch):
    model, x = Dictionary().eval(), images(1)
    explainer = Explainer(model)
    by_closure = [explainer.attribute(x, target=lambda out, key=key: out[key][:, 0]) for key in ("fine", "coarse")]
    by_cell = []
    for key in ("fine", "coarse"):

        def score(out):
            return out[key][:, 0]  # noqa: B023  # a loop as people write it

        by_cell.append(explainer.attribute(x, target=score))
    by_global = []
    for key in ("fine", "coarse"):
        monkeypatch.setitem(globals(), "KEY", key)
        by_global.append(explainer.attribute(x, target=by_the_global_key))
    for attributions in (by_closure, by_cell, by_global):
        assert [each.scores.shape[-1] for each in attributions] == [16, 4]


def test_a_list_that_a_function_sees_may_change():
    model, x, keys = Dictionary().eval(), images(1), ["fine"]
    explainer = Explainer(model)

    def score(out):
        return out[keys[0]][:, 0]

    first = explainer.attribute(x, target=score)
    keys[0] = "coarse"
    assert [first.scores.shape[-1], explainer.attribute(x, target=score).scores.shape[-1]] == [16, 4]


def test_a_head_that_is_initialised_later_is_no_longer_refused():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_heads=3, num_classes=5)
    nn.init.zeros_(model.head.weight)
    explainer = Explainer(model.eval())
    with pytest.raises(AttribkitError, match="untrained head"):
        explainer.attribute(images())
    nn.init.normal_(model.head.weight.data)
    assert_same(explainer.attribute(images()).heatmap(), Explainer(model).attribute(images()).heatmap(), "")


def test_a_flag_that_is_set_later_counts():
    class Flagged(Branches):
        use_coarse = False

        def __init__(self):
            super().__init__(lambda a, b: b if self.use_coarse else a)

    model = Flagged().eval()
    explainer = Explainer(model)
    first = explainer.attribute(images()).scores.shape[-1]
    model.use_coarse = True
    assert [first, explainer.attribute(images()).scores.shape[-1]] == [16, 4]


def test_a_layer_that_is_exchanged_later_counts():
    model = nn.Sequential(
        convolutions(3, 6), convolutions(6, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    )
    explainer = Explainer(model.eval())
    first = explainer.attribute(images()).scores.shape[-1]
    model[1] = convolutions(6, 6, stride=1)
    assert [first, explainer.attribute(images()).scores.shape[-1]] == [8, 16]


# A name means one tensor


class Siamese(nn.Module):
    """One encoder for the image and for another; the score compares them."""

    def __init__(self, first=True):
        super().__init__()
        self.e, self.first = convolutions(3, 6, 6), first

    def forward(self, x, other):
        a, b = (self.e(x), self.e(other)) if self.first else reversed([self.e(other), self.e(x)])
        return F.cosine_similarity(a.mean((2, 3)), b.mean((2, 3)))[:, None].expand(-1, 2) * torch.tensor([1.0, 2.0])


@pytest.mark.parametrize("first", [True, False])
def test_of_a_siamese_net_the_run_of_the_explained_image_is_read(first):
    """Grad-CAM by hand: the gradient of the score by the features of x, with those of the other image fixed."""
    model, x, other = Siamese(first).eval(), images(1), images(2)[1:]
    feature = model.e(x).detach().requires_grad_()
    score = 2 * F.cosine_similarity(feature.mean((2, 3)), model.e(other).mean((2, 3)).detach())
    (gradient,) = torch.autograd.grad(score.sum(), feature)
    expected = (feature * gradient.mean((2, 3), keepdim=True)).sum(1, keepdim=True).relu().detach()
    explainer = Explainer(model)
    for layer in ({}, {"layer": "e"}, {"layer": "e@0" if first else "e@1"}):
        found = explainer.attribute(x, "gradcam", target=1, inputs={"other": other}, **layer)
        torch.testing.assert_close(found.scores, expected)
    with pytest.raises(AttribkitError, match="does not depend on the explained image"):
        explainer.attribute(x, "gradcam", target=1, inputs={"other": other}, layer="e@1" if first else "e@0")


class Pyramid(nn.Module):
    """A backbone that returns several maps, and a head on one of them."""

    def __init__(self, gather=list, used=-1):
        super().__init__()
        self.backbone, self.head, self.used = Backbone(gather), nn.Linear(8, 5), used

    def forward(self, x):
        maps = self.backbone(x)
        maps = list(maps.values()) if isinstance(maps, dict) else maps
        return self.head(maps[self.used].mean((2, 3)))


class Backbone(nn.Module):
    def __init__(self, gather):
        super().__init__()
        self.stages, self.gather = nn.ModuleList([convolutions(3, 8), convolutions(8, 8), convolutions(8, 8)]), gather

    def forward(self, x):
        maps = []
        for stage in self.stages:
            x = torch.tanh(stage(x))
            maps.append(x)
        return self.gather(maps)


GATHER = {"list": list, "tuple": tuple, "dict": lambda maps: dict(zip(["c1", "c2", "c3"], maps, strict=True))}


@pytest.mark.parametrize(("used", "side"), [(-1, 4), (1, 8), (0, 16)])
@pytest.mark.parametrize("gather", GATHER)
def test_of_a_backbone_with_several_maps_the_one_that_is_used_is_read(gather, used, side):
    model, x = Pyramid(GATHER[gather], used).eval(), images(1)
    explainer = Explainer(model)
    found = explainer.attribute(x, "gradcam", target=1)
    with torch.no_grad():
        maps = model.backbone(x)
    values = list(maps.values()) if isinstance(maps, dict) else list(maps)
    weights = model.head.weight[1] / values[used][0, 0].numel()
    expected = torch.einsum("d,bdhw->bhw", weights, values[used])[:, None].relu().detach()
    assert found.scores.shape[-1] == side
    torch.testing.assert_close(found.scores, expected)
    name = found.notes[0].split("'")[1]
    assert "[" in name
    assert torch.equal(explainer.attribute(x, "gradcam", target=1, layer=name).scores, found.scores)


def test_entries_count_from_the_end_too():
    explainer, x = Explainer(Pyramid().eval()), images(1)
    scores = [explainer.attribute(x, target=1, layer=f"backbone[{key}]").scores for key in (2, -1)]
    assert torch.equal(*scores)


def test_a_plain_name_of_several_maps_is_noted():
    explainer, x = Explainer(Pyramid(used=0).eval()), images(1)
    found = explainer.attribute(x, target=1, layer="backbone")
    note = next(note for note in found.notes if "returns several spatial maps" in note)
    assert "'backbone[0]' was used" in note
    assert torch.equal(explainer.attribute(x, target=1, layer="backbone[0]").scores, found.scores)


@pytest.mark.parametrize("name", ["backbone[7]", "backbone[out]", "backbone@3", "backbone@0[9]"])
def test_a_run_or_an_entry_that_is_not_there_is_refused_with_those_that_are(name):
    with pytest.raises(AttribkitError, match=r"backbone@0\[0\], backbone@0\[1\], backbone@0\[2\]"):
        Explainer(Pyramid().eval()).attribute(images(1), target=1, layer=name)


class TextAndImage(nn.Module):
    def __init__(self):
        super().__init__()
        self.text, self.depth, self.vision = (
            nn.Sequential(nn.Embedding(9, 6), nn.LayerNorm(6)),
            convolutions(1, 6, 6),
            convolutions(3, 6, 6),
        )

    def forward(self, x, ids, depth):
        seen = self.vision(x).mean((2, 3)) * self.depth(depth).mean((2, 3))
        return torch.einsum("bd,bd,k->bk", seen, self.text(ids).mean(1), torch.ones(3))


@pytest.mark.parametrize("layer", ["text", "text.1", "depth", "depth.1"])
def test_layers_that_the_image_does_not_reach_are_refused(layer):
    """Nine tokens of a text are no 3 x 3 grid of the image, nor is the map of a depth image one of the photograph."""
    explainer, x = Explainer(TextAndImage().eval()), images(1)
    inputs = {"ids": torch.arange(9)[None], "depth": images(1, 1)}
    assert not any(each.name.startswith(("text", "depth")) for each in explainer.layers(x, inputs=inputs))
    for method in ("gradcam", "eigencam", "layercam", "scorecam", "ablationcam", "cam"):
        with pytest.raises(AttribkitError, match="does not depend on the explained image"):
            explainer.attribute(x, method, target=1, inputs=inputs, layer=layer)


def test_inputs_that_decide_the_order_of_tokens_are_seen():
    """The tokens are permuted by an input: each call has its own order."""

    class Permuted(Tokens):
        def forward(self, x, order):
            self_arranged = Tokens.forward
            self.arrange = lambda tokens: tokens[:, order]
            return self_arranged(self, x)

    torch.manual_seed(0)
    model, x = Permuted(None).eval(), images(1)
    explainer = Explainer(model)
    for seed in (1, 2):
        order = torch.randperm(16, generator=torch.Generator().manual_seed(seed))
        inputs = {"order": BroadcastInput(order)}
        found = explainer.attribute(x, "gradcam", target=1, layer="norm1", inputs=inputs).scores
        fresh = Explainer(model).attribute(x, "gradcam", target=1, layer="norm1", inputs=inputs).scores
        assert torch.equal(found, fresh)


@pytest.mark.slow
def test_a_forward_that_loops_over_its_images_is_explained_image_by_image():
    class Looping(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(convolutions(3, 6, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))

        def forward(self, x):
            return torch.cat([self.body(x[i : i + 1]) for i in range(len(x))])

    model, x = Looping().eval(), images()
    for method in ("gradcam", "layercam", "scorecam", "ablationcam", "cam", "guided_gradcam"):
        looped, plain = (answer(Explainer(each), x, method, 1) for each in (model, model.body))
        assert_same(looped, plain, method)


# Segmentation, and scores of several scales


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.bottleneck = convolutions(3, 6), convolutions(6, 8), convolutions(8, 12)
        self.up2, self.up1, self.head = convolutions(20, 8, stride=1), convolutions(14, 8, stride=1), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(a)
        c = self.bottleneck(b)
        d = self.up2(torch.cat([b, F.interpolate(c, scale_factor=2.0)], 1))
        e = self.up1(torch.cat([a, F.interpolate(d, scale_factor=2.0)], 1))
        return F.interpolate(self.head(e), x.shape[2:], mode="bilinear")


def corner():
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, :8, :8] = True
    return mask


def test_for_a_region_the_bottleneck_is_read():
    """Beside the prediction the gradient is zero outside the region (Vinogradova et al., 2020, read the bottleneck)."""
    found = Explainer(UNet().eval()).attribute(images(1), "gradcam", target=Region(1, corner()))
    assert found.notes[0].startswith("layer='bottleneck': ")
    assert found.scores.shape[-1] == 4


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_for_a_region_of_torchvisions_models_the_end_of_the_backbone_is_read(name):
    model = get_model(name, weights=None, weights_backbone=None, num_classes=4).eval()
    target = Region(1, F.pad(corner(), (0, 32, 0, 32)))
    found = Explainer(model).attribute(images(1, side=64), "gradcam", target=target)
    assert found.notes[0].startswith("layer='backbone"), found.notes[0]


class Scales(nn.Module):
    """The score is a sum over two scales, each with a head of its own or all with the same."""

    def __init__(self, shared):
        super().__init__()
        self.stem, self.down = convolutions(3, 6), convolutions(6, 6)
        self.tower = convolutions(6, 6, stride=1)
        self.other = self.tower if shared else convolutions(6, 6, stride=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        fine = self.stem(x)
        coarse = self.down(fine)
        return self.head(self.tower(fine).mean((2, 3))) + self.head(self.other(coarse).mean((2, 3)))


@pytest.mark.parametrize("shared", [True, False])
def test_a_sum_over_scales_is_read_at_the_last_map_of_each(shared):
    """The map of several layers is the mean of their maps, each in the range 0 to 1 and of the size of the image."""
    model, x = Scales(shared).eval(), images(1)
    explainer = Explainer(model)
    found = explainer.attribute(x, "gradcam", target=1)
    names = ("tower@0", "tower@1") if shared else ("tower", "other")
    assert found.notes[0].startswith(f"layer={names!r}: ")
    assert found.scores.shape[-2:] == x.shape[-2:]
    assert torch.equal(explainer.attribute(x, "gradcam", target=1, layer=names).scores, found.scores)
    by_hand = 0
    with torch.no_grad():
        fine = model.stem(x)
        for maps in (model.tower(fine), model.other(model.down(fine))):
            each = torch.einsum("d,bdhw->bhw", model.head.weight[1], maps)[:, None].relu() / maps[0, 0].numel()
            each = (each - each.min()) / (each.max() - each.min() + 1e-7)
            by_hand = by_hand + F.interpolate(each, (32, 32), mode="bilinear") / 2
    torch.testing.assert_close(found.scores, by_hand)
