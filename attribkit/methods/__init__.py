"""The built-in methods, registered through the hook that plugins use."""

from attribkit._contracts.method import Method
from attribkit._hookspecs import hookimpl
from attribkit.methods._attention import Attention, AttentionGates, AttentionRollout, GradientRollout
from attribkit.methods._controls import Centre, Constant, Edges, InputNorm, Random
from attribkit.methods._gradcam import CAM, EigenCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from attribkit.methods._gradients import DeconvNet, GuidedBackprop, GuidedGradCAM, InputXGradient, Saliency, SmoothGrad
from attribkit.methods._integrated_gradients import IntegratedGradients
from attribkit.methods._occlusion import Occlusion
from attribkit.methods._perturbation_cams import AblationCAM, ScoreCAM
from attribkit.methods._rise import RISE

__all__ = [
    "CAM",
    "RISE",
    "AblationCAM",
    "Attention",
    "AttentionGates",
    "AttentionRollout",
    "Centre",
    "Constant",
    "DeconvNet",
    "Edges",
    "EigenCAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradientRollout",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "InputNorm",
    "InputXGradient",
    "IntegratedGradients",
    "LayerCAM",
    "Occlusion",
    "Random",
    "Saliency",
    "ScoreCAM",
    "SmoothGrad",
    "XGradCAM",
]


@hookimpl
def attribkit_methods() -> list[type[Method]]:
    """Return the built-in methods, in the order in which tables and figures show them."""
    maps: list[type[Method]] = [
        CAM, GradCAM, GradCAMPlusPlus, HiResCAM, XGradCAM, LayerCAM, EigenCAM, ScoreCAM, AblationCAM,
    ]  # fmt: skip
    gradients: list[type[Method]] = [
        Saliency, InputXGradient, SmoothGrad, IntegratedGradients, GuidedBackprop, DeconvNet, GuidedGradCAM,
    ]  # fmt: skip
    attention: list[type[Method]] = [Attention, AttentionRollout, GradientRollout, AttentionGates]
    return [*maps, *gradients, *attention, Occlusion, RISE, Random, Centre, Edges, InputNorm, Constant]
