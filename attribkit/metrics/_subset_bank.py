"""Banks of perturbed images without subsets of their grid cells, whose scores all maps and metrics share.

A grid cell is a set of pixels that are removed together. The subsets depend on neither the maps nor the images.
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

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.metric import Faithfulness
from attribkit._core.axes import PerAxis, format_sizes, per_axis
from attribkit._core.errors import InvalidInput
from attribkit._core.options import Seed
from attribkit._core.shapes import Heatmaps, Images
from attribkit._core.substrates import Filling, GivenImages, make_filling
from attribkit._core.tensors import Fingerprinted
from attribkit._engine.model import HookedModel
from attribkit._targets.binary import BinaryScore
from attribkit._targets.target import Target
from attribkit.metrics._correlation import Correlation, pearson_correlation, spearman_correlation
from attribkit.metrics._scores import scored_target


@dataclass(frozen=True, eq=False, repr=False)
class GivenCells(Fingerprinted):
    """Grid cells given as a label for each pixel, as an option of a metric; kept on the CPU.

    Args:
        tensor: The number of each pixel's cell, from 0 and without gaps; the same for every image.
    """

    tensor: Int[Tensor, "*space"]

    def __post_init__(self) -> None:
        labels = self.tensor
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise InvalidInput(f"cells must be a tensor of integers, one label for each pixel, got {labels.dtype}.")
        numbers = labels.unique()
        if numbers.tolist() != list(range(len(numbers))):
            raise InvalidInput(f"cells must be numbered from 0 without gaps, got {numbers.tolist()[:12]}.")
        object.__setattr__(self, "tensor", labels.cpu().long())


CellLayout = PerAxis | GivenCells | None  # cells along each axis, or labels; None makes each pixel a cell
ResolvedCells = tuple[int, ...] | GivenCells  # the layout for images of one size: equal for equal cells


@dataclass(frozen=True, eq=False)
class Partition:
    """Partition of the pixels into grid cells: the number of each pixel's cell, from 0, and the number of cells."""

    labels: Int[Tensor, "*space"]
    count: int

    def sums(self, heatmaps: Heatmaps) -> Float[Tensor, "b n"]:
        """Sum each map over each cell, in float64."""
        values = heatmaps.flatten(1).double()
        return values.new_zeros(len(values), self.count).index_add(1, self.labels.flatten(), values)


def resolve_cells(cells: CellLayout, space: tuple[int, ...]) -> ResolvedCells:
    """Return the layout of the cells for this image size; raise InvalidInput if it does not fit."""
    if isinstance(cells, GivenCells):
        if cells.tensor.shape != space:
            shape = format_sizes(cells.tensor.shape)
            raise InvalidInput(f"cells must have one label for each of the {format_sizes(space)} pixels, got {shape}.")
        return cells
    counts = space if cells is None else per_axis("cells", cells, space)
    return tuple(map(min, space, counts))


def cached_partition(model: HookedModel, x: Images, cells: ResolvedCells) -> Partition:
    """Return the partition on the device of the images, made once for all metrics that share it."""

    def make() -> Partition:
        labels, count = cell_labels(cells, tuple(x.shape[2:]))
        return Partition(labels.to(x.device), count)

    return model.cached(("cells", cells), make)


def cell_labels(cells: ResolvedCells, space: tuple[int, ...]) -> tuple[Int[Tensor, "*space"], int]:
    """Return the number of each pixel's cell, from 0, and the number of cells; on the CPU, without synchronisation."""
    if isinstance(cells, GivenCells):
        return cells.tensor, int(cells.tensor.max()) + 1
    labels = torch.zeros(space, dtype=torch.long, device="cpu")
    for axis, (side, count) in enumerate(zip(space, cells, strict=True)):
        along = torch.arange(side, device="cpu") * count // side
        labels = labels * count + along[(..., *(None,) * (len(space) - axis - 1))]
    return labels, math.prod(cells)


SubsetCount = Annotated[int, Ge(2)]  # a correlation needs at least two versions
Subset = Bool[Tensor, "k n"]  # a row for each perturbed version, True on its removed cells


class Subsets(ABC):
    """Rule that draws subsets of cells; subclasses are frozen dataclasses, so equal banks share their scores."""

    @abstractmethod
    def __call__(self, cells: int, seed: int) -> Subset:
        """Draw the subsets of a number of cells, on the CPU."""


@dataclass(frozen=True)
class Single(Subsets):
    """Subsets of one cell, one for each cell."""

    def __call__(self, cells: int, seed: int) -> Subset:
        return torch.eye(cells, dtype=torch.bool, device="cpu")


@dataclass(frozen=True)
class OfSize(Subsets):
    """Random subsets of `size` cells; all such subsets if there are at most `count`."""

    size: int
    count: int

    def __call__(self, cells: int, seed: int) -> Subset:
        if self.size > cells:
            raise InvalidInput(
                f"Subset size {self.size} is larger than the {cells} cells: use sizes from 1 to {cells}."
            )
        if math.comb(cells, self.size) <= self.count:
            chosen = torch.tensor(list(itertools.combinations(range(cells), self.size)), device="cpu")
        else:
            # The size is part of the seed: otherwise the subsets of one size would contain those of the size below.
            generator = torch.Generator().manual_seed((1_000_003 * seed + self.size) % 2**63)
            values = torch.rand(self.count, cells, generator=generator, dtype=torch.float32, device="cpu")
            chosen = values.topk(self.size).indices
        return torch.zeros(len(chosen), cells, dtype=torch.bool, device="cpu").scatter(1, chosen, True)


@dataclass(frozen=True)
class Independent(Subsets):
    """Random subsets that contain each cell with the same probability, independently of the other cells."""

    probability: float
    count: int

    def __call__(self, cells: int, seed: int) -> Subset:
        generator = torch.Generator().manual_seed(seed)
        values = torch.rand(self.count, cells, generator=generator, dtype=torch.float32, device="cpu")
        return values < self.probability


_MAX_MASK_ENTRIES = 2**24  # mask entries that are multiplied by maps at a time


@dataclass(frozen=True, eq=False)
class SubsetScores:
    """Removed cells of each perturbed version, and the scores of the images without them."""

    removed: Bool[Tensor, "k n"]
    scores: Float[Tensor, "k b"]

    def sums(self, cells: Float[Tensor, "m b n"]) -> Float[Tensor, "m b k"]:
        """Sum each of m maps over the removed cells, given its sum in each cell."""
        parts = self.removed.split(max(1, _MAX_MASK_ENTRIES // self.removed.shape[1]))
        return torch.cat([cells @ part.to(cells).mT for part in parts], -1)


@dataclass(frozen=True)
class Bank:
    """Perturbed versions of the images, each without a subset of its cells, the same for every image.

    The substrate is anything that `attribkit._core.substrates.make_filling` accepts.
    """

    subsets: Subsets
    cells: ResolvedCells
    substrate: Any
    seed: int

    def evaluate(self, model: HookedModel, x: Images, target: Target) -> SubsetScores:
        """Return the target's score of each version, computed once for all maps and metrics with equal banks."""
        return model.cached((self, target), lambda: self._evaluate(model, x, target))

    def _evaluate(self, model: HookedModel, x: Images, target: Target) -> SubsetScores:
        cells = cached_partition(model, x, self.cells)
        removed = self.subsets(cells.count, self.seed).to(x.device)
        without = make_filling(x, self.substrate, self.seed)
        versions = (without(each[cells.labels][None, None]) for each in removed)
        return SubsetScores(removed, model.scores(versions, target, len(removed)))


CORRELATIONS = {"pearson": pearson_correlation, "spearman": spearman_correlation}


@dataclass(frozen=True, kw_only=True)
class SubsetMetric(Faithfulness):
    """Base class for metrics that compare a map's sums over grid cells with the drop in the score without the cells.

    Args:
        cells: Grid cells along each axis, one number for all axes or one for each, at most the number of pixels; or a
            tensor with the index of each pixel's cell; None makes each pixel a cell.
        substrate: What replaces removed cells: a substrate by name, "inpaint", a blur, images, or an imputer.
        score: The target class's "probability" or "logit"; targets other than a class keep their own score.
        seed: Seed of the subsets, and of the substrates "noise" and "uniform".
    """

    cells: CellLayout | Tensor = 14
    substrate: Filling = "zero"
    score: BinaryScore = "logit"
    seed: Seed = 0

    @abstractmethod
    def removals(self, cells: int) -> tuple[Subsets, ...]:
        """Return the rules that draw the subsets, one for each bank; raise InvalidInput for impossible options."""

    def __post_init__(self) -> None:
        if isinstance(self.cells, Tensor):
            object.__setattr__(self, "cells", GivenCells(self.cells))
        if isinstance(self.substrate, Tensor):
            object.__setattr__(self, "substrate", GivenImages(self.substrate))

    def target(self, attribution: Attribution) -> Target:
        """Return the target whose score is computed for the perturbed images."""
        return scored_target(attribution, self.score)

    def subset_scores(self, model: HookedModel, attribution: Attribution) -> list[SubsetScores]:
        """Return the scores of the perturbed images, for each bank."""
        x, target, cells = attribution.x, self.target(attribution), self._cells(attribution)
        removals = self.removals(cached_partition(model, x, cells).count)
        return [Bank(each, cells, self.substrate, self.seed).evaluate(model, x, target) for each in removals]

    def cell_sums(self, model: HookedModel, attributions: Sequence[Attribution]) -> Float[Tensor, "m b n"]:
        """Sum the maps over each cell, in float64, once for all banks and metrics with equal cells."""
        return torch.stack([self._cell_sums(model, each) for each in attributions])

    def correlations(
        self, model: HookedModel, attributions: Sequence[Attribution], kind: Correlation
    ) -> Float[Tensor, "m b banks"]:
        """Correlate the maps' sums over the removed cells with the drop in the score, for each bank."""
        cell_sums, correlations = self.cell_sums(model, attributions), []
        for results in self.subset_scores(model, attributions[0]):
            sums = results.sums(cell_sums).to(attributions[0].scores.dtype)  # its rounding decides what is constant
            # The negative score has the same correlation as the drop, and keeps the magnitude of the rounding error.
            correlation = CORRELATIONS[kind](sums, -results.scores.mT.expand_as(sums))
            correlations.append(correlation.to(results.scores.dtype))
        return torch.stack(correlations, -1)

    def _cells(self, attribution: Attribution) -> ResolvedCells:
        return resolve_cells(self.cells, tuple(attribution.x.shape[2:]))  # type: ignore[arg-type]

    def _cell_sums(self, model: HookedModel, attribution: Attribution) -> Float[Tensor, "b n"]:
        cells = self._cells(attribution)

        def compute() -> Tensor:
            return cached_partition(model, attribution.x, cells).sums(self.heatmap(attribution))

        return model.cached(("cell sums", attribution, self.reduce, cells), compute)
