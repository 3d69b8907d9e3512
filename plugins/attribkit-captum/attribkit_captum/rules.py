"""Gradients with other rules at the activations: guided backpropagation, deconvolution and DeepLift."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import captum.attr
from torch import Tensor, nn

from attribkit import HookedModel, PositiveFloat, Seed, UnsupportedModel

from .base import Baseline, Baselines, Call, CaptumMethod, mean_over_baselines
from .calls import ACTIVATIONS, Kinds, Trace, operations, separate
from .pooling import without_overlap

_NON_LINEAR: Kinds = (  # modules that captum's DeepLift has rules for
    nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.Softmax,
)  # fmt: skip
_OTHER_ACTIVATIONS = {  # graph operations
    "Elu", "Gelu", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyRelu", "LogSigmoid", "Mish", "PreluKernel", "Sigmoid",
    "Silu", "Softmax", "Softplus", "Tanh",
}  # fmt: skip
_NO_RULE = (
    "operations without a rule, such as ReLU6, GELU, attention, gates and normalisation layers, pass the plain gradient"
)
_RELU = {function: module for function, module in ACTIVATIONS.items() if module is nn.ReLU}


@dataclass(frozen=True)
class ReluRule(CaptumMethod):
    """Base class for methods that change the gradient at ReLUs, also at those that are called as functions."""

    def copied(self, model: HookedModel) -> tuple[HookedModel, Trace | None]:
        return separate(model, (nn.ReLU,), _RELU)

    def check_copy(self, call: Call, trace: Trace, score: Tensor) -> None:
        if not trace.ran((nn.ReLU,)):
            raise UnsupportedModel(
                f"{self.name} changes the gradient at ReLUs, and this model does not run any: the map would be the "
                "plain gradient. Use captum.InputXGradient or captum.IntegratedGradients."
            )
        others = sorted(set(operations(score)) & _OTHER_ACTIVATIONS)
        if others:
            call.model.note(f"only ReLUs change the gradient; it is the plain one at {', '.join(others)}")


@dataclass(frozen=True)
class GuidedBackprop(ReluRule):
    """Gradient with negative values set to zero at every ReLU; one forward and backward.

    Reference:
        Springenberg et al., ICLR Workshop 2015, sec. 3.4.
    """

    name: ClassVar[str] = "captum.GuidedBackprop"
    source: ClassVar[str] = "Springenberg et al., ICLR Workshop 2015, sec. 3.4"
    algorithm: ClassVar[Any] = captum.attr.GuidedBackprop


@dataclass(frozen=True)
class Deconvolution(ReluRule):
    """Gradient where each ReLU's derivative is replaced by a ReLU of the incoming gradient; one forward and backward.

    Reference:
        Zeiler and Fergus, ECCV 2014, sec. 2.1.
    """

    name: ClassVar[str] = "captum.Deconvolution"
    source: ClassVar[str] = "Zeiler and Fergus, ECCV 2014, sec. 2.1"
    algorithm: ClassVar[Any] = captum.attr.Deconvolution
    expected_failures: ClassVar[Mapping[str, str]] = {
        "position": "the map does not depend on which ReLUs the image activates"
    }


def copy_for_deeplift(model: HookedModel) -> tuple[HookedModel, Trace]:
    """Return a copy of the model in which each call of a non-linear module or function is one that captum can hook."""
    return separate(model, _NON_LINEAR, ACTIVATIONS, prepare=without_overlap)


@dataclass(frozen=True)
class DeepLift(CaptumMethod):
    """Contributions of the difference from a baseline, by the rescale rule; one forward and backward of two images.

    The scores add up to f(x) - f(baseline) if captum has rules for all non-linear operations; a note reports the error.

    Args:
        baseline: A substrate by name, or images.
        multiply_by_inputs: Whether to multiply by the difference from the baseline.
        eps: Differences below it use the plain gradient.
        seed: Seed of the baseline "noise".

    Reference:
        Shrikumar et al., ICML 2017 (rescale rule); Ancona et al., ICLR 2018 (as a gradient).
    """

    name: ClassVar[str] = "captum.DeepLift"
    source: ClassVar[str] = "Shrikumar et al., ICML 2017; Ancona et al., ICLR 2018"
    algorithm: ClassVar[Any] = captum.attr.DeepLift
    advice: ClassVar[str] = _NO_RULE
    joint: ClassVar[bool] = True

    baseline: Baseline = "zero"
    multiply_by_inputs: bool = True
    eps: PositiveFloat = 1e-10
    seed: Seed = 0

    def copied(self, model: HookedModel) -> tuple[HookedModel, Trace | None]:
        return copy_for_deeplift(model)


@dataclass(frozen=True)
class DeepLiftShap(CaptumMethod):
    """DeepLift averaged over several baselines; for each of them one forward and backward of two images.

    Args:
        baseline: One or more substrates by name, or images.
        multiply_by_inputs: Whether to multiply by the difference from the baseline.
        seed: Seed of the baseline "noise"; the k-th baseline uses seed + k.

    Reference:
        Lundberg and Lee, NeurIPS 2017, sec. 4.2 (Deep SHAP).
    """

    name: ClassVar[str] = "captum.DeepLiftShap"
    source: ClassVar[str] = "Lundberg and Lee, NeurIPS 2017, sec. 4.2"
    algorithm: ClassVar[Any] = captum.attr.DeepLift  # for one baseline at a time: DeepLiftShap mixes their rows
    advice: ClassVar[str] = _NO_RULE
    joint: ClassVar[bool] = True

    baseline: Baselines = ("zero", "blur")
    multiply_by_inputs: bool = True
    seed: Seed = 0

    def copied(self, model: HookedModel) -> tuple[HookedModel, Trace | None]:
        return copy_for_deeplift(model)

    def attribute(self, call: Call) -> Tensor:
        return mean_over_baselines(call, super().attribute)
