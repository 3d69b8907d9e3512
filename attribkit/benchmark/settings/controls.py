"""Controls that are no methods of anybody's: methods all the same, so that metrics may run them again."""

import zlib
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from attribkit.benchmark.statistics.roles import RANDOM, TRUTH
from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.options import Seed
from attribkit.core.shapes import Images, Masks, Scores
from attribkit.core.targets.target import Target


@dataclass(frozen=True)
class Inverted(Method):
    """The negative of another method's map."""

    name: ClassVar[str] = "inverted"
    source: ClassVar[str] = "a control"

    method: Method

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return -self.method(model, x, target)


@dataclass(frozen=True)
class OwnNoise(Method):
    """Uniform noise, another for each image: the largest value of one noise for all would be one lucky place."""

    name: ClassVar[str] = RANDOM
    source: ClassVar[str] = "a control"

    seed: Seed = 0
    ids: tuple[str, ...] = field(default=(), repr=False)  # of the images

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return torch.stack([self._noise(name, x) for name in self.ids[: len(x)]])

    def _noise(self, name: str, x: Images) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
        return torch.rand(1, *x.shape[2:], generator=generator, dtype=torch.float32, device="cpu").to(x)


@dataclass(frozen=True, eq=False)
class TruthAsMap(Method):
    """The mask of the object, whatever the model and the pixels."""

    name: ClassVar[str] = TRUTH
    source: ClassVar[str] = "a control"

    mask: Masks = field(repr=False)

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return self.mask[:, None].to(x)
