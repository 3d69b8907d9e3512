"""Eigen-CAM."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attribkit.core.shapes import Images, LayerMaps, Scores
from attribkit.engine.forward import Requirements
from attribkit.engine.model import HookedModel
from attribkit.methods.gradcam import LayerMethod, average_maps
from attribkit.targets.target import Target

_FLAT = 0.01  # share of what the channels say, below which their mean says nothing


@dataclass(frozen=True)
class EigenCAM(LayerMethod):
    """A layer's activations along their first principal component; the same map whatever the target.

    A principal component has no sign of its own: it is turned so that the map agrees with the layer's mean activation,
    or, where that is the same everywhere, as behind a layer normalisation, so that its largest values are positive. Of
    two cells neither tells much: a note says so.
    """

    name: ClassVar[str] = "eigencam"
    source: ClassVar[str] = "Muhammad and Yeasin, IJCNN 2020"
    needs_target: ClassVar[bool] = False

    @property
    def requires(self) -> Requirements:
        return Requirements()  # no gradient, nor the score of a target

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        model.note(
            "eigencam does not depend on the target: it shows what dominates the layer, not what speaks for a class"
        )
        activations = [model.activation(x, layer, target) for layer in self.layers]
        extents = [model.extent(layer) for layer in self.layers]
        return average_maps([self.to_map(model, each, each) for each in activations], x.shape[2:], extents)

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        points = activation.flatten(2).transpose(1, 2)  # (b, positions, d)
        centred = points - points.mean(1, keepdim=True)
        component = torch.linalg.svd(centred.nan_to_num(), full_matrices=False).Vh[:, 0]  # (b, d); NaN stays in scores
        scores = torch.einsum("bpd,bd->bp", centred, component)
        products, cubes = (scores[..., None] * centred).flatten(1), scores.pow(3)
        agreement, skew = products.sum(1, keepdim=True), cubes.sum(1, keepdim=True)
        flat, even = _cancels(products), _cancels(cubes)
        if bool((flat & ~even).any()):
            model.note("the layer's mean activation does not tell the component's sign: its largest values are shown")
        if bool((flat & even).any()):
            model.note(
                "neither the layer's mean activation nor its largest values tell the component's sign: what the map "
                "leaves out may be what matters"
            )
        sign = skew.where(flat & ~even, agreement).sign()
        return (scores * sign).relu().reshape(len(activation), 1, *activation.shape[2:])


def _cancels(parts: Tensor) -> Tensor:
    """Whether the parts of each image, (b, n), add up to next to nothing, (b, 1)."""
    return parts.sum(1, keepdim=True).abs() <= _FLAT * parts.abs().sum(1, keepdim=True)
