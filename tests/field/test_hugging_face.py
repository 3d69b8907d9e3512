"""Models of Hugging Face's transformers, from small configurations with random weights, against hand-written autograd.

Attention is compared with what the models return themselves for ``output_attentions=True`` under their eager
implementation; ours is read under their default, which is fused.
"""

import copy
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import transformers
from transformers import (
    CLIPConfig,
    CLIPModel,
    ConvNextConfig,
    ConvNextForImageClassification,
    DetrConfig,
    DetrForObjectDetection,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    ResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SiglipConfig,
    SiglipModel,
    SwinConfig,
    SwinForImageClassification,
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    ViTConfig,
    ViTForImageClassification,
    YolosConfig,
    YolosForObjectDetection,
)

from attribkit import BroadcastInput, Explainer, ModelSpec

transformers.logging.set_verbosity_error()

_TOWER = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
_VISION = {**_TOWER, "image_size": 32, "patch_size": 8}
_TEXT = {**_TOWER, "vocab_size": 99, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
_WORDS = torch.tensor([[1, 5, 9, 33, 2], [1, 7, 7, 12, 2], [1, 80, 4, 61, 2]])


def _first_class(outputs):
    return outputs.logits[:, 1]


@dataclass
class Case:
    """A model, what it takes, and what of its outputs is explained."""

    make: Any
    shape: tuple[int, ...] = (2, 3, 32, 32)
    target: Any = 1  # as a user writes it
    score: Any = _first_class  # the same by hand
    more: dict[str, torch.Tensor] = field(default_factory=dict)  # other inputs, the same for all images
    layer: str = ""  # for Grad-CAM, with prefix tokens before its patches
    prefix: int | None = None  # None is a map, channels first

    def model(self):
        """The model with the same random weights each time, large enough for outputs that differ."""
        torch.manual_seed(0)
        model = self.make().eval()
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        return model

    def images(self):
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(2))

    @property
    def inputs(self):
        return {name: BroadcastInput(tensor) for name, tensor in self.more.items()}


def _per_text(outputs):
    return outputs.logits_per_image[:, 1]


def _detection(outputs):
    return outputs.logits[:, 2, 1]


def _map_of_a_class(outputs):
    return outputs.logits[:, 1].sum((1, 2))


def _detr():
    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    layers = {f"{side}_layers": 1 for side in ("encoder", "decoder")}
    heads = {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    widths = {f"{side}_ffn_dim": 32 for side in ("encoder", "decoder")}
    plain = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    return DetrForObjectDetection(
        DetrConfig(
            **plain, **layers, **heads, **widths, backbone_config=backbone, num_queries=5, d_model=32, num_labels=4
        )
    )


CASES = {
    "ViT": Case(
        lambda: ViTForImageClassification(ViTConfig(**_VISION, num_labels=5)),
        layer="vit.layers.1.layernorm_before",
        prefix=1,
    ),
    "Swin": Case(
        lambda: SwinForImageClassification(
            SwinConfig(
                image_size=32,
                patch_size=2,
                embed_dim=16,
                depths=[2, 2],
                num_heads=[2, 4],
                window_size=4,
                num_labels=5,
            )
        ),
        layer="swin.layernorm",
        prefix=0,
    ),
    "ConvNeXt": Case(
        lambda: ConvNextForImageClassification(
            ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_labels=5)
        ),
        shape=(2, 3, 64, 96),
        layer="convnext.encoder.stages.3",
    ),
    "DINOv2 with registers": Case(
        lambda: Dinov2WithRegistersForImageClassification(
            Dinov2WithRegistersConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=32,
                patch_size=8,
                num_register_tokens=3,
                num_labels=5,
            )
        ),
        layer="dinov2_with_registers.encoder.layer.1.norm1",
        prefix=4,
    ),
    "CLIP": Case(
        lambda: CLIPModel(CLIPConfig(text_config=_TEXT, vision_config=_VISION, projection_dim=16)),
        score=_per_text,
        more={"input_ids": _WORDS},
        layer="vision_model.encoder.layers.0",
        prefix=1,
    ),
    "SigLIP": Case(
        lambda: SiglipModel(SiglipConfig(text_config=_TEXT, vision_config=_VISION)),
        score=_per_text,
        more={"input_ids": _WORDS},
        layer="vision_model.encoder.layers.1",
        prefix=0,
    ),
    "SegFormer": Case(
        lambda: SegformerForSemanticSegmentation(
            SegformerConfig(
                depths=[1, 1, 1, 1],
                hidden_sizes=[8, 16, 24, 32],
                num_attention_heads=[1, 2, 3, 4],
                decoder_hidden_size=16,
                num_labels=4,
            )
        ),
        shape=(2, 3, 64, 96),
        target=_map_of_a_class,
        score=_map_of_a_class,
        layer="decode_head.activation",
    ),
    "YOLOS": Case(
        lambda: YolosForObjectDetection(
            YolosConfig(**_TOWER, image_size=[32, 48], patch_size=8, num_detection_tokens=6, num_labels=4)
        ),
        shape=(2, 3, 32, 48),
        target=_detection,
        score=_detection,
    ),
    "DETR": Case(
        _detr,
        shape=(2, 3, 64, 96),
        target=_detection,
        score=_detection,
    ),
}


def by_hand(case, x):
    """d score / d x, by the model called as its documentation does."""
    model, leaf = case.model(), x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(case.score(model(pixel_values=leaf, **case.more)).sum(), leaf)
    assert gradient.abs().amax() > 0
    return gradient


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    case = CASES[name]
    x = case.images()
    gradient, explainer = by_hand(case, x), Explainer(case.model())
    saliency = explainer.attribute(x, "saliency", target=case.target, inputs=case.inputs).scores
    torch.testing.assert_close(saliency, gradient.abs().amax(1, keepdim=True), rtol=1e-4, atol=1e-7)
    product = explainer.attribute(x, "input_x_gradient", target=case.target, inputs=case.inputs).scores
    torch.testing.assert_close(product, x * gradient, rtol=1e-4, atol=1e-7)
    integrated = explainer.attribute(
        x, "integrated_gradients", target=case.target, inputs=case.inputs, steps=3, baseline="zero"
    ).scores
    places, weights = np.polynomial.legendre.leggauss(3)
    steps = [(0.5 * (1 + float(place)), 0.5 * float(weight)) for place, weight in zip(places, weights, strict=True)]
    expected = x * sum(weight * by_hand(case, place * x) for place, weight in steps)
    torch.testing.assert_close(integrated, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.layer])
def test_gradcam(name):
    case = CASES[name]
    x, model, kept = case.images(), case.model(), {}

    def keep(_module, _args, output):
        kept["output"] = output[0] if isinstance(output, tuple) else output
        kept["output"].retain_grad()

    with model.get_submodule(case.layer).register_forward_hook(keep):
        case.score(model(pixel_values=x.requires_grad_(), **case.more)).sum().backward()
    activation, gradient = kept["output"].detach(), kept["output"].grad
    if case.prefix is not None:
        grid = grid_of(case, activation.shape[1] - case.prefix)
        activation, gradient = (
            each[:, case.prefix :].transpose(1, 2).unflatten(2, grid) for each in (activation, gradient)
        )
    expected = (gradient.mean((2, 3), keepdim=True) * activation).sum(1, keepdim=True).relu()
    found = Explainer(case.model()).attribute(
        x.detach(), "gradcam", target=case.target, inputs=case.inputs, layer=case.layer
    )
    torch.testing.assert_close(found.scores, expected, rtol=1e-4, atol=1e-7)


def grid_of(case, tokens):
    """Rows and columns of the patches, of the shape of the images."""
    height, width = case.shape[-2:]
    rows = round((tokens * height / width) ** 0.5)
    return rows, tokens // rows


ATTENTION = {  # where the models return it
    "ViT": lambda outputs: outputs.attentions,
    "Swin": lambda outputs: outputs.attentions,
    "DINOv2 with registers": lambda outputs: outputs.attentions,
    "CLIP": lambda outputs: outputs.vision_model_output.attentions,
    "SigLIP": lambda outputs: outputs.vision_model_output.attentions,
    "SegFormer": lambda outputs: outputs.attentions,
    "YOLOS": lambda outputs: outputs.attentions,
    "DETR": lambda outputs: outputs.encoder_attentions,
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name):
    case = CASES[name]
    x, eager = case.images(), case.model()
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = eager(pixel_values=x, **case.more, output_attentions=True)
    returned = ATTENTION[name](outputs)
    assert returned
    found = Explainer(case.model()).attention(x, inputs=case.inputs)
    ours = found[1::2] if name == "Swin" else found  # of its stages it returns the last block alone, which is shifted
    for layer, expected in zip(ours, returned, strict=False):
        whole = stitched(expected, len(x)) if name == "Swin" else expected
        torch.testing.assert_close(layer.weights, whole, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(layer.weights.sum(-1), torch.ones_like(whole[..., 0]))


def stitched(weights, images):
    """The weights of Swin's shifted windows of 4 by 4, (images * windows, heads, 16, 16), between all of its tokens."""
    side = round((weights.shape[0] // images) ** 0.5) * 4
    tokens = torch.arange(side * side).view(side, side).roll((-2, -2), (0, 1))
    tokens = tokens.view(side // 4, 4, side // 4, 4).transpose(1, 2).reshape(-1, 16)
    whole = torch.zeros(images, weights.shape[1], side * side, side * side)
    for own, each in zip(tokens, weights.unflatten(0, (images, -1)).unbind(1), strict=True):
        whole[:, :, own[:, None], own[None]] = each
    return whole


CLIPS = {
    "VideoMAE": lambda: VideoMAEForVideoClassification(
        VideoMAEConfig(**_VISION, num_frames=4, tubelet_size=2, num_labels=5)
    ),
    "TimeSformer": lambda: TimesformerForVideoClassification(TimesformerConfig(**_VISION, num_frames=4, num_labels=5)),
}


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("name", CLIPS)
def test_clips_have_their_frames_before_their_colours(name, declared):
    """(b, t, c, h, w): the colours are reduced, never the frames; x, scores and gradients in the model's own axes."""
    case = Case(CLIPS[name], shape=(2, 4, 3, 32, 32))
    x, model = case.images(), case.model()
    explainer = Explainer(model)
    assert (explainer.model.spec.axes, explainer.model.spec.input_size) == ("btchw", (3, 4, 32, 32))
    if not declared:  # as a model of a user's own, of which no configuration is known
        explainer.model.spec = ModelSpec()
    gradient = by_hand(case, x)
    saliency = explainer.attribute(x, "saliency", target=1)
    torch.testing.assert_close(saliency.scores, gradient.abs().amax(2, keepdim=True), rtol=1e-4, atol=1e-7)
    assert saliency.heatmap().shape == (2, 4, 32, 32)
    assert torch.equal(saliency.x, x)
    assert (
        any("inferred from the first layer with weights: (b, t, c, h, w)" in note for note in saliency.notes)
        is not declared
    )
    product = explainer.attribute(x, "input_x_gradient", target=1)
    torch.testing.assert_close(product.scores, x * gradient, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(product.heatmap(), (x * gradient).sum(2), rtol=1e-4, atol=1e-6)


def test_attention_of_clips():
    case = Case(CLIPS["VideoMAE"], shape=(2, 4, 3, 32, 32))
    x, eager = case.images(), case.model()
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        returned = eager(pixel_values=x, output_attentions=True).attentions
    found = Explainer(case.model()).attention(x)
    assert [layer.keys.grid for layer in found] == [(2, 4, 4)] * 2
    for layer, expected in zip(found, returned, strict=True):
        torch.testing.assert_close(layer.weights, expected, rtol=1e-4, atol=1e-6)


def test_detection_tokens_are_queries_that_can_be_asked_for():
    case = CASES["YOLOS"]
    x, eager = case.images(), case.model()
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        returned = eager(pixel_values=x, output_attentions=True).attentions
    for layer, expected in zip(Explainer(case.model()).attention(x), returned, strict=True):
        for query in (0, 25, 27, 30):  # the class token, the first detection, others
            torch.testing.assert_close(layer.attention_from(query), expected[:, :, query, 1:25].unflatten(2, (4, 6)))


@pytest.mark.parametrize("name", ["CLIP", "SigLIP"])
def test_the_attention_of_the_text_is_left_out_and_blocks_nothing(name):
    case = CASES[name]
    found = Explainer(case.model()).attention(case.images(), inputs=case.inputs)
    assert all(layer.name.startswith("vision_model.") for layer in found)
    assert any("text_model.encoder.layers.0.self_attn" in note for note in found.notes)
    if name == "CLIP":
        rollout = Explainer(case.model()).attribute(case.images(), "attention_rollout", inputs=case.inputs).scores
        tower = nn.ModuleDict({"model": case.model().vision_model})
        tower.forward = lambda x: tower["model"](pixel_values=x).pooler_output
        alone = (
            Explainer(tower, spec=ModelSpec(is_embedding_model=True))
            .attribute(case.images(), "attention_rollout")
            .scores
        )
        torch.testing.assert_close(rollout, alone, rtol=1e-4, atol=1e-6)


def test_every_text_has_its_own_map():
    """CLIP: the similarity to each text, and the difference of two, are as those of a model that has them built in."""

    class Fixed(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(input_ids=_WORDS, pixel_values=x).logits_per_image

    case = CASES["CLIP"]
    x, model = case.images(), case.model()
    for target in range(len(_WORDS)):
        found = Explainer(model).attribute(x, "occlusion", target=target, inputs=case.inputs, patch=16, stride=16)
        fixed = Explainer(Fixed(copy.deepcopy(model))).attribute(x, "occlusion", target=target, patch=16, stride=16)
        torch.testing.assert_close(found.scores, fixed.scores, rtol=1e-4, atol=1e-5)


def test_the_classes_names_are_those_of_the_configuration():
    names = ("cat", "dog", "tree", "car", "cup")
    model = ViTForImageClassification(ViTConfig(**_VISION, id2label=dict(enumerate(names))))
    assert Explainer(model).model.spec.labels == names
    assert Explainer(CASES["ViT"].model()).model.spec.labels is None  # LABEL_0, LABEL_1 ... are numbers
    x = CASES["ViT"].images()
    by_name = Explainer(model).attribute(x, "saliency", target="tree").scores
    torch.testing.assert_close(by_name, Explainer(model).attribute(x, "saliency", target=2).scores)
