"""Gradient-weighted class activation maps."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, LayerMaps, Scores
from attribkit.core.targets import Target
from attribkit.methods.layer_maps import Layers, from_layers


@dataclass(frozen=True)
class GradCAM(Method):
    """A layer's channels, each weighted by the mean of its gradient, summed and rectified."""

    name: ClassVar[str] = "gradcam"
    source: ClassVar[str] = "Selvaraju et al., ICCV 2017, eqs. 1 and 2"

    layer: Layers = None  # several are averaged; None is the last map of the image
    relu: bool = True  # False keeps what speaks against the target, as negative scores

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return from_layers(model, x, target, self.layer, self._map)

    def _map(self, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        weights = gradient.flatten(2).mean(2)
        scores = torch.einsum("bd,bd...->b...", weights, activation).unsqueeze(1)
        return scores.relu() if self.relu else scores
