"""Score-CAM and Ablation-CAM: pytorch-grad-cam, slow loops, and what the shared part of the forwards may not change."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from attribkit import Explainer, ModelSpec
from attribkit._contracts.attribution import resize_map


def small_cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 7),
    ).eval().double()  # fmt: skip


def small_vit(**arguments):
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 3, "num_heads": 3, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", **size, **arguments).eval().double()


def unit(maps):
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


class Enlarge(nn.Upsample):
    """pytorch-grad-cam enlarges its masks with aligned corners and its maps without; we do neither differently."""

    def __init__(self, size):
        super().__init__(size=tuple(size), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("method", ["scorecam", "ablationcam"])
def test_equals_pytorch_grad_cam(method, monkeypatch):
    cams = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    monkeypatch.setattr(torch.nn, "UpsamplingBilinear2d", Enlarge)
    model, x = small_cnn(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        classes = model(x).argmax(1).tolist()
        assert (model(x).amax(1) > 0).all(), "there the two agree on the sign of Ablation-CAM"
    ours = unit(Explainer(model).attribute(x, method, layer="3").heatmap()).numpy()
    peer = {"scorecam": cams.ScoreCAM, "ablationcam": cams.AblationCAM}[method]
    with peer(model=model, target_layers=[model[3]]) as cam:
        theirs = cam(input_tensor=x, targets=[ClassifierOutputTarget(c) for c in classes])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_scorecam_equals_a_slow_loop():
    model, x = small_vit(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    scores = Explainer(model).attribute(x, "scorecam", target=3, layer="blocks.1").scores
    for image, score in zip(x, scores, strict=True):
        kept = []
        with torch.no_grad(), model.blocks[1].register_forward_hook(lambda *a: kept.append(a[2])):  # noqa: B023
            model(image[None])
        maps = kept[0][0, 1:].T.reshape(12, 4, 4)
        weights = []
        for channel in maps:
            mask = resize_map(channel[None, None], (32, 32))
            with torch.no_grad():
                weights.append(model(image * (mask - mask.min()) / (mask.max() - mask.min()))[0, 3])
        expected = (torch.stack(weights).softmax(0)[:, None, None] * maps).sum(0).relu()
        torch.testing.assert_close(score[0], expected)


ABLATED = {  # a layer whose rest takes batches, and others that need help
    "last block": (lambda: small_vit(), "blocks.2.norm1"),
    "first block, inside the residual stream": (lambda: small_vit(), "blocks.0.attn"),
    "average pooled": (lambda: small_vit(class_token=False, global_pool="avg"), "blocks.1"),
    "convolutions": (small_cnn, "1"),
    "batch mixed with space on the way": (lambda: Mixing().eval().double(), "conv"),
    "a concatenation": (lambda: Concatenating().eval().double(), "right"),
}


class Mixing(nn.Module):
    """Reshapes by the batch size of its input, so that several outputs of a layer would be taken for one image."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3, 2, 1), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.conv(x).relu().movedim(1, -1).reshape(len(x), -1, 6).mean(1))


class Concatenating(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(torch.cat([self.left(x), self.right(x)], 1).relu().mean((2, 3)))


@pytest.mark.parametrize("name", ABLATED)
def test_ablationcam_equals_a_slow_loop(name):
    make, layer = ABLATED[name]
    torch.manual_seed(0)
    model, x = make(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    scores = Explainer(model).attribute(x, "ablationcam", target=[3, 1], layer=layer).scores
    tokens = "blocks" in layer
    for image, category, score in zip(x[:, None], [3, 1], scores, strict=True):
        kept = []

        def keep(module, args, output, kept=kept):
            kept.append(output)

        with torch.no_grad(), model.get_submodule(layer).register_forward_hook(keep):
            full = model(image)[0, category]
        losses = []
        for channel in range(kept[0].shape[-1 if tokens else 1]):

            def ablate(module, args, output, channel=channel):
                output = output.clone()
                output[(..., channel) if tokens else (slice(None), channel)] = 0
                return output

            with torch.no_grad(), model.get_submodule(layer).register_forward_hook(ablate):
                losses.append((full - model(image)[0, category]) / full.abs())
        maps = kept[0][0]
        if tokens:
            prefix = maps.shape[0] - 16
            maps = maps[prefix:].T.reshape(-1, 4, 4)
        torch.testing.assert_close(score[0], (torch.stack(losses)[:, None, None] * maps).sum(0).relu())


def test_ablationcam_of_a_negative_score_shows_what_the_score_needs():
    """pytorch-grad-cam divides by the score itself: where that is negative, it shows what speaks against the class."""
    model, x = small_cnn(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    explainer = Explainer(model)
    with torch.no_grad():
        shift = model(x)[:, 2].max() + 1
        above = explainer.attribute(x, "ablationcam", target=lambda y: y[:, 2] + 5 * shift, layer="3").scores
        below = explainer.attribute(x, "ablationcam", target=lambda y: y[:, 2] - shift, layer="3").scores
    for one, other in zip(above, below, strict=True):
        torch.testing.assert_close(one / one.max(), other / other.max())


def test_ablationcam_says_where_zero_is_no_absence():
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    signed = Explainer(small_vit()).attribute(x, "ablationcam", target=1)
    rectified = Explainer(small_cnn()).attribute(x, "ablationcam", target=1, layer="3")
    assert any("removes a feature only after a ReLU" in note for note in signed.notes)
    assert not any("removes a feature only after a ReLU" in note for note in rectified.notes)


def test_what_comes_before_the_layer_is_computed_once():
    model, x = small_cnn(), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    runs = []
    model[0].register_forward_hook(lambda *_: runs.append(1))
    explainer = Explainer(model, spec=ModelSpec(layer="3"))
    explainer.attribute(x, "gradcam", target=1)  # the first call costs more
    runs.clear()
    explainer.attribute(x, "ablationcam", target=1)
    assert len(runs) <= 6, "the activation, the score, the change alone, the test, and one for all twelve channels"
