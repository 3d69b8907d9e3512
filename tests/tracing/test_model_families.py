"""Every family is explained without naming a layer or a reshape function, from its own facts and from none."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from attribkit import AttribkitError, Explainer, ModelSpec, registry
from attribkit._state.hooks import TensorRequest, capture
from tests.refusals import ANSWERING

CASES = {  # model: (layer, grid)
    "timm:resnet18": ("layer4", (7, 7)),
    "timm:vgg11": ("features", (7, 7)),
    "timm:densenet121": ("features", (7, 7)),
    "timm:mobilenetv2_100": ("bn2", (7, 7)),
    "timm:mobilenetv3_small_100": ("blocks", (7, 7)),
    "timm:efficientnet_b0": ("bn2", (7, 7)),
    "timm:convnext_atto": ("stages", (7, 7)),
    "timm:vit_tiny_patch16_224": ("blocks.11.norm1", (14, 14)),
    "timm:deit_tiny_patch16_224": ("blocks.11.norm1", (14, 14)),
    "timm:deit_tiny_distilled_patch16_224": ("blocks.11.norm1", (14, 14)),
    "timm:swin_tiny_patch4_window7_224": ("norm", (7, 7)),
    "torchvision:resnet18": ("layer4", (7, 7)),
    "torchvision:vgg11": ("features", (7, 7)),
    "torchvision:densenet121": ("features", (7, 7)),
    "torchvision:mobilenet_v2": ("features", (7, 7)),
    "torchvision:mobilenet_v3_small": ("features", (7, 7)),
    "torchvision:efficientnet_b0": ("features", (7, 7)),
    "torchvision:convnext_tiny": ("features", (7, 7)),
    "torchvision:squeezenet1_1": ("features", (13, 13)),
    "torchvision:vit_b_16": ("encoder.layers.encoder_layer_11.ln_1", (14, 14)),
    "torchvision:swin_t": ("permute", (7, 7)),
}


def make(name):
    library, _, name = name.partition(":")
    if library == "timm":
        return timm.create_model(name)
    model = torchvision.models.get_model(name)
    if name.startswith("vit"):  # a head of zeros has no gradient
        nn.init.trunc_normal_(model.heads.head.weight, std=0.02)
    return model


@pytest.mark.parametrize("name", CASES)
def test_the_layer_is_chosen_and_said(name):
    layer, grid = CASES[name]
    model, x = make(name), torch.randn(1, 3, 224, 224)
    attribution = Explainer(model).attribute(x, "gradcam")
    assert attribution.notes[0].startswith(f"layer={layer!r}: the last ")
    assert attribution.scores.shape == (1, 1, *grid)
    assert not any("exactly zero" in note for note in attribution.notes)
    assert attribution.heatmap().shape == (1, 224, 224)


@pytest.mark.parametrize("name", [name for name in CASES if "deit" not in name])
def test_a_model_of_which_nothing_is_known_gets_the_same_layer(name):
    layer, _ = CASES[name]
    with torch.random.fork_rng([]):
        explainer = Explainer(make(name), spec=ModelSpec())
    assert [each.name for each in explainer.layers(torch.randn(1, 3, 224, 224)) if each.chosen] == [layer]


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:vit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224"])
def test_layers_are_listed_at_the_size_that_the_model_was_made_for(name):
    layers = Explainer(make(name)).layers()
    (chosen,) = [layer for layer in layers if layer.chosen]
    assert (chosen.name, chosen.layout.grid) == CASES[name]
    assert len(layers) > 10


EARLY = {  # a layer whose cells still see little more than their own patch
    "timm:resnet18": "layer1",
    "timm:vit_tiny_patch16_224": "blocks.0.norm1",
    "timm:swin_tiny_patch4_window7_224": "layers.0",
    "torchvision:vit_b_16": "encoder.layers.encoder_layer_0.ln_1",
}


@pytest.mark.parametrize("name", EARLY)
def test_a_patch_that_changes_moves_its_own_cell(name):
    """A transposed, mirrored or re-ordered grid would fail here."""
    model = make(name).eval()
    x = torch.zeros(2, 3, 224, 224)
    x[1, :, 32:48, 160:176] = 3.0  # row 2, column 10 of 14
    layout = next(layer.layout for layer in Explainer(model).layers(x) if layer.name == EARLY[name])
    with torch.no_grad(), capture([TensorRequest(model.get_submodule(EARLY[name]))]) as kept:
        model(x)
    before, after = layout.to_grid(kept[0].tensor)
    change = (after - before).abs().sum(0)
    row, column = divmod(int(change.argmax()), change.shape[1])
    assert abs((row + 0.5) / change.shape[0] * 14 - 2.5) <= 1
    assert abs((column + 0.5) / change.shape[1] * 14 - 10.5) <= 1


def test_other_image_sizes_get_other_grids_and_their_own_choice():
    explainer = Explainer(timm.create_model("resnet18"))
    assert explainer.attribute(torch.randn(1, 3, 160, 320)).scores.shape == (1, 1, 5, 10)
    small = explainer.attribute(torch.randn(1, 3, 32, 32))
    assert small.scores.shape == (1, 1, 2, 2)
    assert small.notes[0].startswith("layer='layer3'")


def test_a_vit_of_another_size_is_read_at_that_size():
    model = timm.create_model("vit_tiny_patch16_224", img_size=(96, 160))
    attribution = Explainer(model).attribute(torch.randn(1, 3, 96, 160))
    assert attribution.scores.shape == (1, 1, 6, 10)


def test_a_model_without_a_map_is_refused_with_the_candidates():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10), nn.ReLU(), nn.Linear(10, 3))
    with pytest.raises(
        AttribkitError, match=r"(?s)This Sequential does not have a default layer.*Candidates, last first: none"
    ):
        Explainer(model).attribute(torch.randn(1, 3, 8, 8), "gradcam")


def test_a_head_of_zeros_cannot_justify_a_layer_of_an_unknown_transformer():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
    nn.init.zeros_(model.head.weight)
    with pytest.raises(
        AttribkitError,
        match=r"gradient of the score is zero at nearly all patch tokens, as with an untrained head.*norm, blocks,",
    ):
        Explainer(model, spec=ModelSpec()).attribute(torch.randn(1, 3, 32, 32), "gradcam")


def test_old_models_that_flatten_by_view_work():
    class Old(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.fc = nn.Linear(4 * 64, 5)

        def forward(self, x):
            return self.fc(self.conv(x).relu().view(len(x), -1))

    model, x = Old(), torch.randn(5, 3, 8, 8)
    explainer = Explainer(model)
    for method in (method for name, method in ANSWERING.items() if name != "cam"):
        attribution = explainer.attribute(x, method)
        assert not method.uses_target or attribution.target.index == tuple(model(x).argmax(1).tolist())


def test_the_last_plugin_that_knows_a_model_describes_it():
    spec = registry.model_spec(timm.create_model("swin_tiny_patch4_window7_224"))
    assert spec.channels_last
    assert spec.input_size == (3, 224, 224)
    assert spec.labels()[281] == "tabby, tabby cat"


class Body(nn.Module):
    """Three convolutions and a head, for the odd models below."""

    def __init__(self, features=16):
        super().__init__()
        steps = [(nn.Conv2d(c, 16, 3, stride=2, padding=1), nn.ReLU()) for c in (3, 16, 16)]
        self.body = nn.Sequential(*[module for step in steps for module in step])
        self.fc = nn.Linear(features, 5)


class Gated(Body):
    def __init__(self):
        super().__init__()
        self.gate = nn.Sequential(nn.Conv2d(16, 1, 1), nn.Sigmoid())

    def forward(self, x):
        x = self.body(x)
        return self.fc((x * self.gate(x)).mean((2, 3)))


class Residual(Body):
    def __init__(self):
        super().__init__()
        self.branch = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        x = self.body(x)
        return self.fc((x + self.branch(x)).relu().mean((2, 3)))


class TwoHeads(Body):
    def __init__(self):
        super().__init__()
        self.mask = nn.Conv2d(16, 3, 1)

    def forward(self, x):
        x = self.body(x)
        return self.fc(x.mean((2, 3))), self.mask(x)


class SharedActivation(Body):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()
        self.last = nn.Linear(5, 4)

    def forward(self, x):
        x = self.relu(self.body[0](x))
        return self.last(self.relu(self.fc(x.mean((2, 3)))))


class Flipped(Body):
    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3))) + self.fc(self.body(x.flip(3)).mean((2, 3)))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, stride=8)
        layer = nn.TransformerEncoderLayer(32, 4, 64)  # torch's default order: tokens first, batch second
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.fc = nn.Linear(32, 5)

    def forward(self, x):
        return self.fc(self.encoder(self.patches(x).flatten(2).permute(2, 0, 1)).mean(0))


def inplace():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )


def headless():
    return timm.create_model("resnet18", num_classes=0)


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (Gated, "body"),
        (Residual, "body"),
        (TwoHeads, "body"),
        (SharedActivation, "relu"),
        (inplace, "1"),
        (headless, "layer4"),
    ],
)
def test_a_layer_is_chosen_only_if_the_whole_score_goes_through_it(make, layer):
    attribution = Explainer(make()).attribute(torch.randn(2, 3, 64, 64), "gradcam")
    reason = f"layer={layer!r}: the last spatial map on every path from the image to the score"
    assert any(note.startswith(reason) for note in attribution.notes)


@pytest.mark.parametrize(("make", "why"), [(Encoder, "the grid of .* cannot be inferred from its shape")])
def test_where_no_layer_carries_the_score_none_is_guessed(make, why):
    with pytest.raises(AttribkitError, match=f"This {make.__name__} does not have a default layer.*{why}"):
        Explainer(make()).attribute(torch.randn(2, 3, 64, 64), "gradcam")


def test_an_image_that_is_seen_twice_is_read_in_both_runs():
    found = Explainer(Flipped()).attribute(torch.randn(2, 3, 64, 64), "gradcam")
    assert found.notes[0].startswith("layer=('body@0', 'body@1'): ")


def test_the_layer_depends_on_the_output_that_is_asked_about():
    explainer = Explainer(TwoHeads())
    mask = explainer.attribute(torch.randn(2, 3, 64, 64), "gradcam", target=lambda outputs: outputs[1].mean((1, 2, 3)))
    assert mask.notes[0].startswith("layer='body'")
    assert explainer.attribute(torch.randn(2, 3, 64, 64), "gradcam").notes[0].startswith("layer='body'")


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resnet18", 64),
        ("mobilenetv3_small_100", 64),
        ("convnext_atto", 64),
        ("vit_tiny_patch16_224", 224),
        ("tresnet_m", 64),
    ],
)
@pytest.mark.parametrize("channels", [1, 4])
def test_a_timm_model_made_for_other_channels(name, side, channels):
    """Its configuration goes on speaking of the three channels that it was trained with."""
    model = timm.create_model(name, in_chans=channels).eval()
    torch.nn.init.normal_(model.get_classifier().weight)
    attribution = Explainer(model).attribute(torch.randn(1, channels, side, side), "saliency")
    assert attribution.scores.shape == (1, 1, side, side)
    with pytest.raises(AttribkitError, match=f"{channels} channels, got 3"):
        Explainer(model).attribute(torch.randn(1, 3, side, side))


def test_a_first_convolution_that_was_exchanged():
    model = timm.create_model("resnet18").eval()
    model.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3)
    assert Explainer(model).attribute(torch.randn(1, 1, 64, 64)).scores.shape == (1, 1, 2, 2)


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:vit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("layer", [None, "early"])
def test_the_first_call_costs_four_forwards_at_most_and_later_ones_cost_one(name, layer):
    model, x, ran = make(name), torch.randn(1, 3, 224, 224), []
    model.register_forward_hook(lambda *_: ran.append(1))
    explainer, options = Explainer(model), {"layer": EARLY[name]} if layer else {}
    forwards = []
    for method in ("gradcam", "gradcam", "layercam"):
        explainer.attribute(x, method, **options)
        forwards.append(len(ran))
        ran.clear()
    assert forwards[0] <= 4
    assert forwards[1:] == [1, 1]


def test_a_spec_that_is_wrong_about_the_order_does_not_turn_the_map():
    torch.manual_seed(0)
    model, x = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=112), torch.randn(1, 3, 112, 112)
    right = Explainer(model).attribute(x, "layercam")
    wrong = Explainer(model, spec=ModelSpec(prefix_tokens=0)).attribute(x, "layercam")
    assert torch.equal(right.scores, wrong.scores)
    square = nn.Sequential(nn.Conv2d(3, 7, 3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 5))
    image = torch.randn(1, 3, 28, 28)  # 7 channels on 7 by 7 cells
    right = Explainer(square).attribute(image, "layercam", layer="1")
    wrong = Explainer(square, spec=ModelSpec(channels_last=True)).attribute(image, "layercam", layer="1")
    assert torch.equal(right.scores, wrong.scores)


def test_a_spec_that_names_a_layer_of_which_only_the_class_token_is_read_is_told():
    model = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=112)
    spec = ModelSpec(layer="blocks.1.norm2", prefix_tokens=1)
    attribution = Explainer(model, spec=spec).attribute(torch.randn(1, 3, 112, 112), "hirescam")
    assert any("exactly zero at 100% of the grid" in note for note in attribution.notes)
