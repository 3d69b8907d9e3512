"""[methods/layer_maps] What the methods that read layers share: a map for each layer, and several made one.
[methods/cam] Class activation maps.
[methods/gradcam] Gradient-weighted class activation maps.
[methods/gradcam_plus_plus] Grad-CAM++.
[methods/hirescam] HiResCAM.
[methods/xgradcam] XGrad-CAM.
[methods/layercam] LayerCAM.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attribkit.contracts.attribution import resize_map
from attribkit.contracts.method import Method
from attribkit.core.layouts import Extent
from attribkit.core.options import Name, OneOrMore
from attribkit.core.pictures import broadcast_to_spatial, extremes
from attribkit.core.shapes import Images, LayerMaps, Scores
from attribkit.engine.forward import Requirements
from attribkit.engine.model import HookedModel
from attribkit.targets.target import Target


@dataclass(frozen=True)
class LayerMethod(Method):
    """A map made of a layer's activation and gradient; maps of several layers are averaged.

    Each of several is brought to the range 0 to 1 first, so that no layer outweighs another by the size of its values
    alone, and resized to the images.
    """

    layer: Name | OneOrMore[Name] | None = None  # None is the last map of the image, of each branch of the score

    @property
    def layers(self) -> tuple[str | None, ...]:
        """The layers that are read, each once."""
        layers = self.layer if isinstance(self.layer, tuple) else (self.layer,)
        return tuple(dict.fromkeys(layers))

    @property
    def requires(self) -> Requirements:
        return Requirements(layers=self.layers)

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        read = model.read(x, target, self.requires).layers
        pairs = [(layer, self.to_map(model, *pair)) for layer in self.layers for pair in read[layer]]
        extents = [model.extent(layer, each.shape[2:]) for layer, each in pairs]
        return average_maps([each for _, each in pairs], x.shape[2:], extents)

    @abstractmethod
    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        """The map of one layer; model takes notes."""


def average_maps(maps: Sequence[Tensor], space: Sequence[int], extents: Sequence[Extent | None]) -> Tensor:
    """The map of one layer as it is; those of several, each brought to 0 to 1, resized to the images and averaged.

    extents: where each lies on the images.
    """
    if len(maps) == 1:
        return maps[0]
    pairs = zip(maps, extents, strict=True)
    return torch.stack([resize_map(_unit_range(each), space, extent) for each, extent in pairs]).mean(0)


def sum_channels(maps: LayerMaps) -> Scores:
    """The channels of a layer added up, and what speaks against the target cut off."""
    return maps.sum(1, keepdim=True).relu()


def weighted_sum(maps: LayerMaps, weights: torch.Tensor) -> Scores:
    """The channels of a layer added up, each times its weight, (b, d)."""
    return torch.einsum("bd,bd...->b...", weights, maps).unsqueeze(1)


def _unit_range(maps: Scores) -> Scores:
    low, high = extremes(maps)
    return (maps - low) / (high - low + 1e-7)


@dataclass(frozen=True)
class CAM(Method):
    """The last maps, each times the weight that the classifier gives its average; exact, for models that end so.

    Their mean, plus the classifier's bias, is the class's score. Models with another head are refused.
    """

    name: ClassVar[str] = "cam"
    source: ClassVar[str] = "Zhou et al., CVPR 2016, eq. 2"

    layer: Name | None = None  # dotted name; None is the last map of the image

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return weighted_sum(*model.class_weights(x, target, self.layer))


@dataclass(frozen=True)
class GradCAM(LayerMethod):
    """A layer's channels, each weighted by the mean of its gradient, summed and rectified."""

    name: ClassVar[str] = "gradcam"
    source: ClassVar[str] = "Selvaraju et al., ICCV 2017, eqs. 1 and 2"

    relu: bool = True  # False keeps what speaks against the target, as negative scores

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        scores = weighted_sum(activation, gradient.flatten(2).mean(2))
        return scores.relu() if self.relu else scores


@dataclass(frozen=True)
class GradCAMPlusPlus(LayerMethod):
    """A layer's channels, weighted by their positive gradients so that several objects of a class count alike.

    The closed form stands on the assumption that the class score is the exponential of what is differentiated, so that
    its second and third derivatives are powers of the first.
    """

    name: ClassVar[str] = "gradcam++"
    source: ClassVar[str] = "Chattopadhyay et al., WACV 2018, eqs. 5 and 19"

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        if bool((activation < 0).any()):
            model.note("gradcam++ assumes a layer without negative activations, as behind a ReLU; this one has some")
        # g^2 / (2 g^2 + S g^3) of eq. 19 without the powers, which small gradients would lose to rounding
        total = broadcast_to_spatial(activation.flatten(2).sum(2), activation)
        denominator = 2 + total * gradient
        alpha = (1 / denominator).where(denominator != 0, 0)
        return weighted_sum(activation, (alpha * gradient.relu()).flatten(2).sum(2)).relu()


@dataclass(frozen=True)
class HiResCAM(LayerMethod):
    """A layer's activations times their gradients, position by position, summed over the channels and rectified."""

    name: ClassVar[str] = "hirescam"
    source: ClassVar[str] = "Draelos and Carin, 2020, arXiv:2011.08891"

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        return sum_channels(activation * gradient)


@dataclass(frozen=True)
class XGradCAM(LayerMethod):
    """A layer's channels, each weighted by its gradient averaged where the channel is active, summed and rectified."""

    name: ClassVar[str] = "xgradcam"
    source: ClassVar[str] = "Fu et al., BMVC 2020, axiom-based Grad-CAM"

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        if bool((activation < 0).any()):
            model.note(
                "xgradcam divides by each channel's total, which negative activations cancel; this layer has some"
            )
        total = activation.flatten(2).sum(2)
        weights = ((gradient * activation).flatten(2).sum(2) / total).where(total != 0, 0)
        return weighted_sum(activation, weights).relu()


@dataclass(frozen=True)
class LayerCAM(LayerMethod):
    """A layer's activations times their positive gradients, position by position; sharp in early layers too."""

    name: ClassVar[str] = "layercam"
    source: ClassVar[str] = "Jiang et al., IEEE Transactions on Image Processing 2021"

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        return sum_channels(activation * gradient.relu())
