"""The attribution methods of captum for attribkit, named after captum's classes: ``captum.DeepLift``."""

from attribkit import Method, hookimpl

from .gradients import GradientShap, InputXGradient, IntegratedGradients, Saliency
from .layers import (
    GuidedGradCam,
    InternalInfluence,
    LayerActivation,
    LayerConductance,
    LayerDeepLift,
    LayerDeepLiftShap,
    LayerGradCam,
    LayerGradientShap,
    LayerGradientXActivation,
    LayerIntegratedGradients,
)
from .lrp import LRP
from .noise_tunnel import NoiseTunnel
from .perturbations import (
    FeatureAblation,
    KernelShap,
    Lime,
    Occlusion,
    ShapleyValues,
    ShapleyValueSampling,
)
from .rules import Deconvolution, DeepLift, DeepLiftShap, GuidedBackprop

METHODS: tuple[type[Method], ...] = (
    Saliency, InputXGradient, IntegratedGradients, GradientShap, NoiseTunnel, GuidedBackprop, Deconvolution,
    GuidedGradCam, DeepLift, DeepLiftShap, LRP, FeatureAblation, Occlusion, ShapleyValueSampling, ShapleyValues,
    KernelShap, Lime, LayerGradCam, LayerActivation, LayerGradientXActivation, LayerConductance, InternalInfluence,
    LayerIntegratedGradients, LayerGradientShap, LayerDeepLift, LayerDeepLiftShap,
)  # fmt: skip

__all__ = ["METHODS", *sorted(method.__name__ for method in METHODS)]


@hookimpl
def attribkit_methods() -> list[type[Method]]:
    return list(METHODS)
