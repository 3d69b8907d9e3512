"""A class in a region of a segmentation."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit.core.broadcast import beside
from attribkit.core.devices import sent
from attribkit.core.errors import InvalidInput
from attribkit.core.fingerprint import fingerprint
from attribkit.core.shapes import Masks, PerImage
from attribkit.core.targets.classes import Classes, Labels, indices, one_count, plain
from attribkit.core.targets.outputs import class_maps, has_one_map, picked, precise
from attribkit.core.targets.target import Remark, Target


@dataclass(frozen=True, eq=False)
class Region(Target):
    """A class in a region of a segmentation: the sum of its logits there (Vinogradova et al., AAAI 2020).

    The mask has the size of the images or of the model's output; a coarser output counts each of its cells by the share
    that the mask covers.
    """

    index: Classes
    mask: Masks | None = None  # (b, *space), or (1, *space) for all images; None is where the class is predicted
    space: tuple[int, ...] | None = None  # size of the explained images; None until they are known

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", plain(self.index))
        wrong = self.mask is not None and not (isinstance(self.mask, Tensor) and self.mask.dtype == torch.bool)
        if wrong:
            got = self.mask.dtype if isinstance(self.mask, Tensor) else type(self.mask).__name__
            raise InvalidInput(f"The mask of a Region is a torch.bool tensor (b, *space), got {got}; try mask > 0.")

    @property
    def count(self) -> int | None:
        return one_count(self, self.index, tuple(self.mask) if self.mask is not None and len(self.mask) > 1 else None)

    @property
    def layer_key(self) -> Hashable:
        return "region"  # the choice does not depend on where it lies

    @property
    def is_local(self) -> bool:
        return True

    @property
    def is_open(self) -> bool:
        return self.mask is None

    def __call__(self, outputs: Any) -> PerImage:
        maps = class_maps(outputs)
        own = precise(picked(maps, self.index)) * (2 if has_one_map(outputs) else 1)
        return (own * self._weights(maps).to(own)).flatten(1).sum(1)

    def evidence(self, outputs: Any) -> list[Tensor]:
        return list(self._predicted(class_maps(outputs)))

    def settled(self, evidence: Sequence[Tensor]) -> "Target":
        return replace(self, mask=torch.stack(list(evidence)))

    def part(self, images: slice) -> "Target":
        return self._mapped(lambda several: several[images])

    def repeated(self, times: int) -> "Target":
        return self._mapped(lambda several: several * times if isinstance(several, tuple) else _tiled(several, times))

    def with_indices(self, labels: Labels) -> "Target":
        return replace(self, index=indices(self.index, labels))

    def prepared(self, images: Tensor, embed: Callable[[Tensor, Target], Tensor]) -> "Target":
        return replace(self, space=tuple(images.shape[2:]))

    def remarks(self, outputs: Any) -> list[Remark]:
        covered = self._weights(class_maps(outputs)).flatten(1).sum(1)
        return [("the region is empty: the class is predicted nowhere, or the mask covers nothing", covered == 0)]

    def __repr__(self) -> str:
        if self.mask is None:
            return f"Region(index={self.index!r})"
        return f"Region(index={self.index!r}, mask=({fingerprint(self.mask)}, {int(self.mask.sum())} cells))"

    def _weights(self, maps: Tensor) -> Tensor:
        """How much each cell of the output counts, (b, *cells)."""
        if self.mask is None:
            return self._predicted(maps)
        cells, space = tuple(maps.shape[2:]), tuple(self.mask.shape[1:])
        if cells != space and (len(cells) != len(space) or self.space not in (None, space)):
            raise InvalidInput(
                f"The mask {tuple(self.mask.shape)} has neither the size of the images nor of the model's output, "
                f"{'x'.join(map(str, cells))}: give one (b, *space)."
            )
        mask = self.mask.to(maps.device).expand(len(maps), *space)
        return mask if cells == space else F.interpolate(mask[:, None].float(), cells, mode="area")[:, 0]

    def _predicted(self, maps: Tensor) -> Tensor:
        """Where the class is the one with the highest score, (b, *cells)."""
        own = sent(self.index, maps.device).expand(len(maps))
        return maps.detach().argmax(1) == beside(own, maps[:, 0])

    def _mapped(self, change: Callable[[Any], Any]) -> "Region":
        index = change(self.index) if isinstance(self.index, tuple) else self.index
        shared = self.mask is None or len(self.mask) == 1
        return replace(self, index=index, mask=self.mask if shared else change(self.mask))


def _tiled(mask: Tensor, times: int) -> Tensor:
    return mask.repeat(times, *(1,) * (mask.ndim - 1))
