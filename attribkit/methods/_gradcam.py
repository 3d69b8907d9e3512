"""Class activation maps of a layer: CAM, the methods that combine activations with gradients, and Eigen-CAM."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attribkit._contracts.attribution import resize_map
from attribkit._contracts.method import Method
from attribkit._core.layouts import Extent
from attribkit._core.options import Name, OneOrMore
from attribkit._core.pictures import broadcast_to_spatial, extremes
from attribkit._core.shapes import Images, LayerMaps, Scores
from attribkit._engine.forward import Requirements
from attribkit._engine.model import HookedModel
from attribkit._targets.target import Target

_NEGLIGIBLE = 0.01  # ratio |sum| / sum of magnitudes below which a sum does not determine a sign


@dataclass(frozen=True)
class LayerMethod(Method):
    """Base class for methods that compute a map from a layer's activation and gradient.

    The maps of several layers are scaled to the range 0 to 1, so that no layer dominates by the magnitude of its values
    alone, resized to the images and averaged.

    Args:
        layer: Dotted name of a layer, or several names; None means the last layer with a spatial map, in each branch
            that the score depends on.
    """

    layer: Name | OneOrMore[Name] | None = None

    @property
    def layers(self) -> tuple[str | None, ...]:
        """Return the requested layers without duplicates."""
        layers = self.layer if isinstance(self.layer, tuple) else (self.layer,)
        return tuple(dict.fromkeys(layers))

    @property
    def requires(self) -> Requirements:
        return Requirements(layers=self.layers)

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        results = model.read(x, target, self.requires).layers
        pairs = [(layer, self.to_map(model, *pair)) for layer in self.layers for pair in results[layer]]
        extents = [model.extent(layer, each.shape[2:]) for layer, each in pairs]
        return average_maps([each for _, each in pairs], x.shape[2:], extents)

    @abstractmethod
    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        """Compute the map of one layer.

        Args:
            model: The model; it collects notes.
            activation: The layer's activation, (b, d, *grid).
            gradient: The gradient of the score with respect to the activation, (b, d, *grid).

        Returns:
            The map, (b, 1, *grid).
        """


def average_maps(maps: Sequence[Tensor], space: Sequence[int], extents: Sequence[Extent | None]) -> Tensor:
    """Average the maps of several layers, each scaled to 0 to 1 and resized to the images; keep a single map unchanged.

    Args:
        maps: One map for each layer, (b, 1, *grid).
        space: Size of the images along each spatial axis.
        extents: The part of the images that each map covers; None means all of them.
    """
    if len(maps) == 1:
        return maps[0]
    pairs = zip(maps, extents, strict=True)
    return torch.stack([resize_map(_unit_range(each), space, extent) for each, extent in pairs]).mean(0)


def sum_channels(maps: LayerMaps) -> Scores:
    """Sum a layer's maps over the channels and set negative values, evidence against the target, to zero."""
    return maps.sum(1, keepdim=True).relu()


def weighted_sum(maps: LayerMaps, weights: torch.Tensor) -> Scores:
    """Sum a layer's maps over the channels, each multiplied by its weight, (b, d)."""
    return torch.einsum("bd,bd...->b...", weights, maps).unsqueeze(1)


def _unit_range(maps: Scores) -> Scores:
    low, high = extremes(maps)
    return (maps - low) / (high - low + 1e-7)


@dataclass(frozen=True)
class CAM(Method):
    """Sum of the last feature maps, each weighted by the linear classifier's weight for the class.

    The mean of the map, plus the classifier's bias, is the class's score. Only models that end in global average
    pooling and a linear layer are supported.

    Args:
        layer: Dotted name of the layer; None means the last layer with a spatial map.
    """

    name: ClassVar[str] = "cam"
    display_name: ClassVar[str] = "CAM"
    source: ClassVar[str] = "Zhou et al., CVPR 2016, eq. 2"

    layer: Name | None = None

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return weighted_sum(*model.class_weights(x, target, self.layer))


@dataclass(frozen=True)
class GradCAM(LayerMethod):
    """Rectified sum of a layer's channels, each weighted by the spatial mean of its gradient.

    Args:
        layer: As for `LayerMethod`.
        relu: Whether negative values are set to zero; False keeps evidence against the target as negative scores.
    """

    name: ClassVar[str] = "gradcam"
    display_name: ClassVar[str] = "Grad-CAM"
    source: ClassVar[str] = "Selvaraju et al., ICCV 2017, eqs. 1 and 2"

    relu: bool = True

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        scores = weighted_sum(activation, gradient.flatten(2).mean(2))
        return scores.relu() if self.relu else scores


@dataclass(frozen=True)
class GradCAMPlusPlus(LayerMethod):
    """Rectified sum of a layer's channels, weighted by their positive gradients so that all objects of a class count.

    The weight of a channel is the sum of alpha * ReLU(gradient), alpha = 1 / (2 + sum(activation) * gradient). This
    assumes that the class score is the exponential of the differentiated score: its second and third derivatives are
    then powers of the first. The options are those of `LayerMethod`.
    """

    name: ClassVar[str] = "gradcam++"
    display_name: ClassVar[str] = "Grad-CAM++"
    source: ClassVar[str] = "Chattopadhyay et al., WACV 2018, eqs. 5 and 19"

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        if bool((activation < 0).any()):
            model.note(
                "gradcam++ assumes non-negative activations, as after a ReLU, but this layer has negative activations"
            )
        # g^2 / (2 g^2 + S g^3) of eq. 19, divided by g^2: powers of small gradients would underflow.
        total = broadcast_to_spatial(activation.flatten(2).sum(2), activation)
        denominator = 2 + total * gradient
        alpha = (1 / denominator).where(denominator != 0, 0)
        return weighted_sum(activation, (alpha * gradient.relu()).flatten(2).sum(2)).relu()


@dataclass(frozen=True)
class HiResCAM(LayerMethod):
    """Rectified sum over the channels of a layer's activations times their gradients, element by element.

    The options are those of `LayerMethod`.
    """

    name: ClassVar[str] = "hirescam"
    display_name: ClassVar[str] = "HiResCAM"
    source: ClassVar[str] = "Draelos and Carin, 2020, arXiv:2011.08891"

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        return sum_channels(activation * gradient)


@dataclass(frozen=True)
class XGradCAM(LayerMethod):
    """Rectified sum of a layer's channels, each weighted by the activation-weighted mean of its gradient.

    The weight of a channel is sum(gradient * activation) / sum(activation). The options are those of `LayerMethod`.
    """

    name: ClassVar[str] = "xgradcam"
    display_name: ClassVar[str] = "XGrad-CAM"
    source: ClassVar[str] = "Fu et al., BMVC 2020, axiom-based Grad-CAM"

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        if bool((activation < 0).any()):
            model.note(
                "xgradcam divides by the sum of each channel, which can be near zero, since this layer has negative "
                "activations"
            )
        total = activation.flatten(2).sum(2)
        weights = ((gradient * activation).flatten(2).sum(2) / total).where(total != 0, 0)
        return weighted_sum(activation, weights).relu()


@dataclass(frozen=True)
class LayerCAM(LayerMethod):
    """Rectified sum over the channels of a layer's activations times their positive gradients, element by element.

    The maps are sharp in early layers too. The options are those of `LayerMethod`.
    """

    name: ClassVar[str] = "layercam"
    display_name: ClassVar[str] = "LayerCAM"
    source: ClassVar[str] = "Jiang et al., IEEE Transactions on Image Processing 2021"

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        return sum_channels(activation * gradient.relu())


@dataclass(frozen=True)
class EigenCAM(LayerMethod):
    """Projection of a layer's activations on their first principal component; the target is not used.

    The activations are centred over the positions. The sign of a principal component is arbitrary: it is chosen such
    that the map agrees with the layer's mean activation, or, where that is the same everywhere (as after a layer
    normalisation), such that the values of largest magnitude are positive. A note reports where neither determines the
    sign, as on a grid of two cells. The options are those of `LayerMethod`.
    """

    name: ClassVar[str] = "eigencam"
    display_name: ClassVar[str] = "Eigen-CAM"
    source: ClassVar[str] = "Muhammad and Yeasin, IJCNN 2020"
    uses_target: ClassVar[bool] = False

    @property
    def requires(self) -> Requirements:
        return Requirements()  # neither gradients nor the score of a target

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        model.note(
            "eigencam does not depend on the target: it shows the dominant component of the layer, not which pixels "
            "support a class"
        )
        activations = [model.activation(x, layer, target) for layer in self.layers]
        extents = [model.extent(layer) for layer in self.layers]
        return average_maps([self.to_map(model, each, each) for each in activations], x.shape[2:], extents)

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        points = activation.flatten(2).transpose(1, 2)  # (b, positions, d)
        centred = points - points.mean(1, keepdim=True)
        component = torch.linalg.svd(centred.nan_to_num(), full_matrices=False).Vh[:, 0]  # (b, d); scores keep the NaN
        scores = torch.einsum("bpd,bd->bp", centred, component)
        products, cubes = (scores[..., None] * centred).flatten(1), scores.pow(3)
        agreement, skew = products.sum(1, keepdim=True), cubes.sum(1, keepdim=True)
        no_agreement, no_skew = _cancels(products), _cancels(cubes)
        if bool((no_agreement & ~no_skew).any()):
            model.note(
                "the layer's mean activation does not determine the component's sign: the values of largest magnitude "
                "are shown as positive"
            )
        if bool((no_agreement & no_skew).any()):
            model.note(
                "neither the layer's mean activation nor the values of largest magnitude determine the component's "
                "sign: the relevant positions may be those that the map shows as zero"
            )
        sign = skew.where(no_agreement & ~no_skew, agreement).sign()
        return (scores * sign).relu().reshape(len(activation), 1, *activation.shape[2:])


def _cancels(terms: Tensor) -> Tensor:
    """Return, (b, 1), whether the terms of each image, (b, n), nearly cancel in their sum."""
    return terms.sum(1, keepdim=True).abs() <= _NEGLIGIBLE * terms.abs().sum(1, keepdim=True)
