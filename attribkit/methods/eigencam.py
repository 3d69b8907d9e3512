"""Eigen-CAM."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, LayerMaps, Scores
from attribkit.core.targets import Target
from attribkit.methods.layer_maps import Layers, from_layers


@dataclass(frozen=True)
class EigenCAM(Method):
    """A layer's activations along their first principal component; the same map whatever the target.

    A principal component has no sign of its own: it is turned so that the map agrees with the layer's mean activation.
    """

    name: ClassVar[str] = "eigencam"
    source: ClassVar[str] = "Muhammad and Yeasin, IJCNN 2020"

    layer: Layers = None  # several are averaged; None is the last map of the image

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        model.note(
            "eigencam does not depend on the target: it shows what dominates the layer, not what speaks for a class"
        )
        return from_layers(model, x, target, self.layer, _map)


def _map(activation: LayerMaps, _gradient: LayerMaps) -> Scores:
    points = activation.flatten(2).transpose(1, 2)  # (b, positions, d)
    centred = points - points.mean(1, keepdim=True)
    component = torch.linalg.svd(centred, full_matrices=False).Vh[:, 0]  # (b, d)
    scores = torch.einsum("bpd,bd->bp", centred, component)
    agreement = (scores * centred.mean(2)).sum(1, keepdim=True)
    return (scores * agreement.sign()).relu().reshape(len(activation), 1, *activation.shape[2:])
