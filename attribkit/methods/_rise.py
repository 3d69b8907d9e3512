"""RISE: random masks, averaged with the scores of the masked images as weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit._contracts.method import Method
from attribkit._core.axes import INTERPOLATION_MODES, PerAxis, capped_sizes, format_sizes, per_axis
from attribkit._core.options import OpenFraction, PositiveInt, Seed
from attribkit._core.shapes import Images, Scores
from attribkit._display.progress import track
from attribkit._engine.model import HookedModel
from attribkit._targets.binary import with_binary_score
from attribkit._targets.target import Target
from attribkit.methods._flat_scores import note_flat_scores

_BLOCK = 64  # masks in memory at a time
_CELLS = 8  # along each axis
_MIN_CELL = 4  # pixels of a grid cell along an axis of clips and volumes, where the number of cells is chosen


@dataclass(frozen=True)
class RISE(Method):
    """Mean of random masks M, each weighted by the score of the masked image: sum(f(x * M) * M) / (N p).

    The score is the probability of the target's class, as in the paper; targets other than the logit of a class keep
    their own score. A mask is a coarse random grid of cells, enlarged linearly and shifted at random. All images of a
    batch get the same masks.

    Args:
        masks: Number of masks N; each costs one forward.
        cells: Grid cells of a mask along each axis, one number for all axes or one for each; None means 8, and cells of
            at least 4 pixels along each axis of clips and volumes.
        probability: Probability p that a cell is kept.
        seed: Seed of the masks.
    """

    name: ClassVar[str] = "rise"
    display_name: ClassVar[str] = "RISE"
    source: ClassVar[str] = "Petsiuk et al., BMVC 2018, eq. 6"

    masks: PositiveInt = 4000
    cells: PerAxis | None = None
    probability: OpenFraction = 0.5
    seed: Seed = 0

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        self._note_cells(model, tuple(x.shape[2:]))
        probability = with_binary_score(model.resolve(target), "probability")
        dtype = torch.promote_types(x.dtype, torch.float32)
        total = torch.zeros(len(x), 1, *x.shape[2:], dtype=dtype, device=x.device)
        extremes = []
        for block in self._blocks(x.to(dtype)):
            scores = model.scores((x * mask.to(x.dtype) for mask in block), probability)  # (k, b)
            extremes.append(torch.stack(scores.aminmax(dim=0)))
            total += torch.einsum("kb,k...->b...", scores, block)
        note_flat_scores(model, x, torch.cat(extremes))
        return total / (self.masks * self.probability)

    def _cells(self, space: Sequence[int]) -> tuple[int, ...]:
        """Return the number of grid cells along each axis."""
        return capped_sizes(_CELLS, _MIN_CELL, space) if self.cells is None else per_axis("cells", self.cells, space)

    def _note_cells(self, model: HookedModel, space: tuple[int, ...]) -> None:
        """Note cells that were chosen automatically, and axes with more cells than pixels."""
        cells = self._cells(space)
        if len(space) > 2 and self.cells is None:
            model.note(f"cells={cells} were chosen for {format_sizes(space)} pixels")
        if any(side < count for side, count in zip(space, cells, strict=True)):
            grid = f"{cells[0]} cells along every axis" if len(set(cells)) == 1 else f"{format_sizes(cells)} cells"
            model.note(f"images of {format_sizes(space)} pixels are too small for {grid}")

    def _blocks(self, x: Images) -> Iterator[Tensor]:
        """Yield masks (k, 1, *space) of values 0 to 1: coarse random grids, enlarged linearly and shifted at random."""
        generator = torch.Generator().manual_seed(self.seed)
        for start in track(range(0, self.masks, _BLOCK), "blocks of masks"):
            count = min(_BLOCK, self.masks - start)
            yield torch.stack([self._mask(x.shape[2:], generator) for _ in range(count)]).to(x)

    def _mask(self, space: torch.Size, generator: torch.Generator) -> Tensor:
        cells = self._cells(space)
        cell_size = [-(-side // count) for side, count in zip(space, cells, strict=True)]  # pixels, rounded up
        noise = torch.rand(1, 1, *cells, generator=generator, dtype=torch.float32, device="cpu")
        grid = (noise < self.probability).float()
        size = [(count + 1) * each for count, each in zip(cells, cell_size, strict=True)]
        mask = F.interpolate(grid, size, mode=INTERPOLATION_MODES[len(space)], align_corners=False)[0]
        for axis, (side, max_shift) in enumerate(zip(space, cell_size, strict=True), start=1):
            mask = mask.narrow(axis, int(torch.randint(max_shift, (), generator=generator, device="cpu")), side)
        return mask
