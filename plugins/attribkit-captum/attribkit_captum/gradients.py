"""Gradients of the model as it is, at the image or along a path."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import captum.attr

from attribkit import NonNegativeFloat, PositiveInt, Seed

from .base import Baseline, Baselines, CaptumMethod

Quadrature = Literal["gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"]


@dataclass(frozen=True)
class Saliency(CaptumMethod):
    """Absolute gradient of the score; one forward and backward.

    Args:
        abs: Whether to take the absolute value.

    Reference:
        Simonyan et al., ICLR Workshop 2014, sec. 3.
    """

    name: ClassVar[str] = "captum.Saliency"
    source: ClassVar[str] = "Simonyan et al., ICLR Workshop 2014, sec. 3"
    algorithm: ClassVar[Any] = captum.attr.Saliency

    abs: bool = True


@dataclass(frozen=True)
class InputXGradient(CaptumMethod):
    """Gradient times image; one forward and backward.

    Reference:
        Shrikumar et al., 2016, arXiv:1605.01713.
    """

    name: ClassVar[str] = "captum.InputXGradient"
    source: ClassVar[str] = "Shrikumar et al., 2016, arXiv:1605.01713"
    algorithm: ClassVar[Any] = captum.attr.InputXGradient


@dataclass(frozen=True)
class IntegratedGradients(CaptumMethod):
    """Gradient averaged along the line from a baseline to the image, times their difference.

    Args:
        baseline: A substrate by name, or images.
        n_steps: Points on the line, each one forward and backward.
        method: Quadrature of the integral.
        multiply_by_inputs: Whether to multiply by the difference from the baseline.
        seed: Seed of the baseline "noise".

    Reference:
        Sundararajan et al., ICML 2017, eq. 1.
    """

    name: ClassVar[str] = "captum.IntegratedGradients"
    source: ClassVar[str] = "Sundararajan et al., ICML 2017, eq. 1"
    check_options: ClassVar[Mapping[str, Any]] = {"n_steps": 4}
    algorithm: ClassVar[Any] = captum.attr.IntegratedGradients
    advice: ClassVar[str] = "increase n_steps"

    baseline: Baseline = "zero"
    n_steps: PositiveInt = 50
    method: Quadrature = "gausslegendre"
    multiply_by_inputs: bool = True
    seed: Seed = 0


@dataclass(frozen=True)
class GradientShap(CaptumMethod):
    """Expected gradient at random points between the image and random baselines, times their difference.

    Args:
        baseline: One or more substrates by name, or images, from which captum draws.
        n_samples: Number of points, each one forward and backward.
        stdevs: Standard deviation of noise that is added to the image for each point.
        multiply_by_inputs: Whether to multiply by the difference from the baseline.
        seed: Seed of the points, the noise and the baseline "noise".

    Reference:
        Lundberg and Lee, NeurIPS 2017; Erion et al., Nature Machine Intelligence 2021 (expected gradients).
    """

    name: ClassVar[str] = "captum.GradientShap"
    source: ClassVar[str] = "Lundberg and Lee, NeurIPS 2017; Erion et al., Nature Machine Intelligence 2021"
    algorithm: ClassVar[Any] = captum.attr.GradientShap

    baseline: Baselines = ("zero", "blur")
    n_samples: PositiveInt = 5
    stdevs: NonNegativeFloat = 0.0
    multiply_by_inputs: bool = True
    seed: Seed = 0
