"""RISE."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit.contracts.method import Method
from attribkit.core.axes import LINEAR, PerAxis, capped_sizes, format_sizes, per_axis
from attribkit.core.options import OpenFraction, PositiveInt, Seed
from attribkit.core.progress import track
from attribkit.core.shapes import Images, Scores
from attribkit.engine.model import HookedModel
from attribkit.methods.flat_scores import note_flat_scores
from attribkit.targets.binary import with_binary_score
from attribkit.targets.target import Target

_BLOCK = 64  # masks that are held at a time
_CELLS = 8  # along each axis
_LEAST = 4  # pixels of a cell along an axis of clips and volumes


@dataclass(frozen=True)
class RISE(Method):
    """Random masks, averaged by the score of the image seen through each.

    The score is the probability of the target's class, as in the paper; a target that is no class's logit is asked as
    it is. Every image is seen through the same masks, drawn from the seed.
    """

    name: ClassVar[str] = "rise"
    source: ClassVar[str] = "Petsiuk et al., BMVC 2018, eq. 6"

    masks: PositiveInt = 4000  # N, one forward each
    cells: PerAxis | None = None  # s, of a mask along each axis; None is 8, of clips and volumes of 4 pixels at least
    probability: OpenFraction = 0.5  # p, that a cell is seen
    seed: Seed = 0

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        self._note_cells(model, tuple(x.shape[2:]))
        asked = with_binary_score(model.resolve(target), "probability")
        exact = torch.promote_types(x.dtype, torch.float32)
        total = torch.zeros(len(x), 1, *x.shape[2:], dtype=exact, device=x.device)
        extremes = []
        for block in self._blocks(x.to(exact)):
            scores = model.scores((x * mask.to(x.dtype) for mask in block), asked)  # (k, b)
            extremes.append(torch.stack(scores.aminmax(dim=0)))
            total += torch.einsum("kb,k...->b...", scores, block)
        note_flat_scores(model, x, torch.cat(extremes))
        return total / (self.masks * self.probability)

    def _cells(self, space: Sequence[int]) -> tuple[int, ...]:
        """Cells of a mask along each axis."""
        return capped_sizes(_CELLS, _LEAST, space) if self.cells is None else per_axis("cells", self.cells, space)

    def _note_cells(self, model: HookedModel, space: tuple[int, ...]) -> None:
        """Tell what was chosen, and axes that are shorter than their cells are many."""
        cells = self._cells(space)
        if len(space) > 2 and self.cells is None:
            model.note(f"cells={cells} were chosen for {format_sizes(space)} pixels")
        if any(side < count for side, count in zip(space, cells, strict=True)):
            told = f"{cells[0]} cells along every axis" if len(set(cells)) == 1 else f"{format_sizes(cells)} cells"
            model.note(f"images of {format_sizes(space)} pixels have no {told}")

    def _blocks(self, x: Images) -> Iterator[Tensor]:
        """Masks (k, 1, *space) of values 0 to 1: coarse grids of cells, enlarged linearly and shifted at random."""
        random = torch.Generator().manual_seed(self.seed)
        for start in track(range(0, self.masks, _BLOCK), "blocks of masks"):
            count = min(_BLOCK, self.masks - start)
            yield torch.stack([self._mask(x.shape[2:], random) for _ in range(count)]).to(x)

    def _mask(self, space: torch.Size, random: torch.Generator) -> Tensor:
        cells = self._cells(space)
        cell = [-(-side // count) for side, count in zip(space, cells, strict=True)]  # pixels, rounded up
        grid = (
            torch.rand(1, 1, *cells, generator=random, dtype=torch.float32, device="cpu") < self.probability
        ).float()
        size = [(count + 1) * each for count, each in zip(cells, cell, strict=True)]
        mask = F.interpolate(grid, size, mode=LINEAR[len(space)], align_corners=False)[0]
        for axis, (side, most) in enumerate(zip(space, cell, strict=True), start=1):
            mask = mask.narrow(axis, int(torch.randint(most, (), generator=random, device="cpu")), side)
        return mask
