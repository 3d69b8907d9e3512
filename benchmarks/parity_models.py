"""The five architectures of the parity table, with random weights in double precision."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import timm
import torch
import torchvision
from torch import Tensor, nn

from attribkit import Explainer


@dataclass(frozen=True)
class Subject:
    """A model, the same model as its peers can read it, and images."""

    name: str
    model: nn.Module  # as its library makes it: what attribkit explains
    twin: nn.Module  # the same weights, every ReLU a module that does not work in place: what the peers explain
    layer: str  # that Explainer chooses for the model; the twin has it too
    rectified: str | None  # a layer of the twin behind which nothing is negative, at the end of its maps
    scored: str  # the layer of Score-CAM, narrow enough for a forward a channel
    ablated: str | None  # the layer of Ablation-CAM, rectified
    x: Tensor  # two images
    small: Tensor  # one image, for what needs many forwards
    tokens: Callable[[Tensor], Tensor] | None = None  # a layer's tokens as channels first on the grid, (b, d, *grid)

    @cached_property
    def classes(self) -> list[int]:
        """The likeliest class of the first image and the second likeliest of the second: both scores are positive."""
        with torch.no_grad():
            order = self.model(self.x).argsort(1, descending=True)
        return [int(order[i, i]) for i in range(len(self.x))]

    def alone(self) -> "Subject":
        """With the one small image."""
        return replace(self, x=self.small)


def resnet18() -> Subject:
    return _subject("resnet18", torchvision.models.resnet18(), 112, 64, scored="layer2", ablated="layer3")


def densenet121() -> Subject:
    """Its forward calls the last ReLU as a function, in place; the twin has it as a module."""
    made = _subject(
        "densenet121", torchvision.models.densenet121(), 112, 64,
        scored="features.transition1", ablated="features.denseblock2.denselayer12.relu2",
    )  # fmt: skip
    parts = [("features", made.twin.features), ("relu", nn.ReLU()), ("pool", nn.AdaptiveAvgPool2d(1))]
    parts += [("flatten", nn.Flatten()), ("classifier", made.twin.classifier)]
    return replace(made, twin=nn.Sequential(OrderedDict(parts)).eval(), rectified="relu")


def vgg16() -> Subject:
    return _subject("vgg16", torchvision.models.vgg16(), 96, 64, scored="features.9", ablated="features")


def mobilenet_v2() -> Subject:
    model = torchvision.models.mobilenet_v2()
    return _subject("mobilenet_v2", model, 112, 64, scored="features.13", ablated="features")


def vit_tiny() -> Subject:
    made = _subject(
        "vit_tiny_patch16_224", timm.create_model("vit_tiny_patch16_224"), 224, 224, "blocks.11.norm1", None
    )
    return replace(made, rectified=None, tokens=_without_class_token)


MODELS = {maker.__name__: maker for maker in (resnet18, densenet121, vgg16, mobilenet_v2, vit_tiny)}


def _subject(name: str, model: nn.Module, side: int, small: int, scored: str, ablated: str | None) -> Subject:
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    model = _with_statistics(model.double(), x)
    layer = next(layer.name for layer in Explainer(model).layers(x) if layer.chosen)
    few = torch.randn(1, 3, small, small, dtype=torch.float64)
    return Subject(name, model, _twin(model), layer, layer, scored, ablated, x, few)


def _with_statistics(model: nn.Module, x: Tensor) -> nn.Module:
    """In evaluation mode, with the images' own statistics in its batch norms, so that activations have a usual size."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the next forward alone counts
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def _twin(model: nn.Module) -> nn.Module:
    """Modules of its own on the same weights, no ReLU in place."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    for module in twin.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6):
            module.inplace = False
    return twin


def _without_class_token(tokens: Tensor) -> Tensor:
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
