"""Backward rules at the ReLUs of the graph, however the model calls them."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from attribkit import Explainer

METHODS = ["guided_backprop", "deconvnet"]


@pytest.mark.parametrize("make", [torchvision.models.resnet18, torchvision.models.vgg11, torchvision.models.alexnet])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning")
def test_equals_captum(make, method):
    captum = pytest.importorskip("captum.attr")
    # In double precision, since a ReLU whose input is zero up to rounding passes or not as the rounding falls.
    model, x = make().eval().double(), torch.randn(2, 3, 96, 96, dtype=torch.float64)
    ours = Explainer(model).attribute(x, method, target=3).scores
    for module in model.modules():  # captum's module hooks cannot follow what works in place
        if isinstance(module, nn.ReLU):
            module.inplace = False
    peer = {"guided_backprop": captum.GuidedBackprop, "deconvnet": captum.Deconvolution}[method]
    theirs = peer(model).attribute(x.clone().requires_grad_(), target=3)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


class Net(nn.Module):
    """The same network with its ReLUs called in one of five ways."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.convolutions = nn.ModuleList([nn.Conv2d(c, 6, 3) for c in (3, 6, 6)])
        self.head = nn.Linear(6, 4)
        self.shared, self.inplace = nn.ReLU(), nn.ReLU(inplace=True)
        self.relu = {
            "module": lambda x: nn.ReLU()(x),
            "reused module": self.shared,
            "in place": self.inplace,
            "functional": F.relu,
            "tensor": lambda x: x.relu(),
            "tensor in place": lambda x: x.relu_(),
        }[way]

    def forward(self, x):
        for convolution in self.convolutions:
            x = self.relu(convolution(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("way", ["reused module", "in place", "functional", "tensor", "tensor in place"])
@pytest.mark.parametrize("method", METHODS)
def test_it_does_not_matter_how_a_relu_is_called(way, method):
    x = torch.randn(2, 3, 16, 16)
    expected = Explainer(Net("module")).attribute(x, method, target=1).scores
    assert torch.equal(Explainer(Net(way)).attribute(x, method, target=1).scores, expected)
    plain = Explainer(Net(way)).attribute(x, "input_x_gradient", target=1).scores
    assert not torch.allclose(plain, x * expected)  # the rule does something here


def test_closed_forms_on_one_relu():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    x = torch.randn(5, 1, 2, 2)
    first, last = model[1].weight.detach(), model[3].weight.detach()[0]
    passed = (x.flatten(1) @ first.T > 0).float()
    guided = (passed * last.clamp(min=0)) @ first
    deconv = last.clamp(min=0).expand(5, -1) @ first
    explainer = Explainer(model)
    torch.testing.assert_close(explainer.attribute(x, "guided_backprop", target=0).scores.flatten(1), guided)
    torch.testing.assert_close(explainer.attribute(x, "deconvnet", target=0).scores.flatten(1), deconv)


def test_the_plain_gradient_afterwards_is_plain():
    model, x = Net("in place"), torch.randn(1, 3, 16, 16)
    explainer = Explainer(model)
    before = explainer.attribute(x, "saliency", target=1).scores
    explainer.attribute(x, "guided_backprop", target=1)
    assert torch.equal(explainer.attribute(x, "saliency", target=1).scores, before)


@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_guided_gradcam_is_the_product_of_its_two_parts(name):
    model, x = getattr(torchvision.models, name)().eval(), torch.randn(2, 3, 64, 64)
    explainer = Explainer(model)
    guided = explainer.attribute(x, "guided_backprop", target=[1, 2]).scores
    where = explainer.attribute(x, "gradcam", target=[1, 2]).heatmap()
    ours = explainer.attribute(x, "guided_gradcam", target=[1, 2]).scores
    torch.testing.assert_close(ours, guided * where[:, None])


@pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning", "ignore:Input Tensor 0 did not:UserWarning")
def test_guided_gradcam_equals_captum():
    """captum enlarges Grad-CAM by repeating its cells unless told otherwise."""
    attr = pytest.importorskip("captum.attr")
    model, x = torchvision.models.resnet18().eval().double(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    ours = Explainer(model).attribute(x, "guided_gradcam", target=3).scores
    theirs = attr.GuidedGradCam(model, model.layer4).attribute(x, 3, interpolate_mode="bilinear").detach()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(ours.abs().max()))
