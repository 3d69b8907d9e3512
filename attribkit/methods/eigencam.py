"""Eigen-CAM."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from attribkit.core.model import HookedModel
from attribkit.core.shapes import LayerMaps, Scores
from attribkit.methods.layer_maps import LayerMethod


@dataclass(frozen=True)
class EigenCAM(LayerMethod):
    """A layer's activations along their first principal component; the same map whatever the target.

    A principal component has no sign of its own: it is turned so that the map agrees with the layer's mean activation.
    """

    name: ClassVar[str] = "eigencam"
    source: ClassVar[str] = "Muhammad and Yeasin, IJCNN 2020"

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        model.note(
            "eigencam does not depend on the target: it shows what dominates the layer, not what speaks for a class"
        )
        points = activation.flatten(2).transpose(1, 2)  # (b, positions, d)
        centred = points - points.mean(1, keepdim=True)
        component = torch.linalg.svd(centred, full_matrices=False).Vh[:, 0]  # (b, d)
        scores = torch.einsum("bpd,bd->bp", centred, component)
        agreement = (scores * centred.mean(2)).sum(1, keepdim=True)
        return (scores * agreement.sign()).relu().reshape(len(activation), 1, *activation.shape[2:])
