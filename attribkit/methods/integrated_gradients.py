"""Integrated gradients."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, Scores
from attribkit.core.targets import Target
from attribkit.methods.substrates import Substrate, substrate


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """The gradient averaged along the line from a baseline, times the way: what each pixel adds to the target's score.

    By Gauss-Legendre quadrature. The notes tell by how much the scores, added up, miss f(x) - f(baseline).
    """

    name: ClassVar[str] = "integrated_gradients"
    source: ClassVar[str] = "Sundararajan et al., ICML 2017, eq. 1"

    steps: int = 50  # one forward and backward each
    baseline: Substrate = "zero"

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        start = substrate(x, self.baseline)
        places, weights = np.polynomial.legendre.leggauss(self.steps)
        path = (start + 0.5 * (1 + place) * (x - start) for place in places)
        total = torch.zeros_like(x)
        for weight, gradient in zip(weights, model.gradients(path, target), strict=True):
            total += 0.5 * weight * gradient
        scores = (x - start) * total
        _note_gap(model, x, start, target, scores)
        return scores


def _note_gap(model: HookedModel, x: Images, start: Images, target: Target, scores: Scores) -> None:
    """Completeness (axiom 1 of sec. 3), as far as the steps reach it."""
    wanted = model.score(x, target) - model.score(start, target)
    gap = (scores.flatten(1).sum(1) - wanted).abs() / wanted.abs().clamp(min=1e-12)
    model.note(f"completeness: the scores miss f(x) - f(baseline) by at most {float(gap.max()):.2%}")
