"""Which cells are removed together: drawn once, the same for every image."""

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from attribkit.core.errors import InvalidInput

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
        return torch.eye(cells, dtype=torch.bool)


@dataclass(frozen=True)
class OfSize(Subsets):
    """Subsets of a fixed number of cells: all of them where there are no more than asked for, else random ones."""

    size: int
    count: int

    def __post_init__(self) -> None:
        if not _is_whole(self.size, 1):
            raise InvalidInput(f"Subsets of {self.size!r} cells: choose whole sizes from 1.")
        check_count(self.count)

    def __call__(self, cells: int, seed: int) -> Subset:
        if self.size > cells:
            raise InvalidInput(f"Subsets of {self.size} of {cells} cells: choose sizes from 1 to {cells}.")
        if math.comb(cells, self.size) <= self.count:
            chosen = torch.tensor(list(itertools.combinations(range(cells), self.size)))
        else:
            # The size is part of the seed, lest the subsets of one size lie in those of the next.
            generator = torch.Generator().manual_seed(1_000_003 * seed + self.size)
            chosen = torch.rand(self.count, cells, generator=generator).topk(self.size).indices
        return torch.zeros(len(chosen), cells, dtype=torch.bool).scatter(1, chosen, True)


@dataclass(frozen=True)
class Independent(Subsets):
    """Subsets that each cell is in with the same probability, whatever the others are."""

    share: float
    count: int

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InvalidInput(f"share={self.share} of the cells must be between 0 and 1.")
        check_count(self.count)

    def __call__(self, cells: int, seed: int) -> Subset:
        return torch.rand(self.count, cells, generator=torch.Generator().manual_seed(seed)) < self.share


def check_count(count: int) -> None:
    """Refuse a number of perturbed versions from which nothing can be told."""
    if not _is_whole(count, 2):
        raise InvalidInput(f"{count!r} perturbed versions tell nothing: ask for a whole number of them, at least 2.")


def _is_whole(number: Any, least: int) -> bool:
    return isinstance(number, Integral) and int(number) >= least
