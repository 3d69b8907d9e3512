"""Occlusion."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from attribkit.core.errors import InvalidInput
from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, Scores
from attribkit.core.targets import Target
from attribkit.methods.substrates import Substrate, substrate


@dataclass(frozen=True)
class Occlusion(Method):
    """How much the score falls when a patch is covered, averaged over the patches that cover a pixel."""

    name: ClassVar[str] = "occlusion"
    source: ClassVar[str] = "Zeiler and Fergus, ECCV 2014, sec. 4.2"

    patch: int = 32  # pixels, along every axis
    stride: int = 16  # pixels
    baseline: Substrate = "zero"

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        windows = list(self._windows(tuple(x.shape[2:])))
        cover = substrate(x, self.baseline)
        falls = model.score(x, target) - model.scores((_covered(x, cover, w) for w in windows), target)  # (k, b)
        total, count = x.new_zeros(len(x), 1, *x.shape[2:], dtype=falls.dtype), torch.zeros_like(x[:1, :1])
        for window, fall in zip(windows, falls, strict=True):
            total[window] += fall[(...,) + (None,) * (x.ndim - 1)]
            count[window] += 1
        return total / count.clamp(min=1)

    def _windows(self, space: tuple[int, ...]) -> Iterator[Any]:
        """Indices of the patches; the last along each axis is cut off at the border."""
        if not 1 <= self.stride <= self.patch:
            raise InvalidInput(f"stride={self.stride} must be from 1 to patch={self.patch}, to leave no pixel out.")
        axes = [range(math.ceil(max(side - self.patch, 0) / self.stride) + 1) for side in space]
        for steps in itertools.product(*axes):
            yield (..., *(slice(self.stride * i, self.stride * i + self.patch) for i in steps))


def _covered(x: Images, cover: Images, window: Any) -> Images:
    covered = x.clone()
    covered[window] = cover[window]
    return covered
