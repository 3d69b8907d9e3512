"""Ranks of scores, and what is done about equal ones."""

from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attribkit.core.shapes import PerImage

# Which of equal units comes first: by a seeded order that all maps and images share; the first in memory, as a stable
# sort has it; the last in memory, as a stable sort that is then reversed has it.
Ties = Literal["random", "first", "last"]


def ranked(scores: Float[Tensor, "b units"], ties: Ties, seed: int = 0) -> tuple[Int[Tensor, "b units"], PerImage]:
    """Each unit's rank by decreasing score, from 0, and the share of units that another one of the image equals."""
    units = scores.shape[1]
    places = _places(units, ties, seed, scores.device)
    sorted_scores = (scores + 0)[:, places].sort(dim=1, descending=True, stable=True)  # + 0: no -0, which is 0
    numbers = torch.arange(units, dtype=torch.int32, device=scores.device).expand_as(scores)
    ranks = torch.empty_like(numbers).scatter_(1, places[sorted_scores.indices], numbers)
    return ranks, _share_of_equal(sorted_scores.values)


@lru_cache(maxsize=4)
def _places(units: int, ties: Ties, seed: int, device: torch.device) -> Tensor:
    """The order in which equal units come; the random one is the CPU's, so that every device has the same."""
    with torch.inference_mode(False):  # those who come later may be elsewhere
        if ties == "random":
            return torch.randperm(units, generator=torch.Generator().manual_seed(seed), device="cpu").to(device)
        return torch.arange(units, device=device) if ties == "first" else torch.arange(units, device=device).flip(0)


def _share_of_equal(sorted_scores: Tensor) -> PerImage:
    equal = sorted_scores[:, 1:] == sorted_scores[:, :-1]
    alone = equal.new_zeros(len(equal), 1)
    tied = torch.cat([alone, equal], 1) | torch.cat([equal, alone], 1)
    return tied.sum(1) / tied.shape[1]
