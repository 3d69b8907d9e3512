"""[metrics/sanity/random_weights] Copies of a model with random weights.
[metrics/sanity/similarity] How alike two maps of an image are.
[metrics/sanity/class_randomisation] Randomisation of the class.
[metrics/sanity/parameter_randomisation] Randomisation of the model's parameters.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from attribkit.contracts.attribution import Attribution
from attribkit.contracts.metric import Robustness
from attribkit.core.errors import InvalidInput, UnsupportedModel
from attribkit.core.options import PositiveInt, Seed
from attribkit.core.pictures import extremes
from attribkit.core.progress import track
from attribkit.core.shapes import Heatmaps, Images, PerImage
from attribkit.engine.model import HookedModel
from attribkit.metrics.correlation import pearson_correlation, spearman_correlation
from attribkit.metrics.scores import recompute
from attribkit.state.hooks import observe_modules
from attribkit.targets.binary import Binary
from attribkit.targets.class_outputs import Returned, read_scores, resolve_labels
from attribkit.targets.logits import ClassLogit, Counterfactual, Probability


def stages_of(model: HookedModel, x: Images, most: int | None) -> list[list[str]]:
    """The names of all that a model has learnt, in the groups and the order in which a cascade makes them random.

    A group has the tensors of a module; groups go from the output to the input, in the order in which modules finish
    last in a forward of the first image. A module that does not run itself goes with the one that holds it. What the
    model holds itself comes last, since that is where tokens and positions are. most: groups that follow each other
    are joined to no more than so many, of numbers of modules as equal as can be; None is a group for each module.
    """
    ended = _last_ends(model, x)
    tensors = dict(_named_tensors(model.module))
    places = {name: _place(name.rpartition(".")[0], ended) for name in tensors}
    first: dict[int, str] = {}  # of several names of one tensor the one nearest to the output
    for name, tensor in sorted(tensors.items(), key=lambda each: -places[each[0]]):
        first.setdefault(id(tensor), name)
    groups_of_names = (list(names) for _, names in groupby(first.values(), places.__getitem__))
    modules = [names for names in groups_of_names if any(_says_something(tensors[name]) for name in names)]
    groups = np.array_split(np.arange(len(modules)), min(most or len(modules), len(modules)) or 1)
    return [[name for i in group for name in modules[i]] for group in groups]


class RandomCopy:
    """A copy of a model, of which any part can be made random, and what it was again; the model is not touched.

    Tensors of several axes become normal noise around zero with their own root mean square. Those of one axis, such as
    biases and the weights and statistics of normalisation, get their own values in another order: noise could turn
    signs there, and let variances vanish.
    """

    def __init__(self, model: HookedModel, seed: int) -> None:
        self.model = model.with_module(_copied(model.module))
        self.seed = seed
        self._own = dict(_named_tensors(model.module))
        self._mine = dict(_named_tensors(self.model.module))
        self._number = {name: i for i, name in enumerate(self._own)}
        if not any(_says_something(tensor) for tensor in self._own.values()):
            raise UnsupportedModel(
                f"The tensors of {type(model.module).__name__} are constant, and stay what they are when they are made "
                "random: is the model untrained?"
            )

    def randomise(self, names: Sequence[str], draw: int = 0) -> None:
        """Make tensors random; each has numbers of its own, and others in another draw."""
        for name in names:
            self._write(name, _random_like(self._own[name], _generator(self.seed, draw, self._number[name])))

    def restore(self, names: Sequence[str]) -> None:
        """Make tensors what they are in the model."""
        for name in names:
            self._write(name, self._own[name])

    def _write(self, name: str, values: Tensor) -> None:
        with torch.no_grad():
            self._mine[name].copy_(values)


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter, and the buffers beside running statistics; a shared one under each of its names."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter.is_floating_point():
            yield name, parameter
    modules = dict(module.named_modules(remove_duplicate=False))
    for name, buffer in module.named_buffers(remove_duplicate=False):
        if buffer.is_floating_point() and getattr(modules[name.rpartition(".")[0]], "running_var", None) is not None:
            yield name, buffer


def _last_ends(model: HookedModel, x: Images) -> dict[str, int]:
    """The place of each module that runs, by when it last finishes; the model itself comes before all."""
    names: list[str] = []
    with torch.no_grad(), observe_modules(model.module, lambda name, _module, _output: names.append(name)):
        model.subset(slice(0, 1))(x[:1])
    return {"": -1} | {name: place for place, name in enumerate(names)}


def _place(module: str, ended: dict[str, int]) -> int:
    while module not in ended:
        module = module.rpartition(".")[0]
    return ended[module]


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise UnsupportedModel(
            f"{type(module).__name__} cannot be copied ({type(error).__name__}: {error}), and its own weights are not "
            "to be touched: let copy.deepcopy(model) work, or leave this metric out."
        ) from error


def _says_something(tensor: Tensor) -> bool:
    """Whether it changes when it is made random."""
    return bool((tensor != 0).any()) if tensor.ndim > 1 else bool((tensor != tensor.flatten()[:1]).any())


def _random_like(own: Tensor, random: torch.Generator) -> Tensor:
    if own.ndim < 2:
        return own.flatten()[torch.randperm(own.numel(), generator=random, device="cpu").to(own.device)].reshape(
            own.shape
        )
    scale = own.double().square().mean().sqrt()
    return torch.randn(own.shape, generator=random, dtype=torch.float32, device="cpu").to(own.device) * scale


def _generator(*key: Any) -> torch.Generator:
    """Random numbers that no other key has; on the CPU, so that every device gets the same."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


SimilarityMeasure = Literal["spearman", "cosine", "ssim", "hog"]

_CELL, _BLOCK = 16, 3  # pixels of a cell and cells of a block, of histograms of gradients
_WINDOW = 11  # pixels, of structural similarity: a Gaussian of 1.5, cut off at 3.5 of these


def similarity(kind: SimilarityMeasure, first: Heatmaps, second: Heatmaps) -> PerImage:
    """1 where two maps are the same, in float64; NaN where they cannot be compared, as constant ones.

    "spearman": the correlation of the pixels' ranks. "cosine": of their values. "ssim": structural similarity (Wang et
    al., IEEE TIP 2004) of the maps stretched to 0..1; on the CPU. "hog": the correlation of histograms of oriented
    gradients (Dalal and Triggs, CVPR 2005) of the stretched maps, of images alone; on the CPU.
    """
    if kind == "spearman":
        return spearman_correlation(first.flatten(1), second.flatten(1))
    if kind == "cosine":
        return _cosine(first.flatten(1).double(), second.flatten(1).double())
    if kind == "ssim":
        return _structural(first, second)
    return pearson_correlation(_histograms(first), _histograms(second))


def _cosine(first: Float[Tensor, "b n"], second: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Exactly 1 of equal vectors; NaN of one that is zero."""
    return (first * second).sum(1) / (first.square().sum(1) * second.square().sum(1)).sqrt()


def _structural(first: Heatmaps, second: Heatmaps) -> PerImage:
    if min(first.shape[1:]) < _WINDOW:
        raise InvalidInput(
            f"similarity='ssim' looks at windows of {_WINDOW} pixels, more than maps {_told(first)} have."
        )
    pairs = zip(*(_stretched(each).cpu().numpy() for each in (first, second)), strict=True)
    found = [_structural_of(*pair) for pair in pairs]
    return torch.tensor(found, dtype=torch.float64, device=first.device)


def _structural_of(first: np.ndarray, second: np.ndarray) -> float:
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    return float(structural_similarity(first, second, **options))


def _stretched(maps: Heatmaps) -> Heatmaps:
    """From 0 to 1 in float64; NaN of a constant map."""
    low, high = extremes(maps.double())
    return (maps - low) / (high - low)


def _histograms(maps: Heatmaps) -> Float[Tensor, "b n"]:
    if maps.ndim != 3 or min(maps.shape[1:]) < _CELL * _BLOCK:
        raise InvalidInput(
            f"similarity='hog' takes maps of images from {_CELL * _BLOCK} pixels along each axis, got {_told(maps)}: "
            "use 'spearman' or 'ssim'."
        )
    options = {"pixels_per_cell": (_CELL, _CELL), "cells_per_block": (_BLOCK, _BLOCK)}
    found = [hog(each, **options) for each in _stretched(maps).cpu().numpy()]
    return torch.from_numpy(np.stack(found)).to(maps.device)


def _told(maps: Heatmaps) -> str:
    return str(tuple(maps.shape[1:]))


ClassTarget = ClassLogit | Probability | Counterfactual | Binary


@dataclass(frozen=True)
class ClassRandomisation(Robustness):
    """How much the heatmap resembles that of another class; a method that reads what is asked is far off 1.

    The other class depends on the target and the seed alone; of a model with one output it is the other side. The
    details tell a floor, (b,): how much the heatmaps of two such classes resemble each other; NaN where the model has
    no third.
    """

    name: ClassVar[str] = "class_randomisation"
    source: ClassVar[str] = "Sixt et al., ICML 2020, random logit test"
    higher_is_better: ClassVar[bool | None] = None

    similarity: SimilarityMeasure = "spearman"
    magnitudes: bool = False  # whether the sign of the heatmaps is dropped first
    seed: Seed = 0

    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        own = self._read(self.heatmap(attribution))
        return similarity(self.similarity, own, self._map_of(model, attribution, 0))

    def details(self, model: HookedModel, attribution: Attribution) -> Mapping[str, Tensor]:
        x = attribution.x
        if _classes(model, x) < 3:
            return {"floor": torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)}
        return {"floor": similarity(self.similarity, *(self._map_of(model, attribution, i) for i in range(2)))}

    def _map_of(self, model: HookedModel, attribution: Attribution, which: int) -> Heatmaps:
        """The heatmap of the first or the second other class; asked once."""

        def make() -> Heatmaps:
            other = self._other(attribution.target, model, attribution.x, which)
            return self._read(recompute(self, model, attribution, target=other))

        return model.cached((self, attribution, which), make)

    def _other(self, target: object, model: HookedModel, x: Images, which: int) -> ClassTarget:
        """The same question about another class."""
        if not isinstance(target, ClassTarget):
            raise InvalidInput(f"{self.name!r} asks about another class, and {target!r} is of none: explain a class.")
        classes, index = _classes(model, x), resolve_labels(target.index, model.spec.labels)
        if classes == 1:
            return _other_side(target)

        def other(index: int) -> int:
            steps = 1 + np.random.default_rng((self.seed, index)).permutation(classes - 1)
            return int(index + steps[which]) % classes

        return replace(target, index=tuple(map(other, index)) if isinstance(index, tuple) else other(index))

    def _read(self, heatmap: Heatmaps) -> Heatmaps:
        return heatmap.abs() if self.magnitudes else heatmap


def _other_side(target: ClassTarget) -> ClassTarget:
    """The same question about the other side of a single output."""
    if isinstance(target, Binary):
        sides = target.index if isinstance(target.index, tuple) else (target.index,)
        return replace(target, index=tuple(1 - each for each in sides) if target.count else 1 - sides[0])
    if isinstance(target, Probability):
        return Binary(0, "probability")
    return ClassLogit(target.index) if isinstance(target, Counterfactual) else Counterfactual(target.index)


def _classes(model: HookedModel, x: Images) -> int:
    """How many class scores the model has."""

    def count() -> int:
        with torch.no_grad():
            return int(read_scores(Returned(model.subset(slice(0, 1))(x[:1]), 1)).scores.shape[1])

    return model.cached("classes", count)


RandomisationOrder = Literal["cascading", "independent"]
Value = Literal["last", "mean"]


class _Found(NamedTuple):
    similarity: Float[Tensor, "b stages"]
    floor: PerImage


@dataclass(frozen=True)
class ParameterRandomisation(Robustness):
    """How much the heatmap resembles that of the same model with random weights; a method that reads them is far off 1.

    The details tell the similarity at each stage, (b, stages), and a floor, (b,): the similarity of the heatmaps of two
    models that are random throughout in two ways, below which nothing is to be expected.
    """

    name: ClassVar[str] = "parameter_randomisation"
    source: ClassVar[str] = "Adebayo et al., NeurIPS 2018, model parameter randomisation test"
    higher_is_better: ClassVar[bool | None] = None

    order: RandomisationOrder = "cascading"  # from the output down; or one stage at a time, the others as they are
    value: Value | None = None  # similarity at the last stage, or its mean; None: the last of a cascade, else the mean
    stages: PositiveInt | None = (
        10  # at most so many groups of modules, of a cascade and of its details; None: every module
    )
    similarity: SimilarityMeasure = "spearman"
    magnitudes: bool = False  # whether the sign of the heatmaps is dropped first
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.order == "independent" and self.value == "last":
            raise InvalidInput("value='last' of order='independent' is one layer at the input: write value='mean'.")

    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        found = self._found(model, attribution).similarity
        last = self.value == "last" or (self.value is None and self.order == "cascading")
        return found[:, -1] if last else found.mean(1)

    def details(self, model: HookedModel, attribution: Attribution) -> Mapping[str, Tensor]:
        return self._found(model, attribution)._asdict()

    def _found(self, model: HookedModel, attribution: Attribution) -> _Found:
        return model.cached((self, attribution), lambda: self._compared(model, attribution))

    def _compared(self, model: HookedModel, attribution: Attribution) -> _Found:
        key = ("stages", self.stages)
        stages = model.cached(key, lambda: stages_of(model, attribution.x, self.stages))
        changed, own, found = RandomCopy(model, self.seed), self._read(self.heatmap(attribution)), []
        for names in track(stages, "stages", len(stages)):
            changed.randomise(names)
            heatmap = self._map_of(changed, attribution)
            found.append(similarity(self.similarity, own, heatmap))
            if self.order == "independent":
                changed.restore(names)
        throughout = [heatmap] if self.order == "cascading" else []  # whose last stage is random throughout
        for draw in range(len(throughout), 2):
            changed.randomise(list(chain(*stages)), draw)
            throughout.append(self._map_of(changed, attribution))
        return _Found(torch.stack(found, 1), similarity(self.similarity, *throughout))

    def _map_of(self, changed: RandomCopy, attribution: Attribution) -> Heatmaps:
        return self._read(recompute(self, changed.model, attribution))

    def _read(self, heatmap: Heatmaps) -> Heatmaps:
        return heatmap.abs() if self.magnitudes else heatmap
