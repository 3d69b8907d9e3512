"""What the methods that read layers share: a map for each layer, and several made one."""

from collections.abc import Callable

import torch

from attribkit.core.attribution import resized
from attribkit.core.errors import InvalidInput
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, LayerMaps, Scores
from attribkit.core.targets import Target

Layers = str | tuple[str, ...] | None  # dotted names; several are averaged; None is the last map of the image


def from_layers(
    model: HookedModel, x: Images, target: Target, layer: Layers, to_map: Callable[[LayerMaps, LayerMaps], Scores]
) -> Scores:
    """The map that `to_map` makes of a layer's activation and gradient.

    Maps of several layers are brought to the range 0 to 1 each, so that no layer outweighs another by the size of its
    values alone, resized to the images and averaged.
    """
    layers = layer if isinstance(layer, tuple) else (layer,)
    if not layers or "" in layers:
        raise InvalidInput(f"layer={layer!r} names no layer: give a dotted name, several, or None.")
    maps = [to_map(*pair) for pair in model.activations_and_gradients(x, target, layers)]
    if len(maps) == 1:
        return maps[0]
    return torch.stack([resized(_unit_range(each), x.shape[2:]) for each in maps]).mean(0)


def summed(maps: LayerMaps) -> Scores:
    """The channels of a layer added up, and what speaks against the target cut off."""
    return maps.sum(1, keepdim=True).relu()


def per_channel(weights: torch.Tensor, maps: LayerMaps) -> LayerMaps:
    """Each channel times its weight, (b, d)."""
    return weights[(...,) + (None,) * (maps.ndim - 2)] * maps


def _unit_range(maps: Scores) -> Scores:
    low, high = (extreme[(...,) + (None,) * (maps.ndim - 1)] for extreme in maps.flatten(1).aminmax(dim=1))
    return (maps - low) / (high - low + 1e-7)
