"""Grad-CAM's relatives against pytorch-grad-cam, and against closed forms where that is not exact."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from attribkit import Counterfactual, Explainer, HookedModel, ModelSpec, registry
from attribkit.methods._gradcam import GradCAMPlusPlus, sum_channels
from tests.cases import few

FAMILY = ["gradcam++", "hirescam", "xgradcam", "layercam", "eigencam"]
PEER_NAMES = ["GradCAMPlusPlus", "HiResCAM", "XGradCAM", "LayerCAM", "EigenCAM"]


def _tokens(tensor):
    return tensor[:, 1:].reshape(len(tensor), 14, 14, -1).permute(0, 3, 1, 2)


class Loud:
    """A target large enough that the constants which pytorch-grad-cam adds to its denominators do not count."""

    def __init__(self, category):
        self.category = category

    def __call__(self, outputs):
        return 1e6 * outputs[..., self.category]


def rectified_densenet():
    """DenseNet with its last ReLU as a module; it calls it as a function, which pytorch-grad-cam cannot read."""
    model = torchvision.models.densenet121()
    return nn.Sequential(model.features, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.classifier)


MODELS = {
    "resnet18": (torchvision.models.resnet18, lambda m: m.layer4, None),
    "densenet121": (rectified_densenet, lambda m: m[1], None),
    "vgg16": (torchvision.models.vgg16, lambda m: m.features, None),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, lambda m: m.features, None),
    "vit_tiny": (lambda: timm.create_model("vit_tiny_patch16_224"), lambda m: m.blocks[-1].norm1, _tokens),
}


@pytest.fixture(scope="module", params=few(MODELS, "resnet18", "vit_tiny"))
def case(request):
    """A model in double precision, where rounding is no excuse, with activations of ordinary size."""
    torch.manual_seed(0)
    make, layer, reshape = MODELS[request.param]
    side = 224 if reshape else 112
    model, x = make().train(), torch.randn(2, 3, side, side, dtype=torch.float64)
    with torch.no_grad():
        model(x.float())  # gives batch norm its statistics
        model.eval().double()
        category = int(model(x)[0].argmax())
    return model, layer(model), reshape, x, Loud(category)


@pytest.mark.parametrize("method", FAMILY)
def test_equals_pytorch_grad_cam(case, method):
    peers = pytest.importorskip("pytorch_grad_cam")
    model, layer, reshape, x, loud = case
    attribution = Explainer(model).attribute(x, method, layer=layer, target=loud)
    if reshape and method == "gradcam++":  # its denominators vanish among negative activations, and we say so
        assert any("assumes non-negative activations" in note for note in attribution.notes)
        return
    ours = attribution.heatmap()
    peer = getattr(peers, PEER_NAMES[FAMILY.index(method)])
    with peer(model=model, target_layers=[layer], reshape_transform=reshape) as cam:
        theirs = cam(input_tensor=x, targets=[loud, loud])
    low, high = ours.amin((1, 2), keepdim=True), ours.amax((1, 2), keepdim=True)
    unit = ((ours - low) / (high - low).clamp(min=1e-30)).numpy()
    same = range(len(x))
    if method == "eigencam":  # the sign there is what the decomposition gives; the wrong one shows the background
        same = [i for i in same if np.corrcoef(unit[i].ravel(), theirs[i].ravel())[0, 1] > 0]
    np.testing.assert_allclose(unit[same], theirs[same], rtol=0, atol=1e-5)


def test_gradcam_plus_plus_closed_form():
    """Eq. 19 as it is printed, in double precision, on activations and gradients of ordinary size."""
    generator = torch.Generator().manual_seed(0)
    activation = torch.rand(2, 5, 3, 4, generator=generator, dtype=torch.float64)
    gradient = torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64)
    total = activation.sum((2, 3), keepdim=True)
    alpha = gradient**2 / (2 * gradient**2 + total * gradient**3)
    weights = (alpha * gradient.relu()).sum((2, 3), keepdim=True)
    ours = GradCAMPlusPlus().to_map(HookedModel(nn.Linear(1, 1), ModelSpec()), activation, gradient)
    torch.testing.assert_close(ours, (weights * activation).sum(1, keepdim=True).relu())


def test_eigencam_agrees_with_the_mean_activation():
    model, x = torchvision.models.resnet18().eval(), torch.randn(3, 3, 96, 96)
    scores = Explainer(model).attribute(x, "eigencam").scores.flatten(1)
    activations = []
    handle = model.layer4.register_forward_hook(lambda *a: activations.append(a[2]))
    with torch.no_grad():
        model(x)
    handle.remove()
    mean = activations[0].mean(1).flatten(1)
    for score, average in zip(scores, mean, strict=True):
        assert torch.corrcoef(torch.stack([score, average]))[0, 1] > 0


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam", "layercam", "gradcam++"])
def test_closed_forms_under_average_pooling(method):
    """There the gradient is the same at every position: three are one map, two use its positive part."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        maps = model[:2](x)
        gradient = (model[4].weight[1] / 36).expand(2, 6)
        positive = gradient.relu()
        weights = {"layercam": positive, "gradcam++": 36 * positive / (2 + maps.sum((2, 3)) * gradient)}
        expected = (weights.get(method, gradient)[:, :, None, None] * maps).sum(1, keepdim=True).relu()
    torch.testing.assert_close(Explainer(model).attribute(x, method, target=1, layer="1").scores, expected)


def test_eigencam_equals_numpy_but_for_the_sign():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    scores = Explainer(model).attribute(x, "eigencam", target=0, layer="1").scores.flatten(1).numpy()
    for score, maps in zip(scores, model[:2](x).detach().flatten(2).numpy(), strict=True):
        centred = maps.T - maps.T.mean(0)
        projection = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
        sign = np.sign(projection @ centred.mean(1))
        np.testing.assert_allclose(score, np.maximum(sign * projection, 0), rtol=0, atol=1e-9)


def test_without_its_relu_gradcam_keeps_what_speaks_against():
    model, x = torchvision.models.resnet18().eval(), torch.randn(2, 3, 96, 96)
    explainer = Explainer(model)
    signed = explainer.attribute(x, "gradcam", target=1, relu=False).scores
    torch.testing.assert_close(explainer.attribute(x, "gradcam", target=1).scores, signed.relu())
    assert (signed < 0).any()


def test_the_counterfactual_is_what_speaks_against():
    model, x = torchvision.models.resnet18().eval(), torch.randn(2, 3, 96, 96)
    explainer = Explainer(model)
    signed = explainer.attribute(x, "gradcam", target=1, relu=False).scores
    torch.testing.assert_close(explainer.attribute(x, "gradcam", target=Counterfactual(1)).scores, (-signed).relu())


def test_summed():
    maps = torch.tensor([[[[1.0, -2.0]], [[1.0, 1.0]]]])
    assert sum_channels(maps).tolist() == [[[[2.0, 0.0]]]]


def test_every_method_that_reads_layers_takes_several():
    model, x = torchvision.models.resnet18().eval(), torch.randn(1, 3, 64, 64)
    for name in ["gradcam", *FAMILY]:
        assert "layer" in registry.options_of(registry.methods()[name])
        attribution = Explainer(model).attribute(x, name, layer=["layer2", "layer3"])
        assert attribution.scores.shape == (1, 1, 64, 64)
