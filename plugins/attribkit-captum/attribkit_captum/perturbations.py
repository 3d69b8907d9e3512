"""Scores of the model for images with covered segments or windows."""

import math
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import captum.attr
from captum._utils.models.linear_model import SkLearnLasso
from captum.attr._core.lime import get_exp_kernel_similarity_function
from torch import Tensor

from attribkit import (
    GivenSegments,
    HookedModel,
    InvalidInput,
    NonNegativeFloat,
    OneOrMore,
    PositiveFloat,
    PositiveInt,
    Seed,
    Segments,
    Target,
    segment,
)

from .base import Baseline, Call, CaptumMethod

_MOST_PLAYERS = 8  # of exact Shapley values, whose cost is the factorial


@dataclass(frozen=True)
class SegmentMethod(CaptumMethod, ABC):
    """Base class for methods that cover segments of the image, and give all pixels of a segment the same score.

    Args:
        feature_mask: Approximate number of superpixels (SLIC), or labels of segments, (*space) or (b, *space).
        baseline: What covers a segment: a substrate by name, or images.
        perturbations_per_eval: Covered images in one forward, at most the batch size of the Explainer.
        seed: Seed of the random numbers, and of the baseline "noise".
    """

    min_half_precision_correlation: ClassVar[float] = 0.5  # rounding exceeds the effect of small segments

    feature_mask: Segments = 20
    baseline: Baseline = "zero"
    perturbations_per_eval: PositiveInt = 16
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.feature_mask, Tensor):
            object.__setattr__(self, "feature_mask", GivenSegments(self.feature_mask))

    def arguments(self, x: Tensor) -> dict[str, Any]:
        return {**super().arguments(x), "feature_mask": segment(x, self.feature_mask).split(1)}

    def explain(self, call: Call) -> Tensor:
        return self.attribute(call)[:, :1]  # all channels have the same value


@dataclass(frozen=True)
class FeatureAblation(SegmentMethod):
    """Drop in the score when a segment is covered; one forward for each segment.

    Args:
        feature_mask: Approximate number of superpixels (SLIC), or labels of segments, (*space) or (b, *space).
        baseline: What covers a segment: a substrate by name, or images.
        perturbations_per_eval: Covered images in one forward, at most the batch size of the Explainer.
        seed: Seed of the baseline "noise".

    Reference:
        Zeiler and Fergus, ECCV 2014, sec. 4.2 (occlusion, here of segments).
    """

    name: ClassVar[str] = "captum.FeatureAblation"
    source: ClassVar[str] = "Zeiler and Fergus, ECCV 2014, sec. 4.2, for segments"
    check_options: ClassVar[Mapping[str, Any]] = {"feature_mask": 30}
    algorithm: ClassVar[Any] = captum.attr.FeatureAblation


@dataclass(frozen=True)
class ShapleyValueSampling(SegmentMethod):
    """Mean change of the score when a segment is added in random orders; n_samples forwards for each segment.

    Args:
        feature_mask: Approximate number of superpixels (SLIC), or labels of segments, (*space) or (b, *space).
        baseline: What stands for a missing segment: a substrate by name, or images.
        perturbations_per_eval: Covered images in one forward, at most the batch size of the Explainer.
        seed: Seed of the orders, and of the baseline "noise".
        n_samples: Number of orders.

    Reference:
        Castro et al., Computers and Operations Research 2009; Strumbelj and Kononenko, JMLR 2010.
    """

    name: ClassVar[str] = "captum.ShapleyValueSampling"
    source: ClassVar[str] = "Castro et al., Computers and Operations Research 2009"
    check_options: ClassVar[Mapping[str, Any]] = {"feature_mask": 30, "n_samples": 3}
    algorithm: ClassVar[Any] = captum.attr.ShapleyValueSampling

    n_samples: PositiveInt = 25


@dataclass(frozen=True)
class ShapleyValues(SegmentMethod):
    """Mean change of the score when a segment is added, over all orders; n * n! forwards for n segments, at most 8.

    Args:
        feature_mask: Approximate number of superpixels (SLIC), or labels of segments, (*space) or (b, *space).
        baseline: What stands for a missing segment: a substrate by name, or images.
        perturbations_per_eval: Covered images in one forward, at most the batch size of the Explainer.
        seed: Seed of the baseline "noise".

    Reference:
        Shapley, 1953; Lundberg and Lee, NeurIPS 2017, eq. 4.
    """

    name: ClassVar[str] = "captum.ShapleyValues"
    source: ClassVar[str] = "Shapley, 1953; Lundberg and Lee, NeurIPS 2017, eq. 4"
    algorithm: ClassVar[Any] = captum.attr.ShapleyValues
    expected_failures: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("sign", "position"), "a few superpixels are coarser than the objects of the examples"
    )

    feature_mask: Segments = 4

    def arguments(self, x: Tensor) -> dict[str, Any]:
        arguments = super().arguments(x)
        for i, mask in enumerate(arguments["feature_mask"]):
            segments = _count(mask)
            if segments > _MOST_PLAYERS:
                raise InvalidInput(
                    f"Image {i} has {segments} segments, whose exact Shapley values cost "
                    f"{segments * math.factorial(segments):,} forwards; captum.ShapleyValues accepts at most "
                    f"{_MOST_PLAYERS}. Pass feature_mask={_MOST_PLAYERS // 2}, or use captum.ShapleyValueSampling."
                )
        return arguments


@dataclass(frozen=True)
class Surrogate(SegmentMethod, ABC):
    """Base class for linear models of the score as a function of which segments are visible.

    Args:
        n_samples: Covered images, each one forward.
    """

    n_samples: PositiveInt = 25

    def __call__(self, model: HookedModel, x: Tensor, target: Target) -> Tensor:
        most = max(map(_count, segment(x, self.feature_mask)))
        if self.n_samples < most:
            model.note(
                f"n_samples={self.n_samples} is less than the {most} segments of an image, so the regression is "
                "underdetermined: increase n_samples or decrease feature_mask"
            )
        return super().__call__(model, x, target)


@dataclass(frozen=True)
class KernelShap(Surrogate):
    """Shapley values of segments by weighted linear regression on randomly covered images; n_samples forwards.

    Args:
        feature_mask: Approximate number of superpixels (SLIC), or labels of segments, (*space) or (b, *space).
        baseline: What stands for a missing segment: a substrate by name, or images.
        perturbations_per_eval: Covered images in one forward, at most the batch size of the Explainer.
        seed: Seed of the covered segments, and of the baseline "noise".
        n_samples: Number of covered images; several times the number of segments.

    Reference:
        Lundberg and Lee, NeurIPS 2017, sec. 4.1.
    """

    name: ClassVar[str] = "captum.KernelShap"
    source: ClassVar[str] = "Lundberg and Lee, NeurIPS 2017, sec. 4.1"
    check_options: ClassVar[Mapping[str, Any]] = {"feature_mask": 30, "n_samples": 80, "perturbations_per_eval": 1}
    algorithm: ClassVar[Any] = captum.attr.KernelShap

    def made(self, call: Call) -> tuple[Any, dict[str, Any]]:
        algorithm, arguments = super().made(call)
        if _count(call.arguments["feature_mask"]) > 1:
            return algorithm, arguments
        # captum cannot draw subsets of a single segment; its Shapley value is f(x) - f(baseline)
        del arguments["n_samples"]
        return captum.attr.FeatureAblation(call.scoring), arguments


@dataclass(frozen=True)
class Lime(Surrogate):
    """Coefficients of a sparse linear model of the score near the image; n_samples forwards.

    Args:
        feature_mask: Approximate number of superpixels (SLIC), or labels of segments, (*space) or (b, *space).
        baseline: What stands for a missing segment: a substrate by name, or images.
        perturbations_per_eval: Covered images in one forward, at most the batch size of the Explainer.
        seed: Seed of the covered segments, and of the baseline "noise".
        n_samples: Number of covered images, of which each segment covers half.
        alpha: Weight of the L1 penalty of the linear model, in units of the score.
        distance_mode: Distance between the image and a covered image, on their pixels.
        kernel_width: Width of the kernel that weights covered images by this distance.

    Reference:
        Ribeiro et al., KDD 2016, eq. 2.
    """

    name: ClassVar[str] = "captum.Lime"
    source: ClassVar[str] = "Ribeiro et al., KDD 2016, eq. 2"
    check_options: ClassVar[Mapping[str, Any]] = {"feature_mask": 30, "n_samples": 80, "alpha": 1e-5}
    algorithm: ClassVar[Any] = captum.attr.Lime

    alpha: NonNegativeFloat = 0.01
    distance_mode: Literal["cosine", "euclidean"] = "cosine"
    kernel_width: PositiveFloat = 1.0

    def made(self, call: Call) -> tuple[Any, dict[str, Any]]:
        model = SkLearnLasso(alpha=self.alpha)
        similarity = get_exp_kernel_similarity_function(self.distance_mode, self.kernel_width)
        parts = {"interpretable_model": model, "similarity_func": similarity}
        _, arguments = super().made(call)
        return self.algorithm(call.scoring, **parts), arguments


@dataclass(frozen=True)
class Occlusion(CaptumMethod):
    """Drop in the score when a sliding window is covered, averaged over the windows that contain a pixel.

    Args:
        sliding_window_shapes: Size of the window in pixels, one for all spatial axes or one for each, or (c, *space) to
            cover some of the channels at a time; None means an eighth of each axis.
        strides: Step between windows, in the same form; None means half the window.
        baseline: What covers a window: a substrate by name, or images.
        perturbations_per_eval: Covered images in one forward, at most the batch size of the Explainer.
        seed: Seed of the baseline "noise".

    Reference:
        Zeiler and Fergus, ECCV 2014, sec. 4.2.
    """

    name: ClassVar[str] = "captum.Occlusion"
    source: ClassVar[str] = "Zeiler and Fergus, ECCV 2014, sec. 4.2"
    check_options: ClassVar[Mapping[str, Any]] = {"sliding_window_shapes": 16, "strides": 8}
    algorithm: ClassVar[Any] = captum.attr.Occlusion

    sliding_window_shapes: PositiveInt | OneOrMore[PositiveInt] | None = None
    strides: PositiveInt | OneOrMore[PositiveInt] | None = None
    baseline: Baseline = "zero"
    perturbations_per_eval: PositiveInt = 16
    seed: Seed = 0

    def arguments(self, x: Tensor) -> dict[str, Any]:
        eighth = tuple(max(1, side // 8) for side in x.shape[2:])
        window = _sizes("sliding_window_shapes", self.sliding_window_shapes or eighth, x)
        half = tuple(max(1, side // 2) for side in window[1:])
        step = _sizes("strides", self.strides or half, x)
        if any(side > length for side, length in zip(window, x.shape[1:], strict=True)):
            raise InvalidInput(f"sliding_window_shapes={window} is larger than the image {tuple(x.shape[1:])}.")
        if any(stride > side for stride, side in zip(step, window, strict=True)):
            raise InvalidInput(
                f"strides={step} is larger than sliding_window_shapes={window}, which leaves pixels uncovered."
            )
        own = {"sliding_window_shapes": [window] * len(x), "strides": [step] * len(x)}
        return {**super().arguments(x), **own}

    def explain(self, call: Call) -> Tensor:
        attributions = self.attribute(call)
        covers_all_channels = call.arguments["sliding_window_shapes"][0] == attributions.shape[1]
        return attributions[:, :1] if covers_all_channels else attributions


def _count(mask: Tensor) -> int:
    """Return the number of segments of an image."""
    return int(mask.max()) + 1


def _sizes(option: str, value: int | tuple[int, ...], x: Tensor) -> tuple[int, ...]:
    """Return the size along the channels and every spatial axis; windows cover all channels by default."""
    space = x.ndim - 2
    sizes = (value,) * space if isinstance(value, int) else value
    if len(sizes) == space:
        sizes = (x.shape[1], *sizes)
    if len(sizes) != space + 1:
        raise InvalidInput(
            f"{option} must be one size, one for each of the {space} spatial axes, or {space + 1} with the channels "
            f"first, got {value}."
        )
    return sizes
