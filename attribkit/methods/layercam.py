"""LayerCAM."""

from dataclasses import dataclass
from typing import ClassVar

from attribkit.core.model import HookedModel
from attribkit.core.shapes import LayerMaps, Scores
from attribkit.methods.layer_maps import LayerMethod, summed


@dataclass(frozen=True)
class LayerCAM(LayerMethod):
    """A layer's activations times their positive gradients, position by position; sharp in early layers too."""

    name: ClassVar[str] = "layercam"
    source: ClassVar[str] = "Jiang et al., IEEE Transactions on Image Processing 2021"

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        return summed(activation * gradient.relu())
