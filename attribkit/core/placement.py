"""Where the grids of the layers that were read lie on the images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from attribkit.core.errors import UnsupportedModel
from attribkit.core.layouts import Extent, Layout

_Grid = tuple[int, ...]


@dataclass
class Extents:
    """The extents of layers, by the names that they were asked for by; None is the default one."""

    by_layer: dict[str | None, list[tuple[_Grid, Extent | None]]] = field(default_factory=dict)

    def keep(self, layer: str | None, layout: Layout) -> None:
        """Remember where a layer's grid lies."""
        own = self.by_layer.setdefault(layer, [])
        if (layout.grid, layout.extent) not in own:
            own.append((layout.grid, layout.extent))

    def add(self, others: "Extents", layers: Iterable[str | None]) -> None:
        """Remember those of some layers as well."""
        for layer in layers:
            own = self.by_layer.setdefault(layer, [])
            own.extend(each for each in others.by_layer.get(layer, []) if each not in own)

    def of(self, layer: str | None, grid: Sequence[int] | None = None) -> Extent | None:
        """Where a layer's grid lies; None is all over the images, and for scores on another grid than its own.

        Raises UnsupportedModel where it lies elsewhere for one image than for another.
        """
        own = self.by_layer.get(layer, [])
        extents = list(dict.fromkeys(extent for cells, extent in own if grid is None or tuple(grid) == cells))
        if len(extents) > 1:
            raise UnsupportedModel(
                f"The cells of the layer lie at different parts of these images ({extents[0]} and {extents[1]}): "
                "explain one image at a time."
            )
        return extents[0] if extents else None
