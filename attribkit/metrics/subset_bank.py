"""[metrics/banks/cells] Pixels that are removed together.
[metrics/banks/subsets] Which cells are removed together: drawn once, the same for every image.
[metrics/banks/bank] Perturbed versions of the images, and what the model says of them.
[metrics/banks/on_bank] What the metrics on banks have in common: their options, and how they ask.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attribkit.contracts.attribution import Attribution
from attribkit.contracts.metric import Faithfulness
from attribkit.core.axes import PerAxis, format_sizes, per_axis
from attribkit.core.errors import InvalidInput
from attribkit.core.options import Seed
from attribkit.core.shapes import Heatmaps, Images
from attribkit.core.substrates import Filling, GivenImages, filling
from attribkit.core.tensors import Fingerprinted
from attribkit.engine.model import HookedModel
from attribkit.metrics.correlation import Correlation, pearson_correlation, spearman_correlation
from attribkit.metrics.scores import scored_target
from attribkit.targets.binary import BinaryScore
from attribkit.targets.target import Target


@dataclass(frozen=True, eq=False, repr=False)
class GivenCells(Fingerprinted):
    """Cells that a user chose, as an option of a metric; kept on the CPU, where they are counted."""

    tensor: Int[Tensor, "*space"]  # the number of each pixel's cell, from 0, none left out; the same for every image

    def __post_init__(self) -> None:
        labels = self.tensor
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise InvalidInput(f"cells={labels.dtype} must be whole numbers, one for each pixel.")
        known = labels.unique()
        if known.tolist() != list(range(len(known))):
            raise InvalidInput(f"cells are numbered from 0 and none is left out; these are {known.tolist()[:12]}.")
        object.__setattr__(self, "tensor", labels.cpu().long())


CellSize = PerAxis | GivenCells | None  # so many along each axis, at most its pixels; given ones; None is single pixels
ResolvedCells = tuple[int, ...] | GivenCells  # what they are for images of one space: equal where they mean the same


@dataclass(frozen=True, eq=False)
class Partition:
    """The cells of the images that are being explained."""

    labels: Int[Tensor, "*space"]  # the number of each pixel's cell, from 0
    count: int

    def sums(self, heatmaps: Heatmaps) -> Float[Tensor, "b n"]:
        """What a map holds in each cell, in double."""
        values = heatmaps.flatten(1).double()
        return values.new_zeros(len(values), self.count).index_add(1, self.labels.flatten(), values)


def resolve_cells(cells: CellSize, space: tuple[int, ...]) -> ResolvedCells:
    """The cells of images of this space; raises InvalidInput where they do not fit."""
    if isinstance(cells, GivenCells):
        if cells.tensor.shape != space:
            given = format_sizes(cells.tensor.shape)
            raise InvalidInput(f"cells are {given} labels for {format_sizes(space)} pixels: give one for each.")
        return cells
    counts = space if cells is None else per_axis("cells", cells, space)
    return tuple(map(min, space, counts))


def partition(model: HookedModel, x: Images, cells: ResolvedCells) -> Partition:
    """The cells on the device of the images; made once for all metrics that share them."""

    def made() -> Partition:
        labels, count = labels_of(cells, tuple(x.shape[2:]))
        return Partition(labels.to(x.device), count)

    return model.cached(("cells", cells), made)


def labels_of(cells: ResolvedCells, space: tuple[int, ...]) -> tuple[Int[Tensor, "*space"], int]:
    """The number of each pixel's cell, from 0, and how many there are; on the CPU, so that no device is waited for."""
    if isinstance(cells, GivenCells):
        return cells.tensor, int(cells.tensor.max()) + 1
    labels = torch.zeros(space, dtype=torch.long, device="cpu")
    for axis, (side, count) in enumerate(zip(space, cells, strict=True)):
        along = torch.arange(side, device="cpu") * count // side
        labels = labels * count + along[(..., *(None,) * (len(space) - axis - 1))]
    return labels, math.prod(cells)


SubsetCount = Annotated[int, Ge(2)]  # perturbed versions; from one alone nothing can be told
Subset = Bool[Tensor, "k n"]  # a row for each perturbed version, True on the cells that it lacks


class Subsets(ABC):
    """A way of drawing subsets of cells; frozen, so that equal ones are asked of the model once."""

    @abstractmethod
    def __call__(self, cells: int, seed: int) -> Subset:
        """Subsets of so many cells, on the CPU."""


@dataclass(frozen=True)
class Single(Subsets):
    """Each cell alone."""

    def __call__(self, cells: int, seed: int) -> Subset:
        return torch.eye(cells, dtype=torch.bool, device="cpu")


@dataclass(frozen=True)
class OfSize(Subsets):
    """Subsets of a fixed number of cells: all of them where there are no more than asked for, else random ones."""

    size: int
    count: int

    def __call__(self, cells: int, seed: int) -> Subset:
        if self.size > cells:
            raise InvalidInput(f"Subsets of {self.size} of {cells} cells: choose sizes from 1 to {cells}.")
        if math.comb(cells, self.size) <= self.count:
            chosen = torch.tensor(list(itertools.combinations(range(cells), self.size)), device="cpu")
        else:
            # The size is part of the seed, lest the subsets of one size lie in those of the next.
            generator = torch.Generator().manual_seed((1_000_003 * seed + self.size) % 2**63)
            chosen = (
                torch.rand(self.count, cells, generator=generator, dtype=torch.float32, device="cpu")
                .topk(self.size)
                .indices
            )
        return torch.zeros(len(chosen), cells, dtype=torch.bool, device="cpu").scatter(1, chosen, True)


@dataclass(frozen=True)
class Independent(Subsets):
    """Subsets that each cell is in with the same probability, whatever the others are."""

    share: float
    count: int

    def __call__(self, cells: int, seed: int) -> Subset:
        return (
            torch.rand(
                self.count, cells, generator=torch.Generator().manual_seed(seed), dtype=torch.float32, device="cpu"
            )
            < self.share
        )


_AT_ONCE = 2**24  # entries of the masks that are multiplied by maps together


@dataclass(frozen=True, eq=False)
class SubsetScores:
    """What a bank's masks remove, and what the model then says."""

    removed: Bool[Tensor, "k n"]  # cells
    scores: Float[Tensor, "k b"]

    def sums(self, cells: Float[Tensor, "m b n"]) -> Float[Tensor, "m b k"]:
        """What each of m maps holds in the removed cells, by what it holds in each cell."""
        parts = self.removed.split(max(1, _AT_ONCE // self.removed.shape[1]))
        return torch.cat([cells @ part.to(cells).mT for part in parts], -1)


@dataclass(frozen=True)
class Bank:
    """Versions of the images that lack some of their cells, the same of every image.

    A bank does not know the maps: the model is asked once for all maps and all metrics whose banks are equal.
    """

    subsets: Subsets
    cells: ResolvedCells
    substrate: Any  # whatever `filling` takes
    seed: int

    def answered(self, model: HookedModel, x: Images, target: Target) -> SubsetScores:
        """The target's score of each version, asked at most once for these images."""
        return model.cached((self, target), lambda: self._answered(model, x, target))

    def _answered(self, model: HookedModel, x: Images, target: Target) -> SubsetScores:
        cells = partition(model, x, self.cells)
        removed = self.subsets(cells.count, self.seed).to(x.device)
        without = filling(x, self.substrate, self.seed)
        versions = (without(each[cells.labels][None, None]) for each in removed)
        return SubsetScores(removed, model.scores(versions, target, len(removed)))


CORRELATIONS = {"pearson": pearson_correlation, "spearman": spearman_correlation}


@dataclass(frozen=True, kw_only=True)
class SubsetMetric(Faithfulness):
    """Compares what a map holds in cells of the image with what the model loses without them."""

    cells: CellSize | Tensor = 14
    substrate: Filling = "zero"
    score: BinaryScore = "logit"
    seed: Seed = 0  # of the subsets, and of noise

    @abstractmethod
    def removals(self, cells: int) -> tuple[Subsets, ...]:
        """What is removed of so many cells, a bank for each; raises InvalidInput for options that make no sense."""

    def __post_init__(self) -> None:
        if isinstance(self.cells, Tensor):
            object.__setattr__(self, "cells", GivenCells(self.cells))
        if isinstance(self.substrate, Tensor):
            object.__setattr__(self, "substrate", GivenImages(self.substrate))

    def asked(self, attribution: Attribution) -> Target:
        """What the model is asked about the perturbed images."""
        return scored_target(attribution, self.score)

    def answered(self, model: HookedModel, attribution: Attribution) -> list[SubsetScores]:
        """What the model says of the images without their cells, for each bank."""
        x, target, cells = attribution.x, self.asked(attribution), self._cells(attribution)
        removals = self.removals(partition(model, x, cells).count)
        return [Bank(each, cells, self.substrate, self.seed).answered(model, x, target) for each in removals]

    def held(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b n"]:
        """What the maps hold in each cell, in double; summed once for all banks and metrics with the same cells."""
        return torch.stack([self._held(model, each) for each in attributions])

    def correlations(
        self, model: HookedModel, attributions: Sequence[Attribution], kind: Correlation
    ) -> Float[Tensor, "m b banks"]:
        """How what the maps hold in the removed cells goes with what the model loses, for each bank."""
        held, found = self.held(model, attributions), []
        for answered in self.answered(model, attributions[0]):
            sums = answered.sums(held).to(attributions[0].scores.dtype)  # whose precision tells what is rounding
            # What is left falls as what is lost grows; taken as it is, it tells rounding from a loss.
            correlation = CORRELATIONS[kind](sums, -answered.scores.mT.expand_as(sums))
            found.append(correlation.to(answered.scores.dtype))
        return torch.stack(found, -1)

    def _cells(self, attribution: Attribution) -> ResolvedCells:
        return resolve_cells(self.cells, tuple(attribution.x.shape[2:]))  # type: ignore[arg-type]

    def _held(self, model: HookedModel, attribution: Attribution) -> Float[Tensor, "b n"]:
        cells = self._cells(attribution)

        def summed() -> Tensor:
            return partition(model, attribution.x, cells).sums(self.heatmap(attribution))

        return model.cached(("cell sums", attribution, self.reduce, cells), summed)
