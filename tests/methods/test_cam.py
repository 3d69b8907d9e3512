"""CAM equals Grad-CAM times the number of positions; where it does not exist it is refused with the reason."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from attribkit import AttribkitError, Contrast, Explainer, Probability
from attribkit.testing import changes, model_state
from tests.cases import few


def with_statistics(model):
    """Batch norm that has seen something, so that activations have an ordinary size."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


EXACT = {
    "torchvision:resnet18": lambda: torchvision.models.resnet18(),
    "torchvision:googlenet": lambda: torchvision.models.googlenet(init_weights=False),
    "torchvision:mobilenet_v2": lambda: torchvision.models.mobilenet_v2(),
    "torchvision:shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(),
    "torchvision:mnasnet": lambda: torchvision.models.mnasnet0_5(),
    "torchvision:efficientnet_b0": lambda: torchvision.models.efficientnet_b0(),
    "torchvision:regnet": lambda: torchvision.models.regnet_y_400mf(),
    "timm:resnet18": lambda: timm.create_model("resnet18"),
    "timm:densenet121": lambda: timm.create_model("densenet121"),
    "timm:mobilenetv2_100": lambda: timm.create_model("mobilenetv2_100"),
    "timm:efficientnet_b0": lambda: timm.create_model("efficientnet_b0"),
}


@pytest.mark.parametrize("name", few(EXACT, "torchvision:resnet18", "torchvision:shufflenet"))
def test_is_gradcam_before_its_relu_times_the_number_of_positions(name):
    model, x = with_statistics(EXACT[name]()), torch.randn(2, 3, 96, 96)
    explainer = Explainer(model)
    for target in (3, [1, 2], None, Contrast(1, 2)):
        cam = explainer.attribute(x, "cam", target=target).scores
        gradcam = explainer.attribute(x, "gradcam", target=target, relu=False).scores * cam[0, 0].numel()
        torch.testing.assert_close(cam, gradcam, rtol=0, atol=1e-5 * float(gradcam.abs().max()))


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:efficientnet_b0"])
def test_its_mean_and_the_bias_are_the_score(name):
    model, x = with_statistics(EXACT[name]()), torch.randn(2, 3, 96, 96)
    cam = Explainer(model).attribute(x, "cam", target=[1, 2]).scores
    bias = (model.fc if hasattr(model, "fc") else model.classifier).bias[[1, 2]]
    with torch.no_grad():
        scores = model(x)[[0, 1], [1, 2]]
        torch.testing.assert_close(cam.mean((1, 2, 3)) + bias, scores, rtol=1e-4, atol=1e-5)


def test_a_relu_behind_the_layer_rectifies_the_maps():
    """torchvision's DenseNet calls its last ReLU as a function, which no hook sees."""
    model, x = with_statistics(torchvision.models.densenet121()), torch.randn(2, 3, 64, 64)
    cam = Explainer(model).attribute(x, "cam", target=3).scores
    with torch.no_grad():
        maps = model.features(x).relu()
    torch.testing.assert_close(cam, torch.einsum("d,bdhw->bhw", model.classifier.weight[3], maps)[:, None].detach())


def test_a_convolutional_classifier_with_a_relu():
    """SqueezeNet's class maps are rectified before they are averaged; the map is the one before."""
    torch.manual_seed(1)
    model, x = torchvision.models.squeezenet1_1().eval(), torch.randn(2, 3, 96, 96)
    cam = Explainer(model).attribute(x, "cam", target=3).scores
    with torch.no_grad():
        expected = torch.einsum("d,bdhw->bhw", model.classifier[1].weight[3, :, 0, 0], model.features(x))[:, None]
    torch.testing.assert_close(cam, expected, rtol=1e-4, atol=1e-5)


def test_volumes():
    model = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    x = torch.randn(2, 1, 8, 8, 8)
    cam = Explainer(model).attribute(x, "cam", target=1, layer="1").scores
    with torch.no_grad():
        torch.testing.assert_close(cam, torch.einsum("d,bd...->b...", model[4].weight[1], model[:2](x))[:, None])


def sequential(*head):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head)


POOLED = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
REFUSED = {
    "vgg": (lambda: torchvision.models.vgg11(), "between two layers|all positions|after"),
    "alexnet": (lambda: torchvision.models.alexnet(), "MaxPool2DWithIndices"),
    "convnext": (lambda: torchvision.models.convnext_tiny(), "LayerNorm"),
    "vit": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=64), "between the layer and the score"),
    "mobilenetv3": (lambda: torchvision.models.mobilenet_v3_small(), "Hardswish"),
    "flattened": (lambda: sequential(nn.Flatten(), nn.Linear(4 * 62 * 62, 5)), "all positions of the layer equally"),
    "two linear": (lambda: sequential(*POOLED, nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5)), "ReLU"),
    "rectified average": (lambda: sequential(nn.Conv2d(4, 4, 1), *POOLED, nn.ReLU(), nn.Linear(4, 5)), "ReLU"),
    "two convolutions": (
        lambda: sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1), *POOLED),
        "a ReLU between two layers",
    ),
    "max pooling": (lambda: sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 5)), "AdaptiveMaxPool2D"),
}


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("name", few(REFUSED, *set(REFUSED) - {"vgg", "alexnet", "convnext"}))
def test_is_refused_where_the_head_is_another(name):
    make, words = REFUSED[name]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(1, 3, 64, 64)
    small = isinstance(model, nn.Sequential)
    watched = model if small else nn.Identity()  # the state of large models takes long to write down
    before = model_state(watched)
    options = {"layer": "1"} if small else {}
    with pytest.raises(AttribkitError, match=f"(?s)cam requires a score.*({words}).*gradcam"):
        Explainer(model).attribute(x, "cam", target=1, **options)
    assert not changes(before, model_state(watched))


@pytest.mark.usefixtures("as_users_run")
def test_a_probability_is_refused():
    with pytest.raises(AttribkitError, match="If the target applies a softmax, use the logit of the class"):
        Explainer(torchvision.models.resnet18()).attribute(torch.randn(1, 3, 64, 64), "cam", target=Probability(1))
