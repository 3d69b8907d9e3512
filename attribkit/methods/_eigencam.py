"""Eigen-CAM: the first principal component of a layer's activations."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attribkit._core.shapes import Images, LayerMaps, Scores
from attribkit._engine.forward import Requirements
from attribkit._engine.model import HookedModel
from attribkit._targets.target import Target
from attribkit.methods._gradcam import LayerMethod, average_maps

_NEGLIGIBLE = 0.01  # ratio |sum| / sum of magnitudes below which a sum does not determine a sign


@dataclass(frozen=True)
class EigenCAM(LayerMethod):
    """Projection of a layer's activations on their first principal component; the target is not used.

    The activations are centred over the positions. The sign of a principal component is arbitrary: it is chosen such
    that the map agrees with the layer's mean activation, or, where that is the same everywhere (as after a layer
    normalisation), such that the values of largest magnitude are positive. A note reports where neither determines the
    sign, as on a grid of two cells. The options are those of `LayerMethod`.
    """

    name: ClassVar[str] = "eigencam"
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
