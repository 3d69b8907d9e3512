"""Layer-wise relevance propagation, for models all of whose operations captum's rules cover."""

import operator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import captum.attr
import torch
from captum.attr._utils.custom_modules import Addition_Module
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
from torch import Tensor, nn

from attribkit import HookedModel, NonNegativeFloat, PositiveFloat, UnsupportedModel

from .base import Call, CaptumMethod
from .calls import Calls, Functions, Kinds, Trace, operations, separate

_WITH_RULES: Kinds = (
    nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
)  # fmt: skip
_PASSED: Kinds = (nn.ReLU, nn.Tanh, nn.Dropout)  # relevance passes them unchanged
_ADDITIONS: Functions = dict.fromkeys(
    (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__, operator.add),
    Addition_Module,
)
_HARMLESS = {  # graph operations that move elements, or pass relevance to the elements that it came from
    "AccumulateGrad", "Alias", "Cat", "Clone", "ConstantPadNd", "Copy", "CopySlices", "Expand", "Gather", "Index",
    "MaxPool2DWithIndices", "Permute", "Relu", "ReshapeAlias", "Select", "Slice", "Split", "SplitWithSizes", "Squeeze",
    "Stack", "T", "ToCopy", "Transpose", "Unbind", "UnsafeView", "Unsqueeze", "View",
}  # fmt: skip


class Hidden(nn.Module):
    """Hides a module without parameters from captum, which refuses leaf modules of classes that it does not list.

    Args:
        module: The module, such as ``nn.Flatten()``. Whether its operations are harmless is read from the graph.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.listed = nn.Dropout()  # never runs; makes this module a container for captum
        self.training = False
        vars(self)["hidden"] = module  # not a submodule

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return vars(self)["hidden"](*inputs, **keywords)


def _hide(module: nn.Module) -> nn.Module:
    is_leaf = next(module.children(), None) is None and not isinstance(module, nn.ModuleList | nn.ModuleDict)
    return Hidden(module) if is_leaf and type(module) not in (*_WITH_RULES, *_PASSED) else module


@dataclass(frozen=True)
class LRP(CaptumMethod):
    """Relevance of the score, passed from layer to layer in proportion to their contributions; 3 forwards, 1 backward.

    Sums of two tensors, as in residual networks, become modules in a copy of the model. Models with operations that
    captum does not support, such as GELU, attention, layer normalisation or gates, are refused. So are targets that do
    not select an output, such as a probability.

    Args:
        rule: Rule of convolutions and linear layers; other layers use "epsilon". "gamma" favours positive weights,
            "alpha1_beta0" uses positive weights only.
        epsilon: Stabiliser of the rule "epsilon".
        gamma: Weight of the positive part in the rule "gamma".

    Reference:
        Bach et al., PLoS ONE 2015; Montavon et al., 2019 (rules).
    """

    name: ClassVar[str] = "captum.LRP"
    source: ClassVar[str] = "Bach et al., PLoS ONE 2015; Montavon et al., 2019"
    algorithm: ClassVar[Any] = captum.attr.LRP

    rule: Literal["epsilon", "gamma", "alpha1_beta0"] = "epsilon"
    epsilon: PositiveFloat = 1e-9
    gamma: NonNegativeFloat = 0.25

    def copied(self, model: HookedModel) -> tuple[HookedModel, Trace | None]:
        return separate(model, (*_WITH_RULES, *_PASSED), _ADDITIONS, prepare=_hide)

    def check_copy(self, call: Call, trace: Trace, score: Tensor) -> None:
        unknown = dict.fromkeys(each for each in operations(score, trace) if each not in _HARMLESS)
        if unknown:
            raise UnsupportedModel(
                f"captum.LRP does not support operations between the image and the score of this model or target "
                f"({', '.join(unknown)}), so the relevance would be wrong. Explain the logit of a class of a "
                "convolutional network with ReLUs, or use captum.IntegratedGradients or captum.DeepLift."
            )

    def attribute(self, call: Call) -> Tensor:
        for module in call.scoring.modules():
            if isinstance(module, Calls):
                for each in module.copies:
                    if isinstance(each, _WITH_RULES):
                        each.rule = self._rule(each)
        return super().attribute(call)

    def _rule(self, module: nn.Module) -> Any:
        if isinstance(module, nn.Conv2d | nn.Linear) and self.rule != "epsilon":
            return GammaRule(self.gamma) if self.rule == "gamma" else Alpha1_Beta0_Rule()
        return EpsilonRule(self.epsilon)
