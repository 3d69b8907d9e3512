"""Grad-CAM++."""

from dataclasses import dataclass
from typing import ClassVar

from attribkit.core.broadcast import beside
from attribkit.core.model import HookedModel
from attribkit.core.shapes import LayerMaps, Scores
from attribkit.methods.layer_maps import LayerMethod, weighted


@dataclass(frozen=True)
class GradCAMPlusPlus(LayerMethod):
    """A layer's channels, weighted by their positive gradients so that several objects of a class count alike.

    The closed form stands on the assumption that the class score is the exponential of what is differentiated, so that
    its second and third derivatives are powers of the first.
    """

    name: ClassVar[str] = "gradcam++"
    source: ClassVar[str] = "Chattopadhyay et al., WACV 2018, eqs. 5 and 19"

    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        if bool((activation < 0).any()):
            model.note("gradcam++ assumes a layer without negative activations, as behind a ReLU; this one has some")
        # g^2 / (2 g^2 + S g^3) of eq. 19 without the powers, which small gradients would lose to rounding
        total = beside(activation.flatten(2).sum(2), activation)
        denominator = 2 + total * gradient
        alpha = (1 / denominator).where(denominator != 0, 0)
        return weighted(activation, (alpha * gradient.relu()).flatten(2).sum(2)).relu()
