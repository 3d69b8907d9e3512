"""Attention maps against timm's own weights, rollouts against hand-written ones."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from attribkit import AttribkitError, Explainer, ModelSpec, Probability
from attribkit.testing import changes, model_state


def tiny(name="vit_tiny_patch16_224", **arguments):
    torch.manual_seed(0)
    size = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 7}
    model = timm.create_model(name, **(size | arguments)).eval()
    for parameter in model.parameters():  # far from uniform attention
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return model


def torchvision_vit():
    torch.manual_seed(0)
    return torchvision.models.VisionTransformer(64, 16, 3, 3, 24, 48, num_classes=7).eval()


MODELS = {  # model, prefix tokens, tokens that the score reads
    "class token": (lambda: tiny(), 1, [0]),
    "registers": (lambda: tiny(reg_tokens=4), 5, [0]),
    "average pooling": (lambda: tiny(class_token=False, global_pool="avg"), 0, list(range(16))),
    "average pooling beside a class token": (lambda: tiny(global_pool="avg"), 1, list(range(1, 17))),
    "distilled": (lambda: tiny("deit_tiny_distilled_patch16_224"), 2, [0, 1]),
    "normed queries and keys": (lambda: tiny(qk_norm=True), 1, [0]),
}


def unfused(model, x):
    """The weights as timm computes them without its fused kernel."""
    kept = []
    blocks = [block.attn for block in model.blocks]
    handles = [attn.attn_drop.register_forward_hook(lambda *a: kept.append(a[2])) for attn in blocks]
    for attn in blocks:
        attn.fused_attn = False
    outputs = model(x)
    for attn, handle in zip(blocks, handles, strict=True):
        attn.fused_attn = True
        handle.remove()
    return kept, outputs


@pytest.mark.parametrize(
    "name", ["class token", "registers", "average pooling", "distilled", "normed queries and keys"]
)
def test_attention_is_the_rows_of_the_tokens_that_the_score_reads(name):
    make, prefix, read = MODELS[name]
    model, x = make(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        weights, _ = unfused(model, x)
    explainer = Explainer(model)
    for block in (-1, 0):
        for options, heads in [
            ({}, weights[block].mean(1)),
            ({"fusion": "max"}, weights[block].amax(1)),
            ({"fusion": "min"}, weights[block].amin(1)),
            ({"head": 2}, weights[block][:, 2]),
        ]:
            expected = heads[:, read, prefix:].mean(1).reshape(2, 1, 4, 4)
            torch.testing.assert_close(explainer.attribute(x, "attention", block=block, **options).scores, expected)
    notes = explainer.attribute(x, "attention").notes
    assert any("does not depend on the target" in note for note in notes)
    assert any((f"token {read[0]}" if len(read) == 1 else f"{len(read)} tokens") in note for note in notes)


def rollout_by_hand(layers, discard):
    """One image; numbers only."""
    total = torch.eye(len(layers[0][0]), dtype=torch.float64)
    for weights in layers:
        mean = weights.double().mean(0)
        limit = mean.flatten().sort().values[int(mean.numel() * discard)]
        mean = torch.where(mean < limit, 0, mean)
        step = 0.5 * mean + 0.5 * torch.eye(len(mean))
        total = (step / step.sum(1, keepdim=True)) @ total
    return total


@pytest.mark.parametrize("discard", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("name", ["class token", "average pooling"])
def test_rollout_equals_one_by_hand(name, discard):
    make, prefix, read = MODELS[name]
    model, x = make().double(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        weights, _ = unfused(model, x)
    ours = Explainer(model).attribute(x, "attention_rollout", discard_ratio=discard).scores
    for i in range(2):
        expected = rollout_by_hand([layer[i] for layer in weights], discard)[read, prefix:].mean(0)
        torch.testing.assert_close(ours[i, 0].flatten(), expected)


@pytest.mark.parametrize("name", ["class token", "distilled", "average pooling"])
def test_gradient_rollout_equals_one_by_hand(name):
    make, prefix, read = MODELS[name]
    model, x = make().double(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    ours = Explainer(model).attribute(x, "gradient_rollout", target=[1, 5]).scores
    for i, category in enumerate([1, 5]):
        weights, outputs = unfused(model, x[i : i + 1])
        gradients = torch.autograd.grad(outputs[0, category], weights)
        relevance = torch.eye(16 + prefix, dtype=torch.float64)
        for layer, gradient in zip(weights, gradients, strict=True):
            relevance = relevance + (layer * gradient).clamp(min=0).mean((0, 1)) @ relevance
        torch.testing.assert_close(ours[i, 0].flatten(), relevance[read, prefix:].mean(0).detach())


def test_gradient_rollout_of_multi_head_attention():
    """torchvision's own weights are off the path to the score; ours are on it."""
    model, x = torchvision_vit().double(), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    nn.init.normal_(model.heads.head.weight)
    ours = Explainer(model).attribute(x, "gradient_rollout", target=3).scores
    tensors = []

    class Explicit(nn.Module):
        def __init__(self, own):
            super().__init__()
            self.own = own

        def forward(self, query, *_, **__):
            q, k, v = (query @ self.own.in_proj_weight.T + self.own.in_proj_bias).unflatten(-1, (3, 3, 8)).unbind(2)
            weights = torch.einsum("bqhd,bkhd->bhqk", q, k).div(8**0.5).softmax(-1)
            tensors.append(weights)
            return self.own.out_proj(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)), None

    for layer in model.encoder.layers:
        layer.self_attention = Explicit(layer.self_attention)
    gradients = torch.autograd.grad(model(x)[0, 3], tensors)
    relevance = torch.eye(17, dtype=torch.float64)
    for layer, gradient in zip(tensors, gradients, strict=True):
        relevance = relevance + (layer * gradient).clamp(min=0).mean((0, 1)) @ relevance
    torch.testing.assert_close(ours[0, 0].flatten(), relevance[0, 1:].detach())


def test_attention_written_by_hand_is_seen():
    model, x = tiny(), torch.randn(2, 3, 64, 64)
    expected = Explainer(model).attribute(x, "attention_rollout").scores
    for block in model.blocks:
        block.attn.fused_attn = False
    torch.testing.assert_close(Explainer(model).attribute(x, "attention_rollout").scores, expected)


def test_the_model_is_left_alone():
    model, x = tiny().train(), torch.randn(2, 3, 64, 64)
    before = model_state(model)
    for method in ("attention", "attention_rollout", "gradient_rollout"):
        Explainer(model).attribute(x, method)
    assert not changes(before, model_state(model))


def test_half_precision():
    model, x = tiny(), torch.randn(2, 3, 64, 64)
    for method in ("attention", "attention_rollout", "gradient_rollout"):
        exact = Explainer(model).attribute(x, method, target=1).scores
        rough = Explainer(tiny().bfloat16()).attribute(x.bfloat16(), method, target=1).scores
        assert rough.dtype == torch.float32
        assert torch.corrcoef(torch.stack([exact.flatten(), rough.flatten()]))[0, 1] > 0.98


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("make", "method", "options", "message"),
    [
        (lambda: timm.create_model("resnet18"), "attention", {}, "No attention between image tokens was found"),
        (lambda: timm.create_model("resnet18"), "gradient_rollout", {}, "No attention between image tokens was found"),
        (tiny, "attention", {"fusion": "sum"}, "fusion must be one of 'mean', 'max', 'min', got 'sum'"),
        (tiny, "attention_rollout", {"discard_ratio": 1.0}, "discard_ratio must be .*, got 1.0"),
        (lambda: timm.create_model("pit_ti_224", num_classes=7), "attention_rollout", {}, "same tokens in every layer"),
    ],
)  # fmt: skip
def test_refusals(make, method, options, message):
    model = make()
    side = 224 if "Pooling" in type(model).__name__ else 64
    with pytest.raises(AttribkitError, match=message):
        Explainer(model.eval()).attribute(torch.randn(1, 3, side, side), method, target=1, **options)


def test_prefix_tokens_may_be_told():
    """The places of the tokens tell it as well."""
    inner, x = tiny(reg_tokens=1), torch.randn(1, 3, 64, 64)
    wrapped = nn.Sequential(inner)
    with_spec = Explainer(wrapped, spec=ModelSpec(prefix_tokens=2)).attribute(x, "attention").scores
    torch.testing.assert_close(with_spec, Explainer(inner).attribute(x, "attention").scores)


def test_any_target_is_followed():
    model, x = tiny(), torch.randn(2, 3, 64, 64)
    explainer = Explainer(model)
    logit = explainer.attribute(x, "gradient_rollout", target=1).scores
    assert not torch.allclose(logit, explainer.attribute(x, "gradient_rollout", target=2).scores)
    assert not torch.allclose(logit, explainer.attribute(x, "gradient_rollout", target=Probability(1)).scores)


def swin(**arguments):
    torch.manual_seed(0)
    small = {"img_size": 64, "window_size": 4, "depths": (2, 2), "num_heads": (2, 4), "embed_dim": 16, "num_classes": 7}
    model = timm.create_model("swin_tiny_patch4_window7_224", **(small | arguments)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("block", [-1, 1, 2])
def test_attention_inside_windows_is_what_each_place_receives_on_average(block):
    model, x = swin(), torch.randn(2, 3, 64, 64)
    attribution = Explainer(model).attribute(x, "attention", block=block)
    weights = Explainer(model).attention(x)[block].weights
    expected = weights.mean((1, 2)).view_as(attribution.scores)
    torch.testing.assert_close(attribution.scores, expected)
    assert any("compare positions inside a window, not across windows" in note for note in attribution.notes)
    sums = attribution.scores.unfold(2, 4, 4).unfold(3, 4, 4).sum((4, 5))
    assert bool((sums - 0.25).abs().max() < 1e-6) == (block == 2)  # the others are shifted


def test_heads_inside_windows():
    model, x = swin(), torch.randn(1, 3, 64, 64)
    weights = Explainer(model).attention(x)[-1].weights
    explainer = Explainer(model)
    for options, heads in [({"fusion": "max"}, weights.amax(1)), ({"head": 3}, weights[:, 3])]:
        scores = explainer.attribute(x, "attention", **options).scores
        torch.testing.assert_close(scores, heads.mean(1).view_as(scores))


def cait():
    return tiny("cait_xxs24_224", depth=2)


def test_class_attention_is_the_class_tokens_row():
    model, x = cait(), torch.randn(2, 3, 64, 64)
    layers = Explainer(model).attention(x)
    explainer = Explainer(model)
    attribution = explainer.attribute(x, "attention")
    torch.testing.assert_close(attribution.scores.flatten(1), layers[-1].weights[:, :, 0, 1:].mean(1))
    assert "attention of token 0" in attribution.notes
    attribution = explainer.attribute(x, "attention", block=0)  # between patches, none of which is read
    torch.testing.assert_close(attribution.scores.flatten(1), layers[0].weights.mean((1, 2)))
    assert "mean attention of 16 tokens" in attribution.notes
    assert any("talking heads" in note for note in attribution.notes)


class Channels(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = timm.models.xcit.XCA(24, num_heads=3)

    def forward(self, x, **_):
        return self.own(x)


def with_channels():
    """A ViT whose second block attends from channel to channel."""
    model = tiny()
    model.blocks[1].attn = Channels()
    return model.eval()


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("method", ["attention_rollout", "gradient_rollout"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (swin, r"attend inside windows: layers\.0\.blocks\.0\.attn, "),
        (cait, r"tokens in every layer; the queries by keys of this model are 1 prefix by 1 prefix \+ 4x4, 4x4"),
        (with_channels, r"the weights of every layer, but the weights of blocks\.1\.attn\.own are missing"),
        (lambda: tiny("convit_tiny", depth=1), r"the weights of every layer, but .* the model changes them further"),
    ],
    ids=["windows", "class attention", "a layer that is not seen", "weights that are changed"],
)  # fmt: skip
def test_a_rollout_that_would_not_be_true_is_refused(make, message, method):
    with pytest.raises(AttribkitError, match=message):
        Explainer(make()).attribute(torch.randn(1, 3, 64, 64), method, target=1)


def test_a_layer_that_is_not_seen_is_told():
    attribution = Explainer(with_channels()).attribute(torch.randn(1, 3, 64, 64), "attention")
    assert any("the weights of blocks.1.attn.own are missing" in note for note in attribution.notes)


@pytest.mark.usefixtures("as_users_run")
def test_a_head_of_zeros_reads_no_token():
    model, x = tiny(), torch.randn(2, 3, 64, 64)
    nn.init.zeros_(model.head.weight)
    explainer = Explainer(model)
    for method in ("attention", "attention_rollout", "gradient_rollout"):
        with pytest.raises(AttribkitError, match=r"gradient of the score is exactly zero .* The head may be untrained"):
            explainer.attribute(x, method, target=1)
    nn.init.normal_(model.head.weight)
    assert explainer.attribute(x, "attention", target=1).scores.isfinite().all()
