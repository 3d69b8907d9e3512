"""The plan of a benchmark: its units of work, one for each model, method and shard, and the control methods.

The controls are methods, because some metrics run the method of a map again.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from attribkit import registry
from attribkit._contracts.method import Method
from attribkit._contracts.metric import Metric
from attribkit._core.errors import InvalidInput
from attribkit._core.options import Seed
from attribkit._core.shapes import Images, Masks, Scores
from attribkit._display.representations import short_repr
from attribkit._engine.model import HookedModel
from attribkit._targets.target import Target
from attribkit.benchmark._settings.configuration import Configuration
from attribkit.benchmark._statistics.summary import CONTROLS, RANDOM, TRUTH


@dataclass(frozen=True)
class Inverted(Method):
    """The negative of another method's map.

    Args:
        method: The other method.
    """

    name: ClassVar[str] = "inverted"
    source: ClassVar[str] = "a control"

    method: Method

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return -self.method(model, x, target)


@dataclass(frozen=True)
class PerImageNoise(Method):
    """Uniform noise that depends on the image's id.

    With the same noise for all images, the score would depend on one position, that of its maximum.

    Args:
        seed: Seed of the noise.
        ids: The ids of the images.
    """

    name: ClassVar[str] = RANDOM
    source: ClassVar[str] = "a control"

    seed: Seed = 0
    ids: tuple[str, ...] = field(default=(), repr=False)

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return torch.stack([self._noise(name, x) for name in self.ids[: len(x)]])

    def _noise(self, name: str, x: Images) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
        return torch.rand(1, *x.shape[2:], generator=generator, dtype=torch.float32, device="cpu").to(x)


@dataclass(frozen=True, eq=False)
class GroundTruthMap(Method):
    """The mask of the object; it does not depend on the model or the pixels.

    Args:
        mask: The masks of the images.
    """

    name: ClassVar[str] = TRUTH
    source: ClassVar[str] = "a control"

    mask: Masks = field(repr=False)

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return self.mask[:, None].to(x)


@dataclass(frozen=True, order=True)
class WorkUnit:
    """The smallest part of a benchmark that is computed, saved and repeated as a whole.

    Args:
        model: Label of the model.
        method: Label of the method.
        shard: Number of the shard of images.
    """

    model: str
    method: str
    shard: int


@dataclass(frozen=True)
class ShardTask:
    """The units of one model and shard; its images are prepared once for all of them.

    Args:
        model: Label of the model.
        shard: Number of the shard.
        images: Indices of the images in the data set.
        methods: Labels of the methods that are missing.
    """

    model: str
    shard: int
    images: range
    methods: tuple[str, ...]

    @property
    def units(self) -> list[WorkUnit]:
        """The units, one for each method."""
        return [WorkUnit(self.model, method, self.shard) for method in self.methods]


@dataclass(frozen=True)
class Plan:
    """The models, methods, metrics and shards of a benchmark.

    Args:
        models: Labels of the models.
        methods: Methods and controls by label; None stands for the ground-truth mask.
        metrics: Metrics by label.
        images: Number of images.
        shard_size: Number of images in a shard.
    """

    models: tuple[str, ...]
    methods: Mapping[str, Method | None]
    metrics: Mapping[str, Metric]
    images: int
    shard_size: int

    __repr__ = short_repr

    def units(self) -> Iterator[WorkUnit]:
        """Iterate over all units, by model, method and shard."""
        return (WorkUnit(*each) for each in product(self.models, self.methods, range(len(self._shards()))))

    def tasks(self, missing: Iterable[WorkUnit]) -> list[ShardTask]:
        """Group the missing units by model and shard."""
        wanted = set(missing)
        tasks = (
            ShardTask(
                model, shard, images, tuple(each for each in self.methods if WorkUnit(model, each, shard) in wanted)
            )
            for model in self.models
            for shard, images in enumerate(self._shards())
        )
        return [task for task in tasks if task.methods]

    def _shards(self) -> list[range]:
        starts = range(0, self.images, self.shard_size)
        return [range(start, min(start + self.shard_size, self.images)) for start in starts]


def make_plan(configuration: Configuration, images: int) -> Plan:
    """Make the plan of a configuration.

    Args:
        configuration: The configuration.
        images: Number of images in the data set.

    Returns:
        The plan.

    Raises:
        InvalidInput: If there are not any images.
    """
    if images < 1:
        raise InvalidInput(f"The data set {configuration.data.name!r} is empty. Check data.options.")
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
    return PerImageNoise() if name == RANDOM else registry.make(name, Method)
