"""LayerCAM."""

from dataclasses import dataclass
from typing import ClassVar

from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, Scores
from attribkit.core.targets import Target
from attribkit.methods.layer_maps import Layers, from_layers, summed


@dataclass(frozen=True)
class LayerCAM(Method):
    """A layer's activations times their positive gradients, position by position; sharp in early layers too."""

    name: ClassVar[str] = "layercam"
    source: ClassVar[str] = "Jiang et al., IEEE Transactions on Image Processing 2021"

    layer: Layers = None  # several are averaged; None is the last map of the image

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return from_layers(
            model, x, target, self.layer, lambda activation, gradient: summed(activation * gradient.relu())
        )
