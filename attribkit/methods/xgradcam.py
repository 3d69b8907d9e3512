"""XGrad-CAM."""

from dataclasses import dataclass
from typing import ClassVar

from attribkit.core.model import HookedModel
from attribkit.core.shapes import LayerMaps, Scores
from attribkit.methods.layer_maps import LayerMethod, weighted


@dataclass(frozen=True)
class XGradCAM(LayerMethod):
    """A layer's channels, each weighted by its gradient averaged where the channel is active, summed and rectified."""

    name: ClassVar[str] = "xgradcam"
    source: ClassVar[str] = "Fu et al., BMVC 2020, axiom-based Grad-CAM"

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        if bool((activation < 0).any()):
            model.note(
                "xgradcam divides by each channel's total, which negative activations cancel; this layer has some"
            )
        total = activation.flatten(2).sum(2)
        weights = ((gradient * activation).flatten(2).sum(2) / total).where(total != 0, 0)
        return weighted(activation, weights).relu()
