"""The five architectures of the parity table, with random weights in double precision."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from attribkit import Explainer


@dataclass(frozen=True)
class Subject:
    """A model, a copy of it that the peers can read, and images."""

    name: str
    model: nn.Module  # as built by its library; attribkit explains it
    twin: nn.Module  # the same weights, every ReLU a module that is not in place; the peers explain it
    layer: str  # chosen by Explainer for the model; the twin has it too
    rectified: str | None  # the last layer of the twin whose maps are not negative
    scorecam_layer: str  # the layer of Score-CAM, with few enough channels for one forward each
    ablationcam_layer: str | None  # the layer of Ablation-CAM, rectified
    x: Tensor  # two images
    small: Tensor  # one image, for methods that need many forwards
    tokens: Callable[[Tensor], Tensor] | None = None  # reshapes tokens to (b, d, *grid)

    @cached_property
    def classes(self) -> list[int]:
        """Return the top class of the first image and the second class of the second; both scores are positive."""
        with torch.no_grad():
            order = self.model(self.x).argsort(1, descending=True)
        return [int(order[i, i]) for i in range(len(self.x))]

    def alone(self) -> "Subject":
        """Return the subject with the single small image."""
        return replace(self, x=self.small)


def resnet18() -> Subject:
    return _subject(
        "resnet18", torchvision.models.resnet18(), 112, 64, scorecam_layer="layer2", ablationcam_layer="layer3"
    )


def densenet121() -> Subject:
    """Build DenseNet-121; its forward calls the last ReLU as an in-place function, the twin as a module."""
    made = _subject(
        "densenet121", torchvision.models.densenet121(), 112, 64,
        scorecam_layer="features.transition1", ablationcam_layer="features.denseblock2.denselayer12.relu2",
    )  # fmt: skip
    twin: Any = made.twin
    parts = [("features", twin.features), ("relu", nn.ReLU()), ("pool", nn.AdaptiveAvgPool2d(1))]
    parts += [("flatten", nn.Flatten()), ("classifier", twin.classifier)]
    return replace(made, twin=nn.Sequential(OrderedDict(parts)).eval(), rectified="relu")


def vgg16() -> Subject:
    return _subject(
        "vgg16", torchvision.models.vgg16(), 96, 64, scorecam_layer="features.9", ablationcam_layer="features"
    )


def mobilenet_v2() -> Subject:
    model = torchvision.models.mobilenet_v2()
    return _subject("mobilenet_v2", model, 112, 64, "features.13", "features")


def vit_tiny() -> Subject:
    made = _subject(
        "vit_tiny_patch16_224", timm.create_model("vit_tiny_patch16_224"), 224, 224, "blocks.11.norm1", None
    )
    return replace(made, rectified=None, tokens=_without_class_token)


MODELS = {maker.__name__: maker for maker in (resnet18, densenet121, vgg16, mobilenet_v2, vit_tiny)}


def _subject(
    name: str, model: nn.Module, side: int, small: int, scorecam_layer: str, ablationcam_layer: str | None
) -> Subject:
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    model = _with_statistics(model.double(), x)
    layer = next(layer.name for layer in Explainer(model).layers(x) if layer.chosen)
    few = torch.randn(1, 3, small, small, dtype=torch.float64)
    return Subject(name, model, _twin(model), layer, layer, scorecam_layer, ablationcam_layer, x, few)


def _with_statistics(model: nn.Module, x: Tensor) -> nn.Module:
    """Set the batch norms to the statistics of the images, which keeps activations in scale; use evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # only the next forward counts
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def _twin(model: nn.Module) -> nn.Module:
    """Return a copy of the modules with the same weights, without in-place ReLUs."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    for module in twin.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6):
            module.inplace = False
    return twin


def _without_class_token(tokens: Tensor) -> Tensor:
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
