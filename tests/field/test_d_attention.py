"""Attention of tokens behind the patches, and of layers that have no part in the attention to the images."""

import pytest
import timm
import torch
from torch import nn

from attribkit import AttribkitError, BroadcastInput, Explainer

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("as_users_run")

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32}
IMAGES = SMALL | {"image_size": 32, "patch_size": 8}
WORDS = SMALL | {"vocab_size": 50, "max_position_embeddings": 16}


def built(name, implementation="eager", **arguments):
    """A Hugging Face model with random weights, far from uniform attention."""
    torch.manual_seed(0)
    config_name, _, _ = name.partition("For") if "For" in name else (name.removesuffix("Model"), "", "")
    config = getattr(transformers, f"{config_name}Config")(**arguments, attn_implementation=implementation)
    model = getattr(transformers, name)(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return model


FAMILIES = {
    "ViT": ("ViTForImageClassification", IMAGES, "1 prefix + 4x4"),
    "DeiT": ("DeiTForImageClassificationWithTeacher", IMAGES, "2 prefix + 4x4"),
    "registers": ("Dinov2WithRegistersModel", IMAGES | {"num_register_tokens": 3}, "4 prefix + 4x4"),
    "CLIP": ("CLIPVisionModel", IMAGES, "1 prefix + 4x4"),
    "YOLOS": (
        "YolosForObjectDetection",
        IMAGES | {"image_size": [32, 48], "num_detection_tokens": 5},
        "1 prefix + 4x6 + 5 suffix",
    ),
}


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_attention_equals_the_models_own(family, implementation):
    name, arguments, tokens = FAMILIES[family]
    x = torch.randn(2, 3, 32, 48 if family == "YOLOS" else 32)
    layers = Explainer(built(name, implementation, **arguments)).attention(x)
    with torch.no_grad():
        expected = built(name, **arguments)(x, output_attentions=True).attentions
    assert len(layers) == len(expected) == 2
    assert not layers.notes
    for layer, weights in zip(layers, expected, strict=True):
        assert str(layer.queries) == str(layer.keys) == tokens
        torch.testing.assert_close(layer.weights, weights, rtol=0, atol=1e-5)
        torch.testing.assert_close(layer.weights.sum(-1), torch.ones_like(weights[..., 0]))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_of_a_pooling_head_and_of_reduced_keys_equals_the_models_own(implementation):
    x = torch.randn(2, 3, 32, 32)
    layers = Explainer(built("SiglipVisionModel", implementation, **IMAGES)).attention(x)
    with torch.no_grad():
        expected = built("SiglipVisionModel", **IMAGES)(x, output_attentions=True).attentions
    assert [str(layer.queries) for layer in layers] == ["4x4", "4x4", "1 prefix"]
    for layer, weights in zip(layers[:2], expected, strict=True):
        torch.testing.assert_close(layer.weights, weights, rtol=0, atol=1e-5)
    narrow = {
        "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [16, 32], "patch_sizes": [7, 3],
        "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 16,
    }  # fmt: skip
    layers = Explainer(built("SegformerForSemanticSegmentation", implementation, **narrow)).attention(x)
    with torch.no_grad():
        expected = built("SegformerForSemanticSegmentation", **narrow)(x, output_attentions=True).attentions
    assert [(str(layer.queries), str(layer.keys)) for layer in layers] == [("8x8", "4x4"), ("4x4", "4x4")]
    for layer, weights in zip(layers, expected, strict=True):
        torch.testing.assert_close(layer.weights, weights, rtol=0, atol=1e-5)


def yolos():
    return built("YolosForObjectDetection", "sdpa", **FAMILIES["YOLOS"][1])


def own_weights(model, x):
    with torch.no_grad():
        model.set_attn_implementation("eager")
        weights = model(x, output_attentions=True).attentions
        model.set_attn_implementation("sdpa")
    return weights


def test_a_detection_token_is_read_by_its_number():
    """Its number is its position among the model's tokens: 1 class token, 24 patches, and the third of five."""
    model, x = yolos(), torch.randn(2, 3, 32, 48)
    layer = Explainer(model).attention(x)[-1]
    weights = own_weights(model, x)[-1]
    torch.testing.assert_close(layer.attention_from(27).flatten(2), weights[:, :, 27, 1:25], rtol=0, atol=1e-5)
    torch.testing.assert_close(layer.attention_from(0).flatten(2), weights[:, :, 0, 1:25], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        layer.attention_from((2, 3)).flatten(2), weights[:, :, 1 + 2 * 6 + 3, 1:25], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(layer.received().flatten(2), weights.mean(2)[..., 1:25], rtol=0, atol=1e-5)
    assert (layer.keys.prefix, layer.keys.suffix, layer.keys.count) == (1, 5, 30)
    assert layer.queries.positions[0, 25:].isnan().all()
    for query in (1, 24, 30, -1):
        with pytest.raises(
            AttribkitError, match=r"Token .* does not exist\. The tokens are 1 prefix \+ 4x6 \+ 5 suffix"
        ):
            layer.attention_from(query)


def test_a_rollout_of_a_detection_tokens_score():
    model, x = yolos(), torch.randn(2, 3, 32, 48)
    attribution = Explainer(model).attribute(x, "attention_rollout", target=lambda outputs: outputs.logits[:, 2, 1])
    rollout = torch.eye(30)
    for weights in own_weights(model, x):
        rollout = (weights.mean(1) + torch.eye(30)) / 2 @ rollout
    torch.testing.assert_close(attribution.scores[:, 0].flatten(1), rollout[:, 27, 1:25], rtol=0, atol=1e-5)
    assert "attention of token 27" in attribution.notes
    attribution = Explainer(model).attribute(x, "attention", target=lambda outputs: outputs.pred_boxes[:, 4].sum(-1))
    weights = own_weights(model, x)[-1].mean(1)
    torch.testing.assert_close(attribution.scores[:, 0].flatten(1), weights[:, 29, 1:25], rtol=0, atol=1e-5)


class Arranged(nn.Module):
    """Six patches in two rows, and three tokens of its own, joined in an order of its own."""

    def __init__(self, join):
        super().__init__()
        self.patches, self.attn = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2, batch_first=True)
        self.own, self.join = nn.Parameter(torch.randn(1, 3, 8)), join

    def tokens(self, x):
        return self.join(self.patches(x).flatten(2).transpose(1, 2), self.own.expand(len(x), -1, -1))

    def forward(self, x):
        tokens = self.tokens(x)
        return self.attn(tokens, tokens, tokens, need_weights=False)[0][:, -1]


@pytest.mark.parametrize(
    ("join", "order", "told"),
    [
        (lambda p, own: torch.cat([p, own], 1), range(9), "2x3 + 3 suffix"),
        (lambda p, own: torch.cat([own[:, :2], p, own[:, 2:]], 1), range(9), "2 prefix + 2x3 + 1 suffix"),
        (
            lambda p, own: torch.cat([p[:, :3], own[:, :1], p[:, 3:], own[:, 1:]], 1),
            [0, 1, 2, 4, 5, 6, 3, 7, 8],
            "2x3 + 3 suffix",
        ),
        (
            lambda p, own: torch.cat([own[:, :1], p.flip(1), own[:, 1:]], 1),
            [0, 6, 5, 4, 3, 2, 1, 7, 8],
            "1 prefix + 2x3 + 2 suffix",
        ),
    ],
    ids=["behind", "around", "among", "patches from last to first"],
)
def test_tokens_without_a_place_wherever_they_stand(join, order, told):
    """Numbered: those before all patches, the patches in reading order, the others in the model's order."""
    torch.manual_seed(0)
    model, x = Arranged(join).eval(), torch.randn(2, 3, 8, 12)
    (layer,) = Explainer(model).attention(x)
    assert str(layer.queries) == str(layer.keys) == told
    tokens = model.tokens(x)
    _, weights = model.attn(tokens, tokens, tokens, average_attn_weights=False)
    order = torch.tensor(list(order))
    torch.testing.assert_close(layer.weights, weights.detach()[:, :, order][..., order])
    torch.testing.assert_close(layer.weights.sum(-1), torch.ones(2, 2, 9))
    cells = slice(layer.keys.prefix, layer.keys.prefix + 6)
    torch.testing.assert_close(layer.attention_from(8).flatten(2), layer.weights[:, :, 8, cells])


class PaddedWindow(nn.Module):
    """A map of 2 x 3, padded to one window of 3 x 3, as window attention does."""

    def __init__(self):
        super().__init__()
        self.patches, self.attn = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2, batch_first=True)

    def tokens(self, x):
        return nn.functional.pad(self.patches(x), (0, 0, 0, 1)).flatten(2).transpose(1, 2)

    def forward(self, x):
        tokens = self.tokens(x)
        return self.attn(tokens, tokens, tokens, need_weights=False)[0][:, :6].mean(1)


def test_padding_behind_the_patches_of_one_window_is_no_token():
    """What falls on padding is left out, as its queries are."""
    torch.manual_seed(0)
    model, x = PaddedWindow().eval(), torch.randn(2, 3, 8, 12)
    (layer,) = Explainer(model).attention(x)
    assert str(layer.queries) == str(layer.keys) == "2x3"
    tokens = model.tokens(x)
    _, weights = model.attn(tokens, tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(layer.weights, weights.detach()[:, :, :6, :6])
    torch.testing.assert_close(layer.received().flatten(2), weights.detach()[:, :, :6, :6].mean(2))
    assert layer.weights.sum(-1).max() < 1


class Joint(nn.Module):
    """Scores images by words, whose tokens are given beside the images."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values, input_ids):
        return self.model(input_ids=input_ids, pixel_values=pixel_values).logits_per_image


def joint(name, implementation="sdpa"):
    more = {"projection_dim": 8} if name == "CLIPModel" else {}
    words = WORDS | ({"projection_size": 24} if name == "SiglipModel" else {"eos_token_id": 49})
    model = Joint(built(name, implementation, vision_config=dict(IMAGES), text_config=words, **more)).eval()
    ids = torch.randint(1, 48, (2, 7), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 49
    return model, ids


@pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel"])
def test_a_text_tower_is_left_out_by_name(name):
    (model, ids), x = joint(name), torch.randn(2, 3, 32, 32)
    layers = Explainer(model).attention(x, {"input_ids": BroadcastInput(ids)})
    assert all(layer.name.startswith("model.vision_model.") for layer in layers)
    names = ", ".join(f"model.text_model.encoder.layers.{i}.self_attn" for i in range(2))
    assert layers.notes == (f"left out because it does not depend on the images: {names}",)


@pytest.mark.parametrize("method", ["attention", "attention_rollout", "gradient_rollout"])
def test_a_text_tower_does_not_block(method):
    (model, ids), x = joint("CLIPModel"), torch.randn(2, 3, 32, 32)
    attribution = Explainer(model).attribute(x, method, target=1, inputs={"input_ids": BroadcastInput(ids)})
    assert any("it does not depend on the images: model.text_model." in note for note in attribution.notes)
    with torch.no_grad():
        text = model.model.get_text_features(input_ids=ids)
    text = getattr(text, "pooler_output", text)
    text = text / text.norm(dim=-1, keepdim=True)

    class Tower(nn.Module):
        """The same score by the image tower alone."""

        def __init__(self):
            super().__init__()
            self.tower, self.project, self.scale = (
                model.model.vision_model, model.model.visual_projection, model.model.logit_scale,
            )  # fmt: skip

        def forward(self, x):
            image = self.project(self.tower(x).pooler_output)
            return image / image.norm(dim=-1, keepdim=True) @ text.T * self.scale.exp()

    alone = Explainer(Tower()).attribute(x, method, target=1)
    torch.testing.assert_close(attribution.scores, alone.scores)
    assert not any("left out" in note for note in alone.notes)


def test_a_pooling_head_that_the_score_does_not_depend_on_is_left_out_by_name():
    model, x = built("SiglipVisionModel", "sdpa", **IMAGES), torch.randn(2, 3, 32, 32)
    weights = own_weights(model, x)

    def target(outputs):
        return outputs.last_hidden_state.mean(1)[:, 3]

    rollout = torch.eye(16)
    for each in weights:
        rollout = (each.mean(1) + torch.eye(16)) / 2 @ rollout
    expected = {"attention_rollout": rollout.mean(1), "attention": weights[-1].mean((1, 2))}
    for method in ("attention", "attention_rollout", "gradient_rollout"):
        attribution = Explainer(model).attribute(x, method, target=target)
        assert any(
            "left out because the score does not depend on it: head.attention" in note for note in attribution.notes
        )
        if method in expected:
            torch.testing.assert_close(attribution.scores[:, 0].flatten(1), expected[method], rtol=0, atol=1e-5)
    with pytest.raises(AttribkitError, match="needs the same tokens in every layer"):
        Explainer(model).attribute(x, "attention_rollout", target=lambda outputs: outputs.pooler_output[:, 3])


class Unused(nn.Module):
    """A ViT whose second head attends, and is returned beside the class scores."""

    def __init__(self):
        super().__init__()
        self.vit, self.pool_attn = vit(), nn.MultiheadAttention(24, 3, batch_first=True)

    def forward(self, x):
        tokens = self.vit.forward_features(x)
        return self.vit.forward_head(tokens), self.pool_attn(tokens[:, :1], tokens, tokens)[0]


@pytest.mark.parametrize("method", ["attention", "attention_rollout", "gradient_rollout"])
def test_an_unused_head_beside_class_scores_is_left_out_by_name(method):
    torch.manual_seed(0)
    model, x = Unused().eval(), torch.randn(2, 3, 32, 32)
    attribution = Explainer(model).attribute(x, method, target=lambda outputs: outputs[0][:, 1])
    assert "left out because the score does not depend on it: pool_attn" in attribution.notes
    expected = Explainer(model.vit).attribute(x, method, target=1)
    torch.testing.assert_close(attribution.scores, expected.scores)
    model.forward = lambda x: Unused.forward(model, x)[0]
    assert torch.equal(Explainer(model).attribute(x, method, target=1).scores, attribution.scores)


def vit(**arguments):
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    model = timm.create_model("vit_tiny_patch16_224", **(size | arguments)).eval()
    nn.init.normal_(model.head.weight)
    return model


@pytest.mark.parametrize("method", ["attention", "attention_rollout", "gradient_rollout"])
def test_attention_that_does_not_run_is_left_out_by_name(method):
    model, x = vit(), torch.randn(2, 3, 32, 32)
    expected = Explainer(model).attribute(x, method, target=1)
    model.pool_attn = timm.models.xcit.XCA(24, num_heads=3)
    attribution = Explainer(model).attribute(x, method, target=1)
    assert torch.equal(attribution.scores, expected.scores)
    assert "left out because it did not run: pool_attn" in attribution.notes


class Beside(nn.Module):
    """A transformer of images, and attention to words in which the images have a part."""

    def __init__(self, told):
        super().__init__()
        self.vit, self.told = vit(), told
        self.words = nn.Parameter(torch.randn(1, 4, 24))
        self.text_attn = nn.MultiheadAttention(24, 3, batch_first=True)

    def forward(self, x):
        words = self.words + self.told(x)
        return self.vit(x) + self.text_attn(words, words, words)[0].mean(1)[:, :5]


@pytest.mark.parametrize("method", ["attention_rollout", "gradient_rollout"])
@pytest.mark.parametrize(
    "told",
    [
        lambda x: x.mean((1, 2, 3))[:, None, None],
        lambda x: torch.zeros(len(x), 4, 24).index_add_(0, torch.arange(len(x)), x.flatten(1)[:, :96].view(-1, 4, 24)),
        lambda x: torch.from_numpy(x.detach().numpy().mean((1, 2, 3)))[:, None, None],
        lambda x: float(x.detach().mean()),
        lambda x: torch.tensor(x.detach().mean((1, 2, 3)).tolist())[:, None, None],
    ],
    ids=["mean", "in place", "numpy", "a number", "a list"],
)
def test_a_rollout_past_attention_that_the_images_reach_is_refused(told, method):
    """However the images reach it; what cannot be followed counts as reached."""
    with pytest.raises(AttribkitError, match="the weights of every layer, but the weights of text_attn are missing"):
        Explainer(Beside(told).eval()).attribute(torch.randn(2, 3, 32, 32), method, target=1)
