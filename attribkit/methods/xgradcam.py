"""XGrad-CAM."""

from dataclasses import dataclass
from typing import ClassVar

from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, LayerMaps, Scores
from attribkit.core.targets import Target
from attribkit.methods.layer_maps import Layers, from_layers, per_channel, summed


@dataclass(frozen=True)
class XGradCAM(Method):
    """A layer's channels, each weighted by its gradient averaged where the channel is active, summed and rectified."""

    name: ClassVar[str] = "xgradcam"
    source: ClassVar[str] = "Fu et al., BMVC 2020, axiom-based Grad-CAM"

    layer: Layers = None  # several are averaged; None is the last map of the image

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return from_layers(model, x, target, self.layer, _map)


def _map(activation: LayerMaps, gradient: LayerMaps) -> Scores:
    total = activation.flatten(2).sum(2)
    weights = ((gradient * activation).flatten(2).sum(2) / total).where(total != 0, 0)
    return summed(per_channel(weights, activation))
