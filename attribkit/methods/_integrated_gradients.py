"""Integrated gradients, over one or several baselines."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribkit._contracts.method import Method
from attribkit._core.options import NonNegativeFloat, OneOrMore, PositiveInt, Seed
from attribkit._core.shapes import Images, PerImage, Scores
from attribkit._core.substrates import GivenImages, Substrate, substrate_images
from attribkit._display.progress import track
from attribkit._engine.model import HookedModel
from attribkit._targets.target import Target
from attribkit.methods._flat_scores import score_rounding_error

Baseline = Substrate | GivenImages | Tensor

_MIN_STEPS, _MAX_STEPS = 16, 1024  # limits of steps="auto"


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """Gradient averaged along the line from a baseline to the image, times their difference.

    The scores are contributions: they add up to f(x) - f(baseline), and the notes report the error of this sum. The
    integral is computed by Gauss-Legendre quadrature.

    Args:
        steps: Number of quadrature points, each one forward and backward; "auto" doubles them from 16 up to 1024 for
            each image until the error is within the tolerance.
        baseline: A substrate by name, or the baseline images themselves; the scores of several baselines are averaged.
        tolerance: With steps="auto", the accepted error of the sum, as a fraction of f(x) - f(baseline).
        seed: Seed of the baseline "noise"; the k-th of several baselines uses seed + k.
    """

    name: ClassVar[str] = "integrated_gradients"
    display_name: ClassVar[str] = "Integrated gradients"
    source: ClassVar[str] = "Sundararajan et al., ICML 2017, eq. 1"

    steps: PositiveInt | Literal["auto"] = 50
    baseline: Baseline | OneOrMore[Baseline] = "zero"
    tolerance: NonNegativeFloat = 0.01
    seed: Seed = 0

    def __post_init__(self) -> None:
        baselines = tuple(GivenImages(each) if isinstance(each, Tensor) else each for each in self._baselines())
        object.__setattr__(self, "baseline", baselines[0] if len(baselines) == 1 else baselines)

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        target = model.resolve(target)
        starts = self._starts(x)
        ends = torch.stack([model.score(x, target), torch.stack([model.score(s, target) for s in starts]).mean(0)])
        if self.steps != "auto":
            scores, error, flat = _integrate(model, x, starts, ends, target, self.steps)
            _note_flat(model, flat.nonzero().flatten().tolist())
            model.note(
                "completeness: the sum of the scores differs from f(x) - f(baseline) by at most "
                f"{float(error.max()):.2%}"
            )
            return scores
        maps = []
        for image in track(range(len(x)), "images"):  # one by one: the steps of an image depend on no other
            i = slice(image, image + 1)
            one_start = [start[i] for start in starts]
            maps.append(self._refine(model.subset(i), x[i], one_start, ends[:, i], target.subset(i), image))
        return torch.cat(maps)

    def _baselines(self) -> tuple[Baseline, ...]:
        return self.baseline if isinstance(self.baseline, tuple) else (self.baseline,)

    def _starts(self, x: Images) -> list[Images]:
        return [substrate_images(x, each, self.seed + i) for i, each in enumerate(self._baselines())]  # type: ignore[arg-type]

    def _refine(
        self,
        model: HookedModel,
        x: Images,
        starts: list[Images],
        ends: Float[Tensor, "2 b"],
        target: Target,
        image: int,
    ) -> Scores:
        """Compute the scores of one image, with as many steps as the tolerance requires."""
        steps = _MIN_STEPS
        scores, error, flat = _integrate(model, x, starts, ends, target, steps)
        while float(error.max()) > self.tolerance and steps < _MAX_STEPS:
            steps *= 2
            scores, error, flat = _integrate(model, x, starts, ends, target, steps)
        _note_flat(model, [image] if bool(flat.all()) else [])
        excess = "" if float(error.max()) <= self.tolerance else f", more than the tolerance of {self.tolerance:.2%}"
        model.note(
            f"image {image}: {steps} steps; the sum of the scores differs from f(x) - f(baseline) by "
            f"{float(error.max()):.2%}{excess}"
        )
        return scores


def _integrate(
    model: HookedModel, x: Images, starts: list[Images], ends: Float[Tensor, "2 b"], target: Target, steps: int
) -> tuple[Scores, PerImage, Bool[Tensor, " b"]]:
    """Return the scores, their relative error of completeness (axiom 1 of sec. 3), and where f(x) = f(baseline).

    `ends` are f(x) and the mean of f over the baselines.
    """
    points, weights = np.polynomial.legendre.leggauss(steps)
    path = (start + 0.5 * (1 + point) * (x - start) for start in starts for point in points)
    gradients = iter(model.gradients(path, target, total=steps * len(starts)))
    exact = torch.promote_types(x.dtype, torch.float32)
    scores = torch.zeros_like(x, dtype=exact)
    for start in starts:
        total = torch.zeros_like(scores)
        for weight in weights:
            total += 0.5 * weight * next(gradients)
        scores += (x - start) * total / len(starts)
    expected, rounding = ends[0] - ends[1], score_rounding_error(ends, x.dtype)
    error = (scores.flatten(1).sum(1) - expected).abs() / torch.maximum(expected.abs(), rounding).clamp(min=1e-12)
    return scores, error, expected.abs() <= rounding


def _note_flat(model: HookedModel, images: list[int]) -> None:
    if images:
        model.note(
            f"f(x) - f(baseline) is zero up to rounding for images {images}, so there is no score difference to "
            "attribute"
        )
