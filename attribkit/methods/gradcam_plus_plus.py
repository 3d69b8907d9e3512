"""Grad-CAM++."""

from dataclasses import dataclass
from typing import ClassVar

from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, LayerMaps, Scores
from attribkit.core.targets import Target
from attribkit.methods.layer_maps import Layers, from_layers, per_channel, summed


@dataclass(frozen=True)
class GradCAMPlusPlus(Method):
    """A layer's channels, weighted by their positive gradients so that several objects of a class count alike.

    The closed form stands on the assumption that the class score is the exponential of what is differentiated, so that
    its second and third derivatives are powers of the first.
    """

    name: ClassVar[str] = "gradcam++"
    source: ClassVar[str] = "Chattopadhyay et al., WACV 2018, eqs. 5 and 19"

    layer: Layers = None  # several are averaged; None is the last map of the image

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        def to_map(activation: LayerMaps, gradient: LayerMaps) -> Scores:
            if bool((activation < 0).any()):
                model.note(
                    "gradcam++ assumes a layer without negative activations, as behind a ReLU; this one has some"
                )
            return _map(activation, gradient)

        return from_layers(model, x, target, self.layer, to_map)


def _map(activation: LayerMaps, gradient: LayerMaps) -> Scores:
    # g^2 / (2 g^2 + S g^3) of eq. 19 without the powers, which small gradients would lose to rounding
    denominator = 2 + per_channel(activation.flatten(2).sum(2), gradient)
    alpha = (1 / denominator).where(denominator != 0, 0)
    return summed(per_channel((alpha * gradient.relu()).flatten(2).sum(2), activation))
