"""Targets within a layer: a channel, or a direction in the space of its channels."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from attribkit._core.errors import InvalidInput
from attribkit._core.shapes import LayerMaps, PerImage
from attribkit._targets.outputs import LayerOutput
from attribkit._targets.target import Target, TargetNote

Position = tuple[int, ...] | Literal["centre"] | None  # a grid cell of the layer; None means the mean over the grid


class LayerUnit(Target):
    """Base class for targets that score the output of one layer.

    Attributes:
        layer: Dotted name of the layer.
    """

    layer: str

    @property
    def read_layer(self) -> str:
        return self.layer

    @property
    def kind(self) -> Any:
        return "unit", self.layer

    def __call__(self, outputs: Any) -> PerImage:
        if not isinstance(outputs, LayerOutput) or outputs.layer != self.layer:
            raise InvalidInput(
                f"{self!r} scores the output of layer {self.layer!r}, not the outputs of the model. Compute it with "
                "the model interface, such as model.score(x, target)."
            )
        return self.response(outputs.maps)

    def tile(self, times: int) -> "Target":
        return self

    def notes(self, outputs: Any) -> list[TargetNote]:
        return [(note, None) for note in outputs.notes]

    @abstractmethod
    def response(self, maps: LayerMaps) -> PerImage:
        """Compute the response of the unit; differentiable.

        Args:
            maps: Channels of the layer on its grid, (b, d, *cells); (b, d) for a layer without a spatial grid.

        Returns:
            One response per image, (b,).
        """


@dataclass(frozen=True)
class Unit(LayerUnit):
    """A channel of a layer.

    Args:
        layer: Dotted name of the layer.
        channel: Index of the channel.
        position: Index of a grid cell, "centre", or None for the mean over the grid.

    Raises:
        InvalidInput: `channel` is not an integer >= 0.

    Reference:
        Erhan et al., 2009, "Visualizing higher-layer features of a deep network".

    Example:
        >>> explainer.attribute(x, "saliency", target=Unit("layer3", 12)).scores.shape
        torch.Size([2, 1, 128, 128])
        >>> explainer.attribute(x, "saliency", target=Unit("layer3", 12, "centre")).target
        Unit(layer='layer3', channel=12, position='centre')
    """

    layer: str
    channel: int
    position: Position = None

    def __post_init__(self) -> None:
        if not isinstance(self.channel, int) or isinstance(self.channel, bool) or self.channel < 0:
            raise InvalidInput(f"channel must be an integer >= 0, got {self.channel!r}.")

    def response(self, maps: LayerMaps) -> PerImage:
        channels = maps.shape[1]
        if self.channel >= channels:
            raise InvalidInput(
                f"channel={self.channel} is out of range: layer {self.layer!r} has {channels} channels, 0 to "
                f"{channels - 1}."
            )
        return _at(maps[:, self.channel], self)


@dataclass(frozen=True)
class Direction(LayerUnit):
    """A direction in the space of a layer's channels: the dot product of the channels with a vector.

    Args:
        layer: Dotted name of the layer.
        vector: One number per channel, as a tensor, array or sequence; used without normalisation, stored as a tuple.
        position: Index of a grid cell, "centre", or None for the mean over the grid.

    Raises:
        InvalidInput: The vector does not consist of finite numbers.

    Example:
        >>> vector = torch.ones(64) / 64
        >>> explainer.attribute(x, "saliency", target=Direction("layer3", vector)).scores.shape
        torch.Size([2, 1, 128, 128])
    """

    layer: str
    vector: Any
    position: Position = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "vector", _as_vector(self.vector))

    def response(self, maps: LayerMaps) -> PerImage:
        if len(self.vector) != maps.shape[1]:
            raise InvalidInput(
                f"The vector of a direction must have one number per channel of layer {self.layer!r}, {maps.shape[1]}, "
                f"got {len(self.vector)}."
            )
        return _at(torch.einsum("bd...,d->b...", maps, maps.new_tensor(self.vector)), self)

    def __repr__(self) -> str:
        shown = ", ".join(f"{number:.3g}" for number in self.vector[:3])
        more = f", ... {len(self.vector)} numbers" if len(self.vector) > 3 else ""
        position = "" if self.position is None else f", position={self.position!r}"
        return f"Direction(layer={self.layer!r}, vector=({shown}{more}){position})"


def _as_vector(vector: Any) -> tuple[float, ...]:
    try:
        numbers = torch.as_tensor(vector).detach().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"The vector of a direction must hold one number per channel, got {vector!r}.") from error
    if numbers.ndim != 1 or not len(numbers) or not bool(numbers.isfinite().all()):
        raise InvalidInput(
            "The vector of a direction must hold finite numbers and have shape (channels,), got shape "
            f"{tuple(numbers.shape)}."
        )
    return tuple(numbers.tolist())


def _at(values: Tensor, unit: Unit | Direction) -> PerImage:
    """Return the values, (b, *cells), at the position of the unit, or their mean."""
    cells = tuple(values.shape[1:])
    if unit.position is None:
        return values.reshape(len(values), -1).mean(1)
    cell: Any = tuple(side // 2 for side in cells) if unit.position == "centre" else unit.position
    if not cells:
        raise InvalidInput(f"Layer {unit.layer!r} does not have a spatial grid. Omit position={unit.position!r}.")
    if not _is_cell(cell, cells):
        grid = "x".join(map(str, cells))
        raise InvalidInput(
            f'position must be "centre" or an index from 0 along each axis of the {grid} grid of layer {unit.layer!r}, '
            f"got {unit.position!r}."
        )
    return values[(slice(None), *cell)]


def _is_cell(cell: Any, cells: Sequence[int]) -> bool:
    if not isinstance(cell, tuple) or len(cell) != len(cells):
        return False
    return all(isinstance(index, int) and 0 <= index < side for index, side in zip(cell, cells, strict=True))
