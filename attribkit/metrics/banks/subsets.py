"""Which cells are removed together: drawn once, the same for every image."""

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Bool
from torch import Tensor

from attribkit.core.errors import InvalidInput

Several = Annotated[int, Ge(2)]  # perturbed versions; from one alone nothing can be told
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
