"""Attention of every family: weights against their own, windows against slow loops, kernels against torch's."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from attribkit import AttribkitError, Explainer
from attribkit._tracing.attention_recorder import record_attention
from attribkit.testing import changes, model_state

SMALL = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 7}
SWIN = {"depths": (2, 2), "num_heads": (2, 4), "embed_dim": 16, "num_classes": 7}
VITS = {
    "vit": ("vit_tiny_patch16_224", SMALL, "1 prefix + 4x4"),
    "registers": ("vit_tiny_patch16_224", SMALL | {"reg_tokens": 4}, "5 prefix + 4x4"),
    "no class token": ("vit_tiny_patch16_224", SMALL | {"class_token": False, "global_pool": "avg"}, "4x4"),
    "deit distilled": ("deit_tiny_distilled_patch16_224", SMALL, "2 prefix + 4x4"),
    "beit": ("beit_base_patch16_224", SMALL, "1 prefix + 4x4"),
    "dinov3": ("vit_small_patch16_dinov3", SMALL | {"embed_dim": 48}, "5 prefix + 4x4"),
    "eva02": ("eva02_tiny_patch14_224", SMALL, "1 prefix + 4x4"),
    "relative positions": ("vit_relpos_small_patch16_224", SMALL, "4x4"),
    "not square": ("vit_tiny_patch16_224", SMALL | {"img_size": (32, 64)}, "1 prefix + 2x4"),
}


def created(name, **arguments):
    """Far from uniform attention."""
    torch.manual_seed(0)
    model = timm.create_model(name, **arguments).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.15)
    return model


def attention(model, x):
    """What the explainer sees, once it is sure that the outputs and the model stay what they are."""
    with torch.no_grad():
        expected, outputs = model(x), []
    handle = model.register_forward_hook(lambda *a: outputs.append(a[2]))
    before = model_state(model)
    layers = Explainer(model).attention(x)
    assert not changes(before, model_state(model))
    handle.remove()
    torch.testing.assert_close(outputs[-1], expected, rtol=0, atol=1e-5)
    for layer in layers:
        torch.testing.assert_close(layer.windows.sum(-1), torch.ones_like(layer.windows[..., 0]))
    return layers


def unfused(model, x):
    """The weights of each layer as timm computes them without its fused kernels."""
    kept, changed, handles = [], [], []
    for module in model.modules():
        if getattr(module, "fused_attn", False):
            module.fused_attn = False
            changed.append(module)
        if hasattr(module, "attn_drop"):
            handles.append(module.attn_drop.register_forward_pre_hook(lambda _, args: kept.append(args[0])))
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    for module in changed:
        module.fused_attn = True
    return kept


@pytest.mark.parametrize("name", VITS)
def test_weights_between_all_tokens_equal_timms_own(name):
    model_name, arguments, tokens = VITS[name]
    model = created(model_name, **arguments)
    x = torch.randn(2, 3, *((32, 64) if name == "not square" else (64, 64)))
    layers, theirs = attention(model, x), unfused(model, x)
    assert [layer.name for layer in layers] == ["blocks.0.attn", "blocks.1.attn"]
    assert not layers.notes
    for layer, weights in zip(layers, theirs, strict=True):
        torch.testing.assert_close(layer.weights, weights, rtol=0, atol=1e-5)
        assert str(layer.queries) == str(layer.keys) == tokens
    assert "AttentionLayer('blocks.0.attn', 3 heads, " in repr(layers)


def stitched(weights, images, side, places):
    """Weights (images * windows, heads, n, n) for all pairs of the image; places: of each window's tokens, (y, x)."""
    windows = weights.unflatten(0, (images, -1))
    dense = torch.zeros(images, weights.shape[1], side * side, side * side)
    for window, tokens in enumerate(places):
        for query, (y, x) in enumerate(tokens):
            for key, (v, u) in enumerate(tokens):
                dense[:, :, y * side + x, v * side + u] = windows[:, window, :, query, key]
    return dense


def blocks(side, window, shift=0):
    """The places of each window's tokens, of an image that is rolled back by a shift."""
    corners = range(0, side, window)
    return [
        [((v + i + shift) % side, (u + j + shift) % side) for i in range(window) for j in range(window)]
        for v in corners
        for u in corners
    ]


def lattices(side, cells):
    """The places of each window's tokens, of windows that are spread over the whole image."""
    step = side // cells
    return [
        [(i * step + v, j * step + u) for i in range(cells) for j in range(cells)]
        for v in range(step)
        for u in range(step)
    ]


WINDOWED = {
    "swin": (
        "swin_tiny_patch4_window7_224",
        SWIN | {"img_size": 32, "window_size": 4},
        [(8, blocks(8, 4)), (8, blocks(8, 4, 2)), (4, blocks(4, 4)), (4, blocks(4, 4))],
    ),
    "swinv2": (
        "swinv2_tiny_window8_256",
        SWIN | {"img_size": 32, "window_size": 4},
        [(8, blocks(8, 4)), (8, blocks(8, 4, 2)), (4, blocks(4, 4)), (4, blocks(4, 4))],
    ),
    "maxvit": (
        "maxvit_tiny_tf_224",
        {"img_size": 64, "depths": (1, 1), "embed_dim": (32, 32), "stem_width": 16, "num_classes": 7},
        [(16, blocks(16, 2)), (16, lattices(16, 2)), (8, blocks(8, 2)), (8, lattices(8, 2))],
    ),
}


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_are_put_back_where_they_are_on_the_image(name):
    model_name, arguments, arrangement = WINDOWED[name]
    model, x = created(model_name, **arguments), torch.randn(2, 3, *(2 * [arguments["img_size"]]))
    layers, theirs = attention(model, x), unfused(model, x)
    for layer, weights, (side, places) in zip(layers, theirs, arrangement, strict=True):
        expected = stitched(weights, 2, side, places)
        torch.testing.assert_close(layer.weights, expected, rtol=0, atol=1e-5)
        assert layer.keys.grid == (side, side)
        assert layer.keys.prefix == 0
        torch.testing.assert_close(layer.received().flatten(2), expected.mean(2))
        torch.testing.assert_close(layer.attention_from((1, 3)).flatten(2), expected[:, :, side + 3])


def test_padding_gets_attention_that_no_place_receives():
    """9 cells, shifted by 2, in windows of 4 are 12 with padding; its keys are looked at, its queries are dropped."""
    model, x = created("swin_tiny_patch4_window7_224", **SWIN, img_size=36, window_size=4), torch.randn(1, 3, 36, 36)
    layer, weights = attention(model, x)[1], unfused(model, x)[1]
    padded = stitched(weights, 1, 12, blocks(12, 4)).unflatten(3, (12, 12)).unflatten(2, (12, 12))
    shifted = padded[:, :, :9, :9, :9, :9].roll((2, 2), (2, 3)).roll((2, 2), (4, 5))
    expected = shifted.flatten(4).flatten(2, 3)
    torch.testing.assert_close(layer.weights, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(layer.received().flatten(2), expected.mean(2))
    assert layer.received().sum((2, 3)).max() < 1


def test_a_patch_moves_the_attention_of_the_window_it_is_in():
    """The first block has shifted windows, as the block before it is taken away."""
    model, x = created("swin_tiny_patch4_window7_224", **SWIN, img_size=32, window_size=4), torch.randn(1, 3, 32, 32)
    model.layers[0].blocks[0] = nn.Identity()
    changed = x.clone()
    changed[:, :, 4:8, 12:16] += 3  # cell (1, 3): of the window around (0..1, 2..5) that shifts put together
    before, after = (Explainer(model).attention(each)[0].weights.mean(1).view(8, 8, 8, 8) for each in (x, changed))
    moved = (before - after).abs().amax((2, 3)) > 1e-6
    window = torch.zeros(8, 8, dtype=torch.bool)
    window[:2, 2:6] = True  # rows 6 and 7 come from the other side of the image and are masked
    assert torch.equal(moved, window)


def test_torchvisions_windows_by_its_formula_without_windows():
    torch.manual_seed(0)
    model = torchvision.models.SwinTransformer([4, 4], 16, [2, 1], [2, 4], [4, 4], num_classes=7).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.15)
    inputs = []
    modules = [model.features[1][0].attn, model.features[1][1].attn, model.features[3][0].attn]
    handles = [module.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for module in modules]
    layers = attention(model, torch.randn(2, 3, 32, 32))
    for handle in handles:
        handle.remove()
    assert [layer.name for layer in layers] == ["features.1.0.attn", "features.1.1.attn", "features.3.0.attn"]
    for layer, module, z, side, shift in zip(layers, modules, inputs[-3:], (8, 8, 4), (0, 2, 0), strict=True):
        heads = module.num_heads
        q, k, _ = module.qkv(z).flatten(1, 2).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        at = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        rolled = (at - shift) % side
        parts = (rolled >= side - 4).long() + (rolled >= side - shift).long() if shift else torch.zeros_like(at)
        steps = rolled[:, None] % 4 - rolled[None] % 4 + 3
        logits = logits + module.relative_position_bias_table[steps[..., 0] * 7 + steps[..., 1]].permute(2, 0, 1)
        apart = ((rolled[:, None] // 4 != rolled[None] // 4) | (parts[:, None] != parts[None])).any(-1)
        expected = logits.masked_fill(apart, -math.inf).softmax(-1).detach()
        torch.testing.assert_close(layer.weights, expected, rtol=0, atol=1e-5)


def test_torchvisions_vit_by_its_projections():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(64, 16, 2, 3, 24, 48, num_classes=7).eval()
    inputs = []
    modules = [layer.self_attention for layer in model.encoder.layers]
    handles = [module.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for module in modules]
    layers = attention(model, torch.randn(2, 3, 64, 64))
    for handle in handles:
        handle.remove()
    for layer, module, z in zip(layers, modules, inputs[-2:], strict=True):
        projected = z @ module.in_proj_weight.T + module.in_proj_bias
        q, k, _ = projected.unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
        expected = (q @ k.transpose(2, 3) / math.sqrt(8)).softmax(-1).detach()
        torch.testing.assert_close(layer.weights, expected, rtol=0, atol=1e-5)
        assert str(layer.keys) == "1 prefix + 4x4"


def test_torchvisions_maxvit_has_windows_and_lattices():
    torch.manual_seed(0)
    model = torchvision.models.MaxVit(
        input_size=(32, 32), stem_channels=8, partition_size=4, block_channels=[16], block_layers=[1], head_dim=8,
        stochastic_depth_prob=0.0,
    ).eval()  # fmt: skip
    block, lattice = attention(model, torch.randn(2, 3, 32, 32))
    for layer, places in ((block, blocks(8, 4)), (lattice, lattices(8, 4))):
        reaches = stitched(torch.ones(4, 1, 16, 16), 1, 8, places)[0, 0].bool()
        assert torch.equal(layer.weights[1, 0] > 0, reaches)


def test_talking_heads_are_shown_as_the_softmax_makes_them():
    model, x = created("cait_xxs24_224", **SMALL), torch.randn(2, 3, 64, 64)
    softmaxed = []
    handles = [
        block.attn.proj_w.register_forward_pre_hook(lambda _, args: softmaxed.append(args[0].permute(0, 3, 1, 2)))
        for block in model.blocks
    ]
    layers = attention(model, x)
    for handle in handles:
        handle.remove()
    for layer, weights in zip(layers[:2], softmaxed[-2:], strict=True):
        torch.testing.assert_close(layer.weights, weights, rtol=0, atol=1e-5)
    for layer, weights in zip(layers[2:], unfused(model, x)[-2:], strict=True):
        torch.testing.assert_close(layer.weights, weights, rtol=0, atol=1e-5)
        assert (str(layer.queries), str(layer.keys)) == ("1 prefix", "1 prefix + 4x4")
        torch.testing.assert_close(layer.attention_from(0).flatten(2), weights[:, :, 0, 1:])
    assert layers.changed == ("blocks.0.attn", "blocks.1.attn")
    assert any("talking heads" in note for note in layers.notes)


def volo():
    kwargs = {"layers": (1, 1), "embed_dims": (24, 24), "num_heads": (2, 2), "stem_hidden_dim": 16, "num_classes": 7}
    return timm.models.volo.VOLO(img_size=64, outlook_attention=(True, False), downsamples=(True, False), **kwargs)


def xcit():
    return created("xcit_nano_12_p16_224", **SMALL)


def davit():
    return timm.models.davit.DaVit(depths=(1,), embed_dims=(24,), num_heads=(3,), num_classes=7)


@pytest.mark.parametrize(
    ("make", "seen", "left_out"),
    [
        (xcit, "cls_attn_blocks.1.attn", ["blocks.0.attn", "blocks.1.attn"]),
        (davit, "stages.0.blocks.0.0.attn", ["stages.0.blocks.0.1.attn"]),
        (volo, "network.2.0.attn", ["network.0.0.attn"]),
        (lambda: created("convit_tiny", img_size=64, depth=1), "blocks.0.attn", ["blocks.0.attn"]),
    ],
    ids=["channels, xcit", "channels, davit", "offsets", "positions"],
)  # fmt: skip
def test_what_is_not_between_tokens_is_told_and_never_read_as_tokens(make, seen, left_out):
    layers = attention(make().eval(), torch.randn(1, 3, 64, 64))
    assert list(layers.left_out) == left_out
    assert any(left_out[0] in note for note in layers.notes)
    assert seen in [layer.name for layer in layers]


def pvt():
    narrow = {"depths": (1, 1), "embed_dims": (16, 32), "num_heads": (1, 2), "sr_ratios": (8, 2), "num_classes": 7}
    return timm.models.pvt_v2.PyramidVisionTransformerV2(**narrow)


def nest():
    narrow = {"num_levels": 2, "embed_dims": (16, 32), "num_heads": (2, 2), "depths": (1, 1), "num_classes": 7}
    return timm.models.nest.Nest(img_size=64, **narrow)


def mvit():
    narrow = timm.models.mvitv2.MultiScaleVitCfg(depths=(1, 1), embed_dim=16, stride_q=((1, 1), (2, 2)))
    return timm.models.mvitv2.MultiScaleVit(narrow, img_size=64, num_classes=7)


def levit():
    narrow = {"embed_dim": (16, 32), "key_dim": 8, "depth": (1, 1), "num_heads": (2, 2), "num_classes": 7}
    return timm.models.levit.Levit(img_size=64, **narrow)


def hiera():
    narrow = {"embed_dim": 16, "num_heads": 1, "stages": (1, 1), "q_pool": 1, "mask_unit_size": (4, 4)}
    return timm.models.hiera.Hiera(img_size=(64, 64), num_classes=7, **narrow)


def sam():
    return timm.create_model("samvit_base_patch16", window_size=3, neck_chans=16, global_attn_indexes=(1,), **SMALL)


def halos():
    attends = timm.layers.halo_attn.HaloAttn(16, num_heads=2, dim_head=8, block_size=4, halo_size=1)
    return nn.Sequential(nn.Conv2d(3, 16, 4, 4), attends, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 7))


def small(name, **arguments):
    return lambda: timm.create_model(name, num_classes=7, **arguments)


FAMILIES = {
    "pvt": (pvt, 64, "'stages.1.blocks.0.attn', 2 heads, 8x8 queries by 4x4 keys)"),
    "nest": (nest, 64, "0.attn', 2 heads, 16x16 queries by 16x16 keys in 4 windows of 64 by 64)"),
    "hiera": (hiera, 64, "'blocks.1.attn', 2 heads, 8x8 queries by 16x16 keys in 16 windows of 4 by 16)"),
    "sam": (sam, 64, "'blocks.0.attn', 3 heads, 4x4 queries by 4x4 keys in 4 windows of 9 by 9)"),
    "mvitv2": (mvit, 64, "'stages.1.blocks.0.attn', 2 heads, 8x8 queries by 8x8 keys)"),
    "levit": (levit, 64, "'stages.1.downsample.attn_downsample', 2 heads, 2x2 queries by 4x4 keys)"),
    "tnt": (
        small("tnt_s_legacy_patch16_224", img_size=32, depth=1), 32,
        "'blocks.0.attn_in', 4 heads, 8x8 queries by 8x8 keys in 4 windows of 16 by 16)",
    ),
    "halos": (halos, 32, "'1', 2 heads, 8x8 queries by 8x8 keys in 4 windows of 16 by 36)"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name):
    make, side, expected = FAMILIES[name]
    torch.manual_seed(0)
    assert expected in repr(attention(make().eval(), torch.randn(2, 3, side, side)))


class Explicit(nn.Module):
    """Attention over (b * heads, n, d), with keys in the rows and a softmax over these."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.queries, self.keys, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        z = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = (
            each.unflatten(-1, (2, 4)).transpose(1, 2).flatten(0, 1) for each in (self.queries(z), self.keys(z), z)
        )
        weights = torch.softmax(torch.bmm(k, q.transpose(1, 2)), 1)
        gathered = torch.bmm(weights.transpose(1, 2), v)
        return self.head(gathered.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2).mean(1))


def test_any_order_of_axes():
    torch.manual_seed(0)
    model, x = Explicit().eval(), torch.randn(3, 3, 12, 16)
    (layer,) = attention(model, x)
    z = model.patches(x).flatten(2).transpose(1, 2)
    q, k = (each(z).unflatten(-1, (2, 4)).transpose(1, 2) for each in (model.queries, model.keys))
    torch.testing.assert_close(layer.weights, (q @ k.transpose(2, 3)).softmax(-1).detach())
    assert layer.keys.grid == (3, 4)
    places = torch.cartesian_prod((torch.arange(3) + 0.5) / 3, (torch.arange(4) + 0.5) / 4)
    torch.testing.assert_close(layer.queries.positions[0], places)


def test_places_and_queries_of_a_layer():
    layer = attention(created("vit_tiny_patch16_224", **SMALL), torch.randn(1, 3, 64, 64))[0]
    assert layer.queries.positions.shape == (1, 17, 2)
    assert layer.queries.positions[0, 0].isnan().all()
    torch.testing.assert_close(layer.queries.positions[0, 6], torch.tensor([0.375, 0.375]))
    torch.testing.assert_close(layer.attention_from((1, 1)), layer.weights[:, :, 6, 1:].unflatten(2, (4, 4)))
    for query in (1, (4, 0), (0,), (0, 0, 0), -1):
        with pytest.raises(AttribkitError, match=r"Token .* does not exist\. The tokens are 1 prefix \+ 4x4"):
            layer.attention_from(query)


class Sorted(nn.Module):
    """Tokens in the order of their brightness, as models that choose tokens have them."""

    def __init__(self):
        super().__init__()
        self.patches, self.attn = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        order = tokens[..., :1].argsort(1).expand(tokens.shape)
        tokens = tokens.gather(1, order)
        return self.attn(tokens, tokens, tokens, need_weights=False)[0].mean(1)


def test_tokens_that_differ_from_image_to_image_are_no_batch():
    model, x = Sorted().eval(), torch.randn(2, 3, 8, 12)
    with pytest.raises(AttribkitError, match=r"that of attn is of another kind, or the positions of its tokens"):
        Explainer(model).attention(x)
    with pytest.raises(AttribkitError, match=r"different tokens for different images.*one image at a time"):
        Explainer(model, batch_size=1).attention(x)
    (layer,) = Explainer(model).attention(x[:1])
    tokens = model.patches(x[:1]).flatten(2).transpose(1, 2)
    _, expected = model.attn(tokens, tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(layer.weights, expected.detach())  # on the image, the order is undone


class Prompted(nn.Module):
    """The patches of an image beside words, each image with its own."""

    def __init__(self):
        super().__init__()
        self.patches, self.attn = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x, words):
        tokens = torch.cat([words, self.patches(x).flatten(2).transpose(1, 2)], 1)
        return self.attn(tokens, tokens, tokens, need_weights=False)[0].mean(1)


def test_words_beside_an_image_are_tokens_without_a_place():
    torch.manual_seed(0)
    model, x, words = Prompted().eval(), torch.randn(3, 3, 8, 12), torch.randn(3, 2, 8)
    for batch_size in ("auto", 2):
        (layer,) = Explainer(model, batch_size=batch_size).attention(x, {"words": words})
        assert str(layer.keys) == "2 prefix + 2x3"
        tokens = torch.cat([words, model.patches(x).flatten(2).transpose(1, 2)], 1)
        _, expected = model.attn(tokens, tokens, tokens, average_attn_weights=False)
        torch.testing.assert_close(layer.weights, expected.detach())


def test_half_precision_is_shown_in_float32():
    exact = attention(created("vit_tiny_patch16_224", **SMALL), x := torch.randn(2, 3, 64, 64))
    rough = Explainer(created("vit_tiny_patch16_224", **SMALL).bfloat16()).attention(x.bfloat16())
    assert rough[0].weights.dtype == torch.float32
    torch.testing.assert_close(rough[0].weights, exact[0].weights, rtol=0, atol=0.02)
    torch.testing.assert_close(rough[0].queries.positions, exact[0].queries.positions, equal_nan=True)


def test_videos():
    torch.manual_seed(0)
    narrow = {"patch_size": [2, 4, 4], "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": [2, 4, 4]}
    model = torchvision.models.video.SwinTransformer3d(**narrow, num_classes=7).eval()
    plain, shifted = Explainer(model).attention(torch.randn(1, 3, 8, 32, 32))
    assert plain.keys.grid == shifted.keys.grid == (4, 8, 8)
    reaches = plain.weights[0, 0].view(4, 8, 8, 4, 8, 8) > 0
    assert reaches[0, 0, 0, :2, :4, :4].all()
    assert reaches[0, 0, 0].sum() == 32
    reaches = shifted.weights[0, 0].view(4, 8, 8, 4, 8, 8) > 0
    assert reaches[1, 2, 2, 1:3, 2:6, 2:6].all()
    assert reaches[1, 2, 2].sum() == 32


def test_batches_in_parts_give_the_same():
    model, x = created("swin_tiny_patch4_window7_224", **SWIN, img_size=32, window_size=4), torch.randn(3, 3, 32, 32)
    for one, other in zip(Explainer(model).attention(x), Explainer(model, batch_size=2).attention(x), strict=True):
        torch.testing.assert_close(one.weights, other.weights)


# The kernels


def opened(call):
    seen = []
    with record_attention(lambda weights, certain: (seen.append(weights), weights)[1]):
        result = call()
    return result, seen


def tensors(*leading, queries=5, keys=7, width=4):
    return [torch.randn(*leading, n, width) for n in (queries, keys, keys)]


MASK = torch.ones(5, 7).tril(1).bool()
FUSED = {
    "plain": ((2, 3), {}),
    "three axes": ((3,), {}),
    "five axes": ((2, 4, 3), {}),
    "causal": ((2, 3), {"is_causal": True}),
    "mask": ((2, 3), {"attn_mask": MASK}),
    "bias": ((2, 3), {"attn_mask": torch.randn(3, 5, 7)}),
    "nothing to look at": ((2, 3), {"attn_mask": MASK & (torch.arange(5) != 2)[:, None]}),
    "scale": ((2, 3), {"scale": 0.3}),
    "a scale of zero": ((2, 3), {"scale": 0.0}),
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_attention_in_the_open(name):
    leading, options = FUSED[name]
    q, k, v = tensors(*leading)
    result, (weights,) = opened(lambda: F.scaled_dot_product_attention(q, k, v, **options))
    torch.testing.assert_close(result, F.scaled_dot_product_attention(q, k, v, **options))
    assert weights.shape == (*leading, 5, 7)
    sums = weights.sum(-1)
    assert bool(((sums - 1).abs() < 1e-5).all()) == (name != "nothing to look at")
    assert (weights[..., 0, 1:] > 0).any() != (name == "causal")


def test_grouped_queries():
    q, k, v = torch.randn(2, 6, 5, 4), torch.randn(2, 2, 7, 4), torch.randn(2, 2, 7, 4)
    result, (weights,) = opened(lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    torch.testing.assert_close(result, F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    torch.testing.assert_close(weights[:, 4], (q[:, 4] @ k[:, 1].mT / 2).softmax(-1))


def test_dropout_that_a_fused_call_asks_for_is_behind_what_is_seen():
    q, k, _ = tensors(2, 3)
    result, (weights,) = opened(
        lambda: F.scaled_dot_product_attention(q, k, torch.eye(7).expand(2, 3, 7, 7), dropout_p=0.5)
    )
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5))
    kept = result != 0
    assert 0.2 < kept.float().mean() < 0.8
    torch.testing.assert_close(result[kept], 2 * weights[kept])


def test_autocast_rounds_no_weights():
    q, k, v = tensors(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        result, (weights,) = opened(lambda: F.scaled_dot_product_attention(q, k, v))
        torch.testing.assert_close(result, F.scaled_dot_product_attention(q, k, v), rtol=0, atol=0.03)
    torch.testing.assert_close(weights, (q @ k.mT / 2).softmax(-1))


MULTI_HEAD = {
    "plain": ({}, {}),
    "averaged": ({}, {"average_attn_weights": True}),
    "not asked for": ({}, {"need_weights": False}),
    "padding": ({}, {"key_padding_mask": torch.tensor([[False] * 6 + [True], [True] + [False] * 6])}),
    "mask": ({}, {"attn_mask": ~MASK}),
    "a mask for each head": ({}, {"attn_mask": torch.randn(4, 5, 7)}),
    "both": ({}, {"attn_mask": torch.randn(5, 7), "key_padding_mask": torch.randn(2, 7)}),
    "added keys": ({"add_bias_kv": True, "add_zero_attn": True}, {"attn_mask": ~MASK}),
    "widths": ({"kdim": 6, "vdim": 10}, {}),
    "batch first": ({"batch_first": True}, {}),
    "no bias": ({"bias": False}, {}),
}


@pytest.mark.parametrize("name", MULTI_HEAD)
def test_multi_head_attention_in_the_open(name):
    options, call = MULTI_HEAD[name]
    module = nn.MultiheadAttention(8, 2, **options).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    q, k, v = torch.randn(5, 2, 8), torch.randn(7, 2, options.get("kdim", 8)), torch.randn(7, 2, options.get("vdim", 8))
    k = k if "kdim" in options else v if "batch" in name else k
    if options.get("batch_first"):
        q, k, v = (each.transpose(0, 1) for each in (q, k, v))
    call = {"average_attn_weights": False} | call
    (result, shown), (weights,) = opened(lambda: module(q, k, v, **call))
    expected, theirs = module(q, k, v, **call)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert (shown is None) == (theirs is None) == (name == "not asked for")
    if theirs is not None:
        torch.testing.assert_close(shown, theirs)
        torch.testing.assert_close(weights.mean(1) if call["average_attn_weights"] else weights, theirs)


def test_multi_head_attention_without_a_batch():
    module, q = nn.MultiheadAttention(8, 2).eval(), torch.randn(5, 8)
    padding = torch.tensor([False] * 4 + [True])
    (result, shown), _ = opened(lambda: module(q, q, q, key_padding_mask=padding))
    expected, theirs = module(q, q, q, key_padding_mask=padding)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(shown, theirs)


def test_torchs_own_encoder_takes_no_shortcut_past_us():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        result, seen = opened(lambda: layer(x))
        torch.testing.assert_close(result, layer(x), rtol=1e-5, atol=1e-5)
    assert [tuple(weights.shape) for weights in seen] == [(2, 2, 5, 5)]


def test_a_kernel_that_cannot_be_opened_is_refused():
    q, k, v = tensors(2, 3)
    with pytest.raises(AttribkitError, match=r"calls the fused kernel.*cannot be recorded.*Use gradcam"):
        opened(lambda: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v))
    module = nn.MultiheadAttention(8, 2).eval()
    z = torch.randn(5, 1, 8)
    arguments = [module.in_proj_weight, module.in_proj_bias, None, None, False, 0.0, module.out_proj.weight, None]
    with pytest.raises(AttribkitError, match="projected keys or values"):
        opened(lambda: F.multi_head_attention_forward(z, z, z, 8, 2, *arguments, static_k=torch.randn(2, 5, 4)))
