"""A part of a layer as a target: one of its channels, or a direction among them."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import LayerMaps, PerImage
from attribkit.targets.outputs import LayerOutput
from attribkit.targets.target import Target, TargetNote

Position = tuple[int, ...] | Literal["centre"] | None  # a cell of the layer's grid; None is the mean over all of them


class LayerUnit(Target):
    """A part of what one layer puts out, made a number per image."""

    layer: str  # dotted name

    @property
    def read_layer(self) -> str:
        return self.layer

    @property
    def kind(self) -> Any:
        return "unit", self.layer

    def __call__(self, outputs: Any) -> PerImage:
        if not isinstance(outputs, LayerOutput) or outputs.layer != self.layer:
            raise InvalidInput(
                f"{self!r} scores what layer {self.layer!r} puts out, not what the model returns: ask for it by the "
                "words of the model, such as model.score(x, target)."
            )
        return self.response(outputs.maps)

    def tile(self, times: int) -> "Target":
        return self

    def notes(self, outputs: Any) -> list[TargetNote]:
        return [(note, None) for note in outputs.notes]

    @abstractmethod
    def response(self, maps: LayerMaps) -> PerImage:
        """How strongly the unit responds, from the layer's channels on its grid; differentiable.

        maps: (b, d, *cells); without cells, (b, d), for a layer that has no grid.
        """


@dataclass(frozen=True)
class Unit(LayerUnit):
    """One channel of a layer (Erhan et al., 2009, "Visualizing higher-layer features of a deep network")."""

    layer: str  # dotted name
    channel: int
    position: Position = None  # a cell of the grid, "centre", or None for the mean over the grid

    def __post_init__(self) -> None:
        if not isinstance(self.channel, int) or isinstance(self.channel, bool) or self.channel < 0:
            raise InvalidInput(f"channel={self.channel!r} is no index of a channel: give a whole number from 0.")

    def response(self, maps: LayerMaps) -> PerImage:
        channels = maps.shape[1]
        if self.channel >= channels:
            raise InvalidInput(
                f"Layer {self.layer!r} has no channel {self.channel}: it has {channels}, 0 to {channels - 1}."
            )
        return _at(maps[:, self.channel], self)


@dataclass(frozen=True)
class Direction(LayerUnit):
    """A direction among the channels of a layer: their sum, weighted by a vector that is taken as it is given."""

    layer: str  # dotted name
    vector: Any  # a number per channel: a tensor, an array or a sequence; kept as a tuple
    position: Position = None  # as for Unit

    def __post_init__(self) -> None:
        object.__setattr__(self, "vector", _numbers(self.vector))

    def response(self, maps: LayerMaps) -> PerImage:
        if len(self.vector) != maps.shape[1]:
            raise InvalidInput(
                f"The direction has {len(self.vector)} numbers, and layer {self.layer!r} has {maps.shape[1]} channels: "
                "give a number for each channel."
            )
        return _at(torch.einsum("bd...,d->b...", maps, maps.new_tensor(self.vector)), self)

    def __repr__(self) -> str:
        shown = ", ".join(f"{number:.3g}" for number in self.vector[:3])
        more = f", ... {len(self.vector)} numbers" if len(self.vector) > 3 else ""
        place = "" if self.position is None else f", position={self.position!r}"
        return f"Direction(layer={self.layer!r}, vector=({shown}{more}){place})"


def _numbers(vector: Any) -> tuple[float, ...]:
    try:
        numbers = torch.as_tensor(vector).detach().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"The vector of a direction must be numbers, one per channel, got {vector!r}.") from error
    if numbers.ndim != 1 or not len(numbers) or not bool(numbers.isfinite().all()):
        raise InvalidInput(
            f"The vector of a direction must be finite numbers of shape (channels,), got shape {tuple(numbers.shape)}."
        )
    return tuple(numbers.tolist())


def _at(values: Tensor, unit: Unit | Direction) -> PerImage:
    """The values (b, *cells) at the unit's position, or their mean."""
    cells = tuple(values.shape[1:])
    if unit.position is None:
        return values.reshape(len(values), -1).mean(1)
    place: Any = tuple(side // 2 for side in cells) if unit.position == "centre" else unit.position
    if not cells:
        raise InvalidInput(f"Layer {unit.layer!r} has no grid: leave position={unit.position!r} out.")
    if not _is_cell(place, cells):
        grid = "x".join(map(str, cells))
        raise InvalidInput(
            f"position={unit.position!r} is no cell of layer {unit.layer!r}, whose grid is {grid}: give an index from "
            'zero along each axis, or "centre".'
        )
    return values[(slice(None), *place)]


def _is_cell(place: Any, cells: Sequence[int]) -> bool:
    if not isinstance(place, tuple) or len(place) != len(cells):
        return False
    return all(isinstance(at, int) and 0 <= at < side for at, side in zip(place, cells, strict=True))
