"""The built-in methods, registered by the hook that any plugin uses."""

from attribkit.core.method import Method
from attribkit.hookspecs import hookimpl
from attribkit.methods.attention_gates import AttentionGates
from attribkit.methods.controls import Centre, Edges, InputNorm, Random
from attribkit.methods.eigencam import EigenCAM
from attribkit.methods.gradcam import GradCAM
from attribkit.methods.gradcam_plus_plus import GradCAMPlusPlus
from attribkit.methods.guided_backprop import DeconvNet, GuidedBackprop
from attribkit.methods.hirescam import HiResCAM
from attribkit.methods.input_x_gradient import InputXGradient
from attribkit.methods.integrated_gradients import IntegratedGradients
from attribkit.methods.layercam import LayerCAM
from attribkit.methods.occlusion import Occlusion
from attribkit.methods.saliency import Saliency
from attribkit.methods.smoothgrad import SmoothGrad
from attribkit.methods.xgradcam import XGradCAM


@hookimpl
def attribkit_methods() -> list[type[Method]]:
    """Methods in the order of tables and figures: class activation maps, gradients, gates, perturbations, controls."""
    maps: list[type[Method]] = [GradCAM, GradCAMPlusPlus, HiResCAM, XGradCAM, LayerCAM, EigenCAM]
    gradients: list[type[Method]] = [
        Saliency, InputXGradient, SmoothGrad, IntegratedGradients, GuidedBackprop, DeconvNet,
    ]  # fmt: skip
    return [*maps, *gradients, AttentionGates, Occlusion, Random, Centre, Edges, InputNorm]
