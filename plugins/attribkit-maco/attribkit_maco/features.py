"""The distance between the features of two images at a layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attribkit import HookedModel, LayerUnit, Target

from .ascent import gradient_through
from .views import View


@dataclass(frozen=True, eq=False)
class FeatureDistance(LayerUnit):
    """Distance of a layer's output from reference features, relative to the norm of these.

    Args:
        layer: Dotted name of the layer.
        reference: Features of the reference images, (b, d, *cells).
    """

    layer: str
    reference: Tensor

    def response(self, maps: Tensor) -> Tensor:
        """Return the Euclidean norm of the difference, divided by that of the reference features, (b,)."""
        difference = maps.to(self.reference) - self.reference
        norm = torch.linalg.vector_norm(self.reference.flatten(1), dim=1)
        return torch.linalg.vector_norm(difference.flatten(1), dim=1) / norm.clamp(min=torch.finfo(norm.dtype).tiny)

    def subset(self, images: slice) -> Target:
        return FeatureDistance(self.layer, self.reference[images])

    def tile(self, times: int) -> Target:
        return FeatureDistance(self.layer, self.reference.repeat(times, *(1,) * (self.reference.ndim - 1)))


class FeaturePenalty:
    """Penalty on the distance of features from those of the seed images, seen through the same views.

    The distance is multiplied by the strength, and by a factor for each image that makes both gradients equally long
    for a strength of 1. The factor is determined at the first step at which neither gradient is zero, which is the
    second one: the distance does not have a gradient at the seed image.

    Args:
        model: The model.
        layer: Dotted name of the layer.
        seeds: Seed images, (n, c, h, w).
        strength: Strength of the penalty.
    """

    def __init__(self, model: HookedModel, layer: str, seeds: Tensor, strength: float) -> None:
        self.model = model
        self.layer = layer
        self.seeds = seeds
        self.strength = strength
        self._balance = seeds.new_zeros(len(seeds))  # zero until it is determined

    def __call__(self, view: View, images: Tensor, response_gradient: Tensor) -> Tensor:
        """Return the gradient of the penalty with respect to the images, (n, c, h, w)."""
        dtype = self.model.images.dtype
        distance = FeatureDistance(self.layer, self.model.activation(view(self.seeds).to(dtype), self.layer))
        _, gradient = gradient_through(
            view, images, lambda crops: self.model.score_and_gradient(crops.to(dtype), distance)
        )
        lengths = [torch.linalg.vector_norm(each.flatten(1), dim=1) for each in (response_gradient, gradient)]
        ratio = torch.where(lengths[1] > 0, lengths[0] / lengths[1].clamp(min=torch.finfo(gradient.dtype).tiny), 0)
        self._balance = torch.where(self._balance > 0, self._balance, ratio)
        return gradient * (self.strength * self._balance).view(-1, 1, 1, 1)

    def of(self, images: Tensor) -> Tensor:
        """Return the penalty of whole images, (n,)."""
        distance = FeatureDistance(self.layer, self.model.activation(self.seeds.to(images), self.layer))
        return self.strength * self._balance * self.model.score(images, distance).to(self._balance)
