"""HiResCAM."""

from dataclasses import dataclass
from typing import ClassVar

from attribkit.core.model import HookedModel
from attribkit.core.shapes import LayerMaps, Scores
from attribkit.methods.layer_maps import LayerMethod, summed


@dataclass(frozen=True)
class HiResCAM(LayerMethod):
    """A layer's activations times their gradients, position by position, summed over the channels and rectified."""

    name: ClassVar[str] = "hirescam"
    source: ClassVar[str] = "Draelos and Carin, 2020, arXiv:2011.08891"

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        return summed(activation * gradient)
