"""Grad-CAM against closed forms and against the peers, number by number."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from attribkit import AttribkitError, Explainer, ModelSpec
from attribkit.methods._gradcam import GradCAM
from tests.cases import few


class Head(nn.Module):
    """A convolution, global average pooling and a linear layer, whose Grad-CAM can be written down."""

    def __init__(self, inplace=False):
        super().__init__()
        self.features = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=inplace)
        self.classifier = nn.Linear(6, 4)

    def forward(self, x):
        return self.classifier(self.relu(self.features(x)).mean((2, 3)))


def test_closed_form_before_pooling():
    model, x = Head(), torch.randn(2, 3, 8, 8)
    attribution = Explainer(model).attribute(x, "gradcam", target=[1, 3], layer="relu")
    maps = model.relu(model.features(x))
    weights = model.classifier.weight[[1, 3]][:, :, None, None] / 64
    torch.testing.assert_close(attribution.scores, (weights * maps).sum(1, keepdim=True).relu().detach())


@pytest.mark.parametrize("inplace", [False, True])
def test_an_inplace_relu_after_the_layer_changes_nothing(inplace):
    model, x = Head(inplace), torch.randn(2, 3, 8, 8)
    attribution = Explainer(model).attribute(x, GradCAM(layer="features"), target=2)
    maps = model.features(x)
    weights = (model.classifier.weight[2][:, None, None] * (maps > 0)).mean((2, 3), keepdim=True) / 64
    expected = (weights * maps).sum(1, keepdim=True).relu()
    torch.testing.assert_close(attribution.scores, expected.detach(), rtol=1e-5, atol=1e-7)


def test_a_layer_by_name_and_by_module_is_the_same():
    model, x = Head(), torch.randn(2, 3, 8, 8)
    explainer = Explainer(model)
    by_module = explainer.attribute(x, "gradcam", layer=model.features)
    assert repr(by_module.method) == "GradCAM(layer='features', relu=True)"
    torch.testing.assert_close(by_module.scores, explainer.attribute(x, "gradcam", layer="features").scores)


def test_it_costs_one_forward_and_the_prediction_none():
    model, x = Head(), torch.randn(2, 3, 8, 8)
    explainer = Explainer(model, spec=ModelSpec(layer="relu"))
    forwards = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    explainer.attribute(torch.randn(2, 3, 8, 8), "gradcam")  # the first call costs more
    forwards.clear()
    attribution = explainer.attribute(x, "gradcam")
    assert len(forwards) == 1
    assert attribution.target.index == tuple(model(x).argmax(1).tolist())


def test_the_first_call_costs_four_forwards_and_later_ones_cost_one():
    model, x = Head(), torch.randn(2, 3, 8, 8)
    explainer = Explainer(model)
    forwards = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    explainer.attribute(x, "gradcam")
    assert len(forwards) == 4  # the trace of one image, the batch, the first image alone and beside another
    for _ in range(3):
        explainer.attribute(x, "gradcam")
    assert len(forwards) == 4 + 3


def test_a_volume():
    model = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    x = torch.randn(2, 1, 6, 8, 10)
    attribution = Explainer(model).attribute(x, "gradcam")
    assert attribution.scores.shape == (2, 1, 6, 8, 10)
    weights = model[4].weight[list(attribution.target.index)] / 480
    expected = torch.einsum("bd,bdthw->bthw", weights, model[1](model[0](x))).relu()
    torch.testing.assert_close(attribution.heatmap(), expected.detach(), rtol=1e-4, atol=1e-7)


class AsGrid(nn.Module):
    """The patch tokens as a grid; the class token waits beside them."""

    def forward(self, tokens):
        AsGrid.class_token = tokens[:, :1]
        return _tokens(tokens)


class AsTokens(nn.Module):
    def forward(self, grid):
        return torch.cat([AsGrid.class_token, grid.flatten(2).transpose(1, 2)], 1)


def _tokens(tensor):
    return tensor[:, 1:].reshape(len(tensor), 14, 14, -1).permute(0, 3, 1, 2)


PEERS = {
    "resnet50": (lambda: torchvision.models.resnet50(), lambda m: m.layer4, None),
    "vgg16": (lambda: torchvision.models.vgg16(), lambda m: m.features, None),
    "vit_tiny": (lambda: timm.create_model("vit_tiny_patch16_224"), lambda m: m.blocks[-1].norm1, _tokens),
}


@pytest.fixture(params=few(PEERS, "vit_tiny"))
def peer(request):
    make, layer, reshape = PEERS[request.param]
    model, x = make().eval(), torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        targets = model(x)[0].topk(2).indices.tolist()  # of random weights, others often have a map of zeros
    return model, layer(model), reshape, x, targets


def _unit_range(maps):
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    assert (high > low).all()
    return ((maps - low) / (high - low)).numpy()


def test_equals_pytorch_grad_cam_after_its_normalisation(peer):
    pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam import GradCAM as PeerGradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, layer, reshape, x, targets = peer
    ours = Explainer(model).attribute(x, "gradcam", target=targets).heatmap()
    with PeerGradCAM(model=model, target_layers=[layer], reshape_transform=reshape) as cam:
        theirs = cam(input_tensor=x, targets=[ClassifierOutputTarget(each) for each in targets])
    np.testing.assert_allclose(_unit_range(ours), theirs, rtol=0, atol=1e-5)


def test_several_layers_equal_pytorch_grad_cam():
    pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam import GradCAM as PeerGradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, x = torchvision.models.resnet18().eval(), torch.randn(2, 3, 96, 96)
    layers = [model.layer2, model.layer4]
    attribution = Explainer(model).attribute(x, "gradcam", target=5, layer=layers)
    assert repr(attribution.method) == "GradCAM(layer=('layer2', 'layer4'), relu=True)"
    ours = attribution.heatmap()
    with PeerGradCAM(model=model, target_layers=layers) as cam:
        theirs = cam(input_tensor=x, targets=[ClassifierOutputTarget(5)] * 2)
    np.testing.assert_allclose(_unit_range(ours), theirs, rtol=0, atol=1e-5)


def test_equals_captum(peer):
    pytest.importorskip("captum")
    from captum.attr import LayerGradCam

    model, layer, reshape, x, targets = peer
    ours = Explainer(model).attribute(x, "gradcam", target=targets).scores
    if reshape is not None:  # captum takes tokens for channels; shown to it as a grid, they are the same map
        layer = model.blocks[-1].norm1 = nn.Sequential(layer, AsGrid(), AsTokens())
        layer = layer[1]
    theirs = LayerGradCam(model, layer).attribute(x, target=torch.tensor(targets), relu_attributions=True)
    assert ours.amax((1, 2, 3)).gt(0).all()
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-5 * float(ours.max()))


def test_a_layer_named_twice_counts_once():
    explainer, x = Explainer(torchvision.models.resnet18()), torch.randn(1, 3, 64, 64)
    twice = explainer.attribute(x, "gradcam", layer=["layer3", "layer3"]).scores
    torch.testing.assert_close(twice, explainer.attribute(x, "gradcam", layer="layer3").scores)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("features.nope", ["features.nope", "Known", "layers()"]),
        ("classifier", ["'classifier'", "does not have a grid", "(2, 4)"]),
        (nn.Linear(2, 2), ["Linear", "is not a layer of this model"]),
    ],
)
def test_a_wrong_layer_is_one_sentence(layer, words):
    with pytest.raises(AttribkitError) as error:
        Explainer(Head()).attribute(torch.randn(2, 3, 8, 8), "gradcam", layer=layer)
    assert all(word in str(error.value) for word in words), str(error.value)
