"""The built-in methods, registered by the hook that any plugin uses."""

from attribkit.contracts.method import Method
from attribkit.hookspecs import hookimpl
from attribkit.methods.attention import Attention, AttentionGates, AttentionRollout, GradientRollout
from attribkit.methods.controls import Centre, Constant, Edges, InputNorm, Random
from attribkit.methods.eigencam import EigenCAM
from attribkit.methods.gradcam import CAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from attribkit.methods.gradients import DeconvNet, GuidedBackprop, GuidedGradCAM, InputXGradient, Saliency, SmoothGrad
from attribkit.methods.integrated_gradients import IntegratedGradients
from attribkit.methods.occlusion import Occlusion
from attribkit.methods.perturbation_cams import AblationCAM, ScoreCAM
from attribkit.methods.rise import RISE


@hookimpl
def attribkit_methods() -> list[type[Method]]:
    """Methods in the order of tables and figures: class activation maps, gradients, attention, perturbations ..."""
    maps: list[type[Method]] = [
        CAM, GradCAM, GradCAMPlusPlus, HiResCAM, XGradCAM, LayerCAM, EigenCAM, ScoreCAM, AblationCAM,
    ]  # fmt: skip
    gradients: list[type[Method]] = [
        Saliency, InputXGradient, SmoothGrad, IntegratedGradients, GuidedBackprop, DeconvNet, GuidedGradCAM,
    ]  # fmt: skip
    attention: list[type[Method]] = [Attention, AttentionRollout, GradientRollout, AttentionGates]
    return [*maps, *gradients, *attention, Occlusion, RISE, Random, Centre, Edges, InputNorm, Constant]
