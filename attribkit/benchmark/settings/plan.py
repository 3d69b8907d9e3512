"""[benchmark/settings/controls] Controls that are no methods of anybody's: methods all the same, so that metrics may run them again.
[benchmark/settings/plan] What there is to do: a map and its numbers for each model, method and shard of images.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from attribkit import registry
from attribkit.benchmark.settings.configuration import Configuration
from attribkit.benchmark.statistics.summary import CONTROLS, RANDOM, TRUTH
from attribkit.contracts.method import Method
from attribkit.contracts.metric import Metric
from attribkit.core.errors import InvalidInput
from attribkit.core.options import Seed
from attribkit.core.shapes import Images, Masks, Scores
from attribkit.engine.model import HookedModel
from attribkit.targets.target import Target


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


@dataclass(frozen=True, order=True)
class WorkUnit:
    """What is done, stored and repeated as a whole."""

    model: str  # as tables call it
    method: str
    shard: int


@dataclass(frozen=True)
class Group:
    """The units that share a model and its images, so that those are prepared once."""

    model: str
    shard: int
    images: range  # places in the data set
    methods: tuple[str, ...]  # that are still to be done

    @property
    def units(self) -> list[WorkUnit]:
        """One for each method."""
        return [WorkUnit(self.model, method, self.shard) for method in self.methods]


@dataclass(frozen=True)
class Plan:
    """The methods, controls among them, the metrics and the shards."""

    models: tuple[str, ...]
    methods: Mapping[str, Method | None]  # by what tables call them; None: the mask is the map
    metrics: Mapping[str, Metric]
    images: int
    shard_size: int

    def units(self) -> Iterator[WorkUnit]:
        """Everything, in the order of the tables."""
        return (WorkUnit(*each) for each in product(self.models, self.methods, range(len(self._shards()))))

    def groups(self, missing: Iterable[WorkUnit]) -> list[Group]:
        """What is missing, shard by shard of each model."""
        wanted = set(missing)
        groups = (
            Group(model, shard, images, tuple(each for each in self.methods if WorkUnit(model, each, shard) in wanted))
            for model in self.models
            for shard, images in enumerate(self._shards())
        )
        return [group for group in groups if group.methods]

    def _shards(self) -> list[range]:
        starts = range(0, self.images, self.shard_size)
        return [range(start, min(start + self.shard_size, self.images)) for start in starts]


def make_plan(configuration: Configuration, images: int) -> Plan:
    """The plan for data of so many images."""
    if images < 1:
        raise InvalidInput(f"The data {configuration.data.kind!r} have no images: look at their options.")
    images = min(images, configuration.data.limit or images)
    methods: dict[str, Method | None] = {each.title: each.make() for each in configuration.methods}
    if configuration.oracle and configuration.oracle not in methods:
        methods[configuration.oracle] = registry.make(configuration.oracle, Method)
    if configuration.controls:
        methods = {**methods, **{name: _control(name) for name in CONTROLS if name not in methods}}
        methods[TRUTH] = None
    metrics = {each.title: each.make() for each in configuration.metrics}
    models = tuple(each.title for each in configuration.models)
    return Plan(models, methods, metrics, images, configuration.shard_size)


def _control(name: str) -> Method:
    return OwnNoise() if name == RANDOM else registry.make(name, Method)
