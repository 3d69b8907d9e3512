"""The built-in methods, registered by the hook that any plugin uses."""

from attribkit.core.method import Method
from attribkit.hookspecs import hookimpl
from attribkit.methods.ablationcam import AblationCAM
from attribkit.methods.attention import Attention, AttentionRollout, GradientRollout
from attribkit.methods.attention_gates import AttentionGates
from attribkit.methods.cam import CAM
from attribkit.methods.controls import Centre, Constant, Edges, InputNorm, Random
from attribkit.methods.eigencam import EigenCAM
from attribkit.methods.gradcam import GradCAM
from attribkit.methods.gradcam_plus_plus import GradCAMPlusPlus
from attribkit.methods.guided_backprop import DeconvNet, GuidedBackprop
from attribkit.methods.guided_gradcam import GuidedGradCAM
from attribkit.methods.hirescam import HiResCAM
from attribkit.methods.input_x_gradient import InputXGradient
from attribkit.methods.integrated_gradients import IntegratedGradients
from attribkit.methods.layercam import LayerCAM
from attribkit.methods.occlusion import Occlusion
from attribkit.methods.rise import RISE
from attribkit.methods.saliency import Saliency
from attribkit.methods.scorecam import ScoreCAM
from attribkit.methods.smoothgrad import SmoothGrad
from attribkit.methods.xgradcam import XGradCAM


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
