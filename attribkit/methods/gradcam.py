"""Gradient-weighted class activation maps."""

from dataclasses import dataclass
from typing import ClassVar

from attribkit.core.model import HookedModel
from attribkit.core.shapes import LayerMaps, Scores
from attribkit.methods.layer_maps import LayerMethod, weighted


@dataclass(frozen=True)
class GradCAM(LayerMethod):
    """A layer's channels, each weighted by the mean of its gradient, summed and rectified."""

    name: ClassVar[str] = "gradcam"
    source: ClassVar[str] = "Selvaraju et al., ICCV 2017, eqs. 1 and 2"

    relu: bool = True  # False keeps what speaks against the target, as negative scores

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        scores = weighted(activation, gradient.flatten(2).mean(2))
        return scores.relu() if self.relu else scores
