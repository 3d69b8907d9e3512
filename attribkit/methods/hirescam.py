"""HiResCAM."""

from dataclasses import dataclass
from typing import ClassVar

from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, Scores
from attribkit.core.targets import Target
from attribkit.methods.layer_maps import Layers, from_layers, summed


@dataclass(frozen=True)
class HiResCAM(Method):
    """A layer's activations times their gradients, position by position, summed over the channels and rectified."""

    name: ClassVar[str] = "hirescam"
    source: ClassVar[str] = "Draelos and Carin, 2020, arXiv:2011.08891"

    layer: Layers = None  # several are averaged; None is the last map of the image

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return from_layers(model, x, target, self.layer, lambda maps, gradient: summed(maps * gradient))
