"""Sanity checks: how similar a map stays when the model's parameters are randomised, or the class is changed."""

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

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.metric import Robustness
from attribkit._core.errors import InvalidInput, UnsupportedModel
from attribkit._core.options import PositiveInt, Seed
from attribkit._core.pictures import extremes
from attribkit._core.shapes import Heatmaps, Images, PerImage
from attribkit._display.progress import track
from attribkit._engine.evaluation import deep_copy
from attribkit._engine.model import HookedModel
from attribkit._state.hooks import observe_modules
from attribkit._targets.binary import Binary
from attribkit._targets.class_outputs import Returned, read_scores, resolve_labels
from attribkit._targets.logits import ClassLogit, Counterfactual, Probability
from attribkit.metrics._correlation import pearson_correlation, spearman_correlation
from attribkit.metrics._scores import recompute


def randomisation_stages(model: HookedModel, x: Images, max_stages: int | None) -> list[list[str]]:
    """Group the names of a model's parameters and buffers into the stages of a cascade, from the output to the input.

    A group has the tensors of one module; groups are ordered by when the modules last finish in a forward of the first
    image. Tensors of a module that does not run go with the module that contains it. Those of the model itself, such as
    tokens and position embeddings, come last. Neighbouring groups are joined into at most `max_stages` stages of about
    equally many modules; None keeps one stage for each module.
    """
    completions = _completion_order(model, x)
    tensors = dict(_named_tensors(model.module))
    order = {name: _completion_index(name.rpartition(".")[0], completions) for name in tensors}
    unique: dict[int, str] = {}  # a shared tensor has its name nearest to the output
    for name, tensor in sorted(tensors.items(), key=lambda item: -order[item[0]]):
        unique.setdefault(id(tensor), name)
    groups_of_names = (list(names) for _, names in groupby(unique.values(), order.__getitem__))
    modules = [names for names in groups_of_names if any(_is_randomisable(tensors[name]) for name in names)]
    groups = np.array_split(np.arange(len(modules)), min(max_stages or len(modules), len(modules)) or 1)
    return [[name for i in group for name in modules[i]] for group in groups]


class RandomCopy:
    """Copy of a model whose tensors can be randomised and restored; the model itself is not changed.

    Tensors with several axes become normal noise with mean zero and their root mean square. Tensors with one axis, such
    as biases and the weights and statistics of normalisation, are permuted: noise could flip their signs, or produce
    vanishing variances.
    """

    def __init__(self, model: HookedModel, seed: int) -> None:
        self.model = model.with_module(deep_copy(model.module))
        self.seed = seed
        self._original = dict(_named_tensors(model.module))
        self._copy = dict(_named_tensors(self.model.module))
        self._number = {name: i for i, name in enumerate(self._original)}
        if not any(_is_randomisable(tensor) for tensor in self._original.values()):
            raise UnsupportedModel(
                f"All tensors of {type(model.module).__name__} are constant, so randomising them has no effect: check "
                "that the model is trained."
            )

    def randomise(self, names: Sequence[str], draw: int = 0) -> None:
        """Randomise tensors; each tensor and each draw has independent random numbers."""
        for name in names:
            self._write(name, _random_like(self._original[name], _generator(self.seed, draw, self._number[name])))

    def restore(self, names: Sequence[str]) -> None:
        """Reset tensors to their values in the original model."""
        for name in names:
            self._write(name, self._original[name])

    def _write(self, name: str, values: Tensor) -> None:
        with torch.no_grad():
            self._copy[name].copy_(values)


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters, and buffers of modules with running statistics; a shared one under each of its names."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter.is_floating_point():
            yield name, parameter
    modules = dict(module.named_modules(remove_duplicate=False))
    for name, buffer in module.named_buffers(remove_duplicate=False):
        if buffer.is_floating_point() and getattr(modules[name.rpartition(".")[0]], "running_var", None) is not None:
            yield name, buffer


def _completion_order(model: HookedModel, x: Images) -> dict[str, int]:
    """Return the index of each module that runs in the order in which they last finish; -1 for the model itself."""
    names: list[str] = []
    with torch.no_grad(), observe_modules(model.module, lambda name, _module, _output: names.append(name)):
        model.subset(slice(0, 1))(x[:1])
    return {"": -1} | {name: i for i, name in enumerate(names)}


def _completion_index(module: str, completions: dict[str, int]) -> int:
    while module not in completions:
        module = module.rpartition(".")[0]
    return completions[module]


def _is_randomisable(tensor: Tensor) -> bool:
    """Return whether randomisation changes the tensor."""
    return bool((tensor != 0).any()) if tensor.ndim > 1 else bool((tensor != tensor.flatten()[:1]).any())


def _random_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if tensor.ndim < 2:
        order = torch.randperm(tensor.numel(), generator=generator, device="cpu").to(tensor.device)
        return tensor.flatten()[order].reshape(tensor.shape)
    scale = tensor.double().square().mean().sqrt()
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float32, device="cpu").to(tensor.device) * scale


def _generator(*key: Any) -> torch.Generator:
    """Return a CPU generator whose seed is derived from the key."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


SimilarityMeasure = Literal["spearman", "cosine", "ssim", "hog"]

_CELL, _BLOCK = 16, 3  # pixels of a cell and cells of a block, of the histograms of oriented gradients
_WINDOW = 11  # pixels of structural similarity's window: a Gaussian with sigma 1.5, cut off at 3.5 sigma


def similarity(kind: SimilarityMeasure, first: Heatmaps, second: Heatmaps) -> PerImage:
    """Compute the similarity of two maps of each image, in float64; 1 is equality, and undefined values are NaN.

    "spearman" is the rank correlation of the pixels, "cosine" the cosine of the angle between their values. "ssim" is
    structural similarity (Wang et al., IEEE TIP 2004) of the maps scaled to 0 to 1. "hog" is the correlation of
    histograms of oriented gradients (Dalal and Triggs, CVPR 2005) of the scaled maps, for two spatial axes. The last
    two run on the CPU, and all but "cosine" are NaN for constant maps.
    """
    if kind == "spearman":
        return spearman_correlation(first.flatten(1), second.flatten(1))
    if kind == "cosine":
        return _cosine(first.flatten(1).double(), second.flatten(1).double())
    if kind == "ssim":
        return _ssim(first, second)
    return pearson_correlation(_gradient_histograms(first), _gradient_histograms(second))


def _cosine(first: Float[Tensor, "b n"], second: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Return the cosine, exactly 1 for equal vectors, NaN if one is zero."""
    return (first * second).sum(1) / (first.square().sum(1) * second.square().sum(1)).sqrt()


def _ssim(first: Heatmaps, second: Heatmaps) -> PerImage:
    if min(first.shape[1:]) < _WINDOW:
        raise InvalidInput(
            f"similarity='ssim' needs maps of at least {_WINDOW} pixels along each axis, got "
            f"{tuple(first.shape[1:])}: use 'spearman' or 'cosine'."
        )
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    pairs = zip(*(_scaled(each).cpu().numpy() for each in (first, second)), strict=True)
    values = [float(structural_similarity(*pair, **options)) for pair in pairs]
    return torch.tensor(values, dtype=torch.float64, device=first.device)


def _scaled(maps: Heatmaps) -> Heatmaps:
    """Scale maps to 0 to 1 in float64; a constant map becomes NaN."""
    low, high = extremes(maps.double())
    return (maps - low) / (high - low)


def _gradient_histograms(maps: Heatmaps) -> Float[Tensor, "b n"]:
    if maps.ndim != 3 or min(maps.shape[1:]) < _CELL * _BLOCK:
        raise InvalidInput(
            f"similarity='hog' requires maps with two spatial axes of at least {_CELL * _BLOCK} pixels, got "
            f"{tuple(maps.shape[1:])}: use 'spearman' or 'ssim'."
        )
    options = {"pixels_per_cell": (_CELL, _CELL), "cells_per_block": (_BLOCK, _BLOCK)}
    histograms = [hog(each, **options) for each in _scaled(maps).cpu().numpy()]
    return torch.from_numpy(np.stack(histograms)).to(maps.device)


ClassTarget = ClassLogit | Probability | Counterfactual | Binary


@dataclass(frozen=True)
class ClassRandomisation(Robustness):
    """Similarity of the heatmaps of the target's class and of another class; a class-specific method is far below 1.

    The other class depends on the target and the seed only; for a model with a single output it is the other of its two
    classes. `details` returns "floor", (b,): the similarity of the heatmaps of two such other classes; NaN if the model
    has fewer than three classes.

    Args:
        similarity: "spearman", "cosine", "ssim" or "hog", see `similarity`.
        magnitudes: Whether the magnitudes of the heatmaps are compared.
        seed: Seed of the choice of the other class.
    """

    name: ClassVar[str] = "class_randomisation"
    source: ClassVar[str] = "Sixt et al., ICML 2020, random logit test"
    higher_is_better: ClassVar[bool | None] = None

    similarity: SimilarityMeasure = "spearman"
    magnitudes: bool = False
    seed: Seed = 0

    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        heatmap = _magnitudes_if(self.magnitudes, self.heatmap(attribution))
        return similarity(self.similarity, heatmap, self._other_heatmap(model, attribution, 0))

    def details(self, model: HookedModel, attribution: Attribution) -> Mapping[str, Tensor]:
        x = attribution.x
        if _class_count(model, x) < 3:
            return {"floor": torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)}
        return {"floor": similarity(self.similarity, *(self._other_heatmap(model, attribution, i) for i in range(2)))}

    def _other_heatmap(self, model: HookedModel, attribution: Attribution, which: int) -> Heatmaps:
        """Return the heatmap of the first or the second other class, computed once."""

        def compute() -> Heatmaps:
            other = self._other_target(attribution.target, model, attribution.x, which)
            return _magnitudes_if(self.magnitudes, recompute(self, model, attribution, target=other))

        return model.cached((self, attribution, which), compute)

    def _other_target(self, target: object, model: HookedModel, x: Images, which: int) -> ClassTarget:
        """Return the same target for another class."""
        if not isinstance(target, ClassTarget):
            raise InvalidInput(
                f"{self.name!r} requires a class target, such as ClassLogit or Probability, got {target!r}."
            )
        classes, index = _class_count(model, x), resolve_labels(target.index, model.spec.labels)
        if classes == 1:
            return _opposite_class(target)

        def other(index: int) -> int:
            steps = 1 + np.random.default_rng((self.seed, index)).permutation(classes - 1)
            return int(index + steps[which]) % classes

        return replace(target, index=tuple(map(other, index)) if isinstance(index, tuple) else other(index))


def _opposite_class(target: ClassTarget) -> ClassTarget:
    """Return the target of the other of the two classes of a single output."""
    if isinstance(target, Binary):
        labels = target.index if isinstance(target.index, tuple) else (target.index,)
        return replace(target, index=tuple(1 - label for label in labels) if target.count else 1 - labels[0])
    if isinstance(target, Probability):
        return Binary(0, "probability")
    return ClassLogit(target.index) if isinstance(target, Counterfactual) else Counterfactual(target.index)


def _class_count(model: HookedModel, x: Images) -> int:
    """Return the number of class scores of the model."""

    def count() -> int:
        with torch.no_grad():
            return int(read_scores(Returned(model.subset(slice(0, 1))(x[:1]), 1)).scores.shape[1])

    return model.cached("classes", count)


def _magnitudes_if(magnitudes: bool, heatmap: Heatmaps) -> Heatmaps:
    return heatmap.abs() if magnitudes else heatmap


RandomisationOrder = Literal["cascading", "independent"]
Value = Literal["last", "mean"]


class _StageSimilarities(NamedTuple):
    similarity: Float[Tensor, "b stages"]
    floor: PerImage


@dataclass(frozen=True)
class ParameterRandomisation(Robustness):
    """Similarity of the heatmaps of the model and of a copy with random parameters; far below 1 if they matter.

    `details` returns the "similarity" at each stage, (b, stages), and "floor", (b,): the similarity of the heatmaps of
    two independent, fully random copies, which is the smallest value to expect.

    Args:
        order: "cascading" randomises the stages one after the other from the output; "independent" one at a time.
        value: The similarity at the "last" stage, or the "mean" over the stages; None means the last of a cascade, else
            the mean.
        stages: Maximum number of groups of modules; None means one stage for each module.
        similarity: "spearman", "cosine", "ssim" or "hog", see `similarity`.
        magnitudes: Whether the magnitudes of the heatmaps are compared.
        seed: Seed of the random parameters.
    """

    name: ClassVar[str] = "parameter_randomisation"
    source: ClassVar[str] = "Adebayo et al., NeurIPS 2018, model parameter randomisation test"
    higher_is_better: ClassVar[bool | None] = None

    order: RandomisationOrder = "cascading"
    value: Value | None = None
    stages: PositiveInt | None = 10
    similarity: SimilarityMeasure = "spearman"
    magnitudes: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.order == "independent" and self.value == "last":
            raise InvalidInput("value='last' cannot be combined with order='independent': use value='mean'.")

    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        similarities = self._similarities(model, attribution).similarity
        last = self.value == "last" or (self.value is None and self.order == "cascading")
        return similarities[:, -1] if last else similarities.mean(1)

    def details(self, model: HookedModel, attribution: Attribution) -> Mapping[str, Tensor]:
        return self._similarities(model, attribution)._asdict()

    def _similarities(self, model: HookedModel, attribution: Attribution) -> _StageSimilarities:
        return model.cached((self, attribution), lambda: self._compare(model, attribution))

    def _compare(self, model: HookedModel, attribution: Attribution) -> _StageSimilarities:
        key = ("stages", self.stages)
        stages = model.cached(key, lambda: randomisation_stages(model, attribution.x, self.stages))
        random_copy, similarities = RandomCopy(model, self.seed), []
        heatmap = _magnitudes_if(self.magnitudes, self.heatmap(attribution))
        for names in track(stages, "stages"):
            random_copy.randomise(names)
            random_heatmap = self._random_heatmap(random_copy, attribution)
            similarities.append(similarity(self.similarity, heatmap, random_heatmap))
            if self.order == "independent":
                random_copy.restore(names)
        fully_random = [random_heatmap] if self.order == "cascading" else []
        for draw in range(len(fully_random), 2):
            random_copy.randomise(list(chain(*stages)), draw)
            fully_random.append(self._random_heatmap(random_copy, attribution))
        return _StageSimilarities(torch.stack(similarities, 1), similarity(self.similarity, *fully_random))

    def _random_heatmap(self, random_copy: RandomCopy, attribution: Attribution) -> Heatmaps:
        return _magnitudes_if(self.magnitudes, recompute(self, random_copy.model, attribution))
