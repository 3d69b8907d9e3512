"""Integrated gradients."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from attribkit.contracts.method import Method
from attribkit.core.options import NonNegativeFloat, OneOrMore, PositiveInt, Seed
from attribkit.core.shapes import Images, PerImage, Scores
from attribkit.core.substrates import GivenImages, Substrate, substrate
from attribkit.engine.model import HookedModel
from attribkit.methods.flat_scores import rounding_of
from attribkit.targets.target import Target

Baseline = Substrate | GivenImages | Tensor

_FIRST, _MOST = 16, 1024  # steps that "auto" begins and ends with


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """The gradient averaged along the line from a baseline, times the way: what each pixel adds to the target's score.

    By Gauss-Legendre quadrature; over several baselines it is the mean. The notes tell by how much the scores, added
    up, miss f(x) - f(baseline).
    """

    name: ClassVar[str] = "integrated_gradients"
    source: ClassVar[str] = "Sundararajan et al., ICML 2017, eq. 1"

    steps: PositiveInt | Literal["auto"] = 50  # one forward and backward each; "auto" doubles them until they suffice
    baseline: Baseline | OneOrMore[Baseline] = "zero"  # images, or what is made of x; several are averaged
    tolerance: NonNegativeFloat = 0.01  # of "auto": what the scores may miss, as a share of f(x) - f(baseline)
    seed: Seed = 0  # of noise; each further noise among several baselines has the next seed

    def __post_init__(self) -> None:
        several = self.baseline if isinstance(self.baseline, tuple) else (self.baseline,)
        given = tuple(GivenImages(each) if isinstance(each, Tensor) else each for each in several)
        object.__setattr__(self, "baseline", given[0] if len(given) == 1 else given)

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        target = model.resolve(target)
        starts = self._starts(x)
        if self.steps != "auto":
            scores, gap, flat = _integrated(model, x, starts, target, self.steps)
            _note_flat(model, flat.nonzero().flatten().tolist())
            model.note(f"completeness: the scores miss f(x) - f(baseline) by at most {float(gap.max()):.2%}")
            return scores
        images = [slice(i, i + 1) for i in range(len(x))]  # each image by itself, so that others do not change it
        return torch.cat(
            [self._enough(model.subset(i), x[i], [s[i] for s in starts], target.subset(i), i.start) for i in images]
        )

    def _starts(self, x: Images) -> list[Images]:
        several = self.baseline if isinstance(self.baseline, tuple) else (self.baseline,)
        return [substrate(x, each, self.seed + i) for i, each in enumerate(several)]  # type: ignore[arg-type]

    def _enough(self, model: HookedModel, x: Images, starts: list[Images], target: Target, image: int) -> Scores:
        """The scores of one image by as many steps as the tolerance asks for."""
        steps = _FIRST
        scores, gap, flat = _integrated(model, x, starts, target, steps)
        while float(gap.max()) > self.tolerance and steps < _MOST:
            steps *= 2
            scores, gap, flat = _integrated(model, x, starts, target, steps)
        _note_flat(model, [image] if bool(flat.all()) else [])
        short = "" if float(gap.max()) <= self.tolerance else f", more than the tolerance of {self.tolerance:.2%}"
        model.note(f"image {image}: {steps} steps; the scores miss f(x) - f(baseline) by {float(gap.max()):.2%}{short}")
        return scores


def _integrated(
    model: HookedModel, x: Images, starts: list[Images], target: Target, steps: int
) -> tuple[Scores, PerImage, Bool[Tensor, " b"]]:
    """The scores, what they miss of completeness (axiom 1 of sec. 3) as a share of it, and where there is none."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    path = (start + 0.5 * (1 + place) * (x - start) for start in starts for place in places)
    gradients = iter(model.gradients(path, target, total=steps * len(starts)))
    exact = torch.promote_types(x.dtype, torch.float32)
    scores = torch.zeros_like(x, dtype=exact)
    for start in starts:
        total = torch.zeros_like(scores)
        for weight in weights:
            total += 0.5 * weight * next(gradients)
        scores += (x - start) * total / len(starts)
    ends = torch.stack([model.score(x, target), torch.stack([model.score(each, target) for each in starts]).mean(0)])
    wanted, least = ends[0] - ends[1], rounding_of(ends, x.dtype)
    missed = (scores.flatten(1).sum(1) - wanted).abs() / torch.maximum(wanted.abs(), least).clamp(min=1e-12)
    return scores, missed, wanted.abs() <= least


def _note_flat(model: HookedModel, images: list[int]) -> None:
    if images:
        model.note(f"f(x) - f(baseline) is zero up to rounding for images {images}: there is nothing to share out")
