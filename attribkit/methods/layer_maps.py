"""What the methods that read layers share: a map for each layer, and several made one."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attribkit.core.attribution import resized
from attribkit.core.broadcast import extremes
from attribkit.core.layouts import Extent
from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.options import Name, OneOrMore
from attribkit.core.reading import Reads
from attribkit.core.shapes import Images, LayerMaps, Scores
from attribkit.core.targets.target import Target


@dataclass(frozen=True)
class LayerMethod(Method):
    """A map made of a layer's activation and gradient; maps of several layers are averaged.

    Each of several is brought to the range 0 to 1 first, so that no layer outweighs another by the size of its values
    alone, and resized to the images.
    """

    layer: Name | OneOrMore[Name] | None = None  # None is the last map of the image, of each branch of the score

    @property
    def layers(self) -> tuple[str | None, ...]:
        """The layers that are read, each once."""
        layers = self.layer if isinstance(self.layer, tuple) else (self.layer,)
        return tuple(dict.fromkeys(layers))

    @property
    def reads(self) -> Reads:
        return Reads(layers=self.layers)

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        read = model.read(x, target, self.reads).layers
        pairs = [(layer, self.to_map(model, *pair)) for layer in self.layers for pair in read[layer]]
        extents = [model.extent(layer, each.shape[2:]) for layer, each in pairs]
        return averaged([each for _, each in pairs], x.shape[2:], extents)

    @abstractmethod
    def to_map(self, model: HookedModel, activation: LayerMaps, gradient: LayerMaps) -> Scores:
        """The map of one layer; model takes notes."""


def averaged(maps: Sequence[Tensor], space: Sequence[int], extents: Sequence[Extent | None]) -> Tensor:
    """The map of one layer as it is; those of several, each brought to 0 to 1, resized to the images and averaged.

    extents: where each lies on the images.
    """
    if len(maps) == 1:
        return maps[0]
    pairs = zip(maps, extents, strict=True)
    return torch.stack([resized(_unit_range(each), space, extent) for each, extent in pairs]).mean(0)


def summed(maps: LayerMaps) -> Scores:
    """The channels of a layer added up, and what speaks against the target cut off."""
    return maps.sum(1, keepdim=True).relu()


def weighted(maps: LayerMaps, weights: torch.Tensor) -> Scores:
    """The channels of a layer added up, each times its weight, (b, d)."""
    return torch.einsum("bd,bd...->b...", weights, maps).unsqueeze(1)


def _unit_range(maps: Scores) -> Scores:
    low, high = extremes(maps)
    return (maps - low) / (high - low + 1e-7)
