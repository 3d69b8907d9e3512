"""Gradient-weighted class activation maps."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from attribkit.core.attribution import resized
from attribkit.core.errors import InvalidInput
from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, LayerMaps, Scores
from attribkit.core.targets import Target


@dataclass(frozen=True)
class GradCAM(Method):
    """A layer's channels, each weighted by the mean of its gradient, summed and rectified."""

    name: ClassVar[str] = "gradcam"
    source: ClassVar[str] = "Selvaraju et al., ICCV 2017, eqs. 1 and 2"

    layer: str | tuple[str, ...] | None = None  # dotted names; several are averaged; None is the last map

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        layers = self.layer if isinstance(self.layer, tuple) else (self.layer,)
        if not layers or "" in layers:
            raise InvalidInput(f"layer={self.layer!r} names no layer: give a dotted name, several, or None.")
        maps = [_map(*pair) for pair in model.activations_and_gradients(x, target, layers)]
        if len(maps) == 1:
            return maps[0]
        return torch.stack([resized(_unit_range(each), x.shape[2:]) for each in maps]).mean(0)


def _map(activation: LayerMaps, gradient: LayerMaps) -> Scores:
    weights = gradient.flatten(2).mean(2)
    return torch.einsum("bd,bd...->b...", weights, activation).relu().unsqueeze(1)


def _unit_range(maps: Scores) -> Scores:
    """Each image's map from 0 to 1, so that no layer outweighs another by the size of its values alone."""
    low, high = (extreme[(...,) + (None,) * (maps.ndim - 1)] for extreme in maps.flatten(1).aminmax(dim=1))
    return (maps - low) / (high - low + 1e-7)
