"""What a layer puts out for an image."""

from dataclasses import dataclass

from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, LayerMaps


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """A layer's activations."""

    layer: str  # dotted name
    values: LayerMaps
    x: Images  # what the model saw
    notes: tuple[str, ...] = ()  # the layer chosen and why; what its shape leaves open


def feature_maps(model: HookedModel, x: Images, layer: str | None = None) -> FeatureMaps:
    """A layer's activations on its grid, channels first, (b, d, *grid); the tokens of a transformer too.

    model: frozen, and about to explain x. layer: a dotted name; None is the layer that methods read.
    """
    name = model.default_layer(x) if layer is None else layer
    return FeatureMaps(name, model.activation(x, layer), x, tuple(model.notes))
