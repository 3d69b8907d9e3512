"""Attributions to a layer, as one map of its grid."""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import captum.attr
import torch
from torch import Tensor, nn

from attribkit import HookedModel, NonNegativeFloat, PositiveInt, Seed, UnknownName, UnsupportedModel

from .base import Baseline, Baselines, Call, CaptumMethod, mean_over_baselines
from .calls import Calls, Trace
from .gradients import Quadrature
from .rules import ReluRule, copy_for_deeplift

Layout = Any  # the layout of the model interface, which converts outputs to grids


@dataclass(frozen=True)
class LayerMethod(CaptumMethod, ABC):
    """Base class for methods that attribute to the outputs of a layer.

    The scores are the sums over the channels of captum's attributions, on the layer's grid.

    Args:
        layer: Dotted name of a module that runs once; None means the default layer of the model.
    """

    layer: str | None = None

    def explain(self, call: Call) -> Tensor:
        name, output, layout = read_layer(call.model, self.layer)
        module = module_in_copy(call.scoring.model, name)
        attributions = self.attribute(replace(call, arguments={**call.arguments, "layer": module}))
        return self.on_grid(name, attributions, output, layout)

    def on_grid(self, name: str, attributions: Tensor, output: Tensor, layout: Layout) -> Tensor:
        """Return the sum over channels of the attributions of a layer, (1, 1, *grid)."""
        if attributions.shape != output.shape:
            raise UnsupportedModel(
                f"captum returned attributions of shape {tuple(attributions.shape)} for layer {name!r}, whose output "
                f"has shape {tuple(output.shape)}. Choose another layer."
            )
        summed: Tensor = layout.to_grid(attributions).sum(1, keepdim=True)
        return summed


def read_layer(model: HookedModel, layer: str | None) -> tuple[str, Tensor, Layout]:
    """Return the name of a layer, its output for the image and its layout.

    Args:
        model: The model, bound to one image.
        layer: Dotted name; None means the default layer.

    Raises:
        UnsupportedModel: If captum cannot read the layer: its module runs several times, returns several tensors or has
            the frames of an image on its first axis.
    """
    with torch.no_grad():
        name, output, layout = model.output(model.images, layer)
    runs: list[Any] = []
    try:
        module = model.layer(name)
    except UnknownName:
        raise UnsupportedModel(
            f"Layer {name!r} is one of several outputs or runs of its module, and captum reads the last run of a "
            "module. Choose a module that runs once with layer=...; Explainer.layers() lists them."
        ) from None
    with torch.no_grad(), module.register_forward_hook(lambda _module, _inputs, returned: runs.append(returned)):
        model(model.images)
    if len(runs) != 1 or not isinstance(runs[0], Tensor) or layout.frames:
        raise UnsupportedModel(
            f"The module of layer {name!r} runs {len(runs)} times for an image and returns "
            f"{type(runs[-1]).__name__ if runs else 'nothing'}, and captum needs a module that runs once and returns a "
            "tensor with a row for each image. Choose another layer with layer=..., or use a method of attribkit."
        )
    return name, output, layout


def module_in_copy(model: nn.Module, name: str) -> nn.Module:
    """Return the module of a layer in a copy of the model."""
    module = model.get_submodule(name)
    return module.copies[0] if isinstance(module, Calls) else module


def require_channels_first(method: CaptumMethod, name: str, layout: Layout) -> None:
    """Raise UnsupportedModel for a layer whose channels are not on the second axis."""
    if layout.kind != "channels first":
        raise UnsupportedModel(
            f"{method.name} averages gradients over the axes after the second, and layer {name!r} is {layout}: the "
            "weights would not be those of its channels. Use gradcam of attribkit, or another layer."
        )


@dataclass(frozen=True)
class LayerGradCam(LayerMethod):
    """Channels of a layer, weighted by the spatial mean of their gradients; one forward and backward.

    Args:
        layer: Dotted name of a module that runs once; None means the default layer of the model.
        relu_attributions: Whether to set negative values to zero, as in the paper.

    Reference:
        Selvaraju et al., ICCV 2017, eq. 1 and 2.
    """

    name: ClassVar[str] = "captum.LayerGradCam"
    source: ClassVar[str] = "Selvaraju et al., ICCV 2017, eq. 1 and 2"
    algorithm: ClassVar[Any] = captum.attr.LayerGradCam

    relu_attributions: bool = False

    def on_grid(self, name: str, attributions: Tensor, output: Tensor, layout: Layout) -> Tensor:
        require_channels_first(self, name, layout)
        grid: Tensor = layout.to_grid(attributions)
        return grid


@dataclass(frozen=True)
class LayerActivation(LayerMethod):
    """Sum of the channels of a layer; does not depend on the target. One forward.

    Args:
        layer: Dotted name of a module that runs once; None means the default layer of the model.

    Reference:
        Kokhlikyan et al., 2020, arXiv:2009.07896 (captum).
    """

    name: ClassVar[str] = "captum.LayerActivation"
    source: ClassVar[str] = "Kokhlikyan et al., 2020, arXiv:2009.07896 (captum)"
    algorithm: ClassVar[Any] = captum.attr.LayerActivation
    uses_target: ClassVar[bool] = False


@dataclass(frozen=True)
class LayerGradientXActivation(LayerMethod):
    """Gradient times activation of a layer; one forward and backward.

    Args:
        layer: Dotted name of a module that runs once; None means the default layer of the model.
        multiply_by_inputs: Whether to multiply by the activation.

    Reference:
        Shrikumar et al., 2016, arXiv:1605.01713, at a layer; Kokhlikyan et al., 2020, arXiv:2009.07896 (captum).
    """

    name: ClassVar[str] = "captum.LayerGradientXActivation"
    source: ClassVar[str] = "Shrikumar et al., 2016, arXiv:1605.01713, at a layer"
    algorithm: ClassVar[Any] = captum.attr.LayerGradientXActivation

    multiply_by_inputs: bool = True


@dataclass(frozen=True)
class PathMethod(LayerMethod, ABC):
    """Base class for methods that integrate along the line from a baseline to the image.

    Args:
        baseline: A substrate by name, or images.
        n_steps: Points on the line, each one forward and backward.
        method: Quadrature of the integral.
        seed: Seed of the baseline "noise".
    """

    baseline: Baseline = "zero"
    n_steps: PositiveInt = 50
    method: Quadrature = "gausslegendre"
    seed: Seed = 0


@dataclass(frozen=True)
class LayerConductance(PathMethod):
    """Part of integrated gradients of the image that flows through a layer; n_steps + 1 forwards and backwards.

    Args:
        layer: Dotted name of a module that runs once; None means the default layer of the model.
        baseline: A substrate by name, or images.
        n_steps: Points on the line from the baseline to the image.
        method: Quadrature of the integral.
        seed: Seed of the baseline "noise".

    Reference:
        Dhamdhere et al., ICLR 2019, eq. 2.
    """

    name: ClassVar[str] = "captum.LayerConductance"
    source: ClassVar[str] = "Dhamdhere et al., ICLR 2019, eq. 2"
    check_options: ClassVar[Mapping[str, Any]] = {"n_steps": 4}
    algorithm: ClassVar[Any] = captum.attr.LayerConductance
    joint: ClassVar[bool] = True

    def most_rows(self, call: Call) -> int:
        return max(2, super().most_rows(call))  # captum takes differences between consecutive points


@dataclass(frozen=True)
class InternalInfluence(PathMethod):
    """Gradient for a layer, averaged along the line from a baseline image to the image; n_steps forwards and backwards.

    Args:
        layer: Dotted name of a module that runs once; None means the default layer of the model.
        baseline: A substrate by name, or images.
        n_steps: Points on the line from the baseline to the image.
        method: Quadrature of the integral.
        seed: Seed of the baseline "noise".

    Reference:
        Leino et al., ITC 2018, eq. 1.
    """

    name: ClassVar[str] = "captum.InternalInfluence"
    source: ClassVar[str] = "Leino et al., ITC 2018, eq. 1"
    check_options: ClassVar[Mapping[str, Any]] = {"n_steps": 4}
    algorithm: ClassVar[Any] = captum.attr.InternalInfluence
    expected_failures: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("seed", "double_precision", "position"),
        "between the default layer of the examples and a class there are only linear operations, whose gradient is the "
        "same for all images and positions",
    )


@dataclass(frozen=True)
class LayerIntegratedGradients(PathMethod):
    """Integrated gradients from a layer's output for a baseline to that for the image; n_steps forwards and backwards.

    Args:
        layer: Dotted name of a module that runs once; None means the default layer of the model.
        baseline: A substrate by name, or images.
        n_steps: Points on the line between both outputs.
        method: Quadrature of the integral.
        seed: Seed of the baseline "noise".
        multiply_by_inputs: Whether to multiply by the difference of both outputs.

    Reference:
        Sundararajan et al., ICML 2017, eq. 1, at a layer.
    """

    name: ClassVar[str] = "captum.LayerIntegratedGradients"
    source: ClassVar[str] = "Sundararajan et al., ICML 2017, eq. 1, at a layer"
    check_options: ClassVar[Mapping[str, Any]] = {"n_steps": 4}
    algorithm: ClassVar[Any] = captum.attr.LayerIntegratedGradients

    multiply_by_inputs: bool = True


@dataclass(frozen=True)
class LayerGradientShap(LayerMethod):
    """Expected gradient for a layer at random points between its outputs for baselines and for the image.

    Args:
        layer: Dotted name of a module that runs once; None means the default layer of the model.
        baseline: One or more substrates by name, or images, from which captum draws.
        n_samples: Number of points, each one forward and backward.
        stdevs: Standard deviation of noise that is added to the image for each point.
        multiply_by_inputs: Whether to multiply by the difference of both outputs.
        seed: Seed of the points, the noise and the baseline "noise".

    Reference:
        Lundberg and Lee, NeurIPS 2017; Erion et al., Nature Machine Intelligence 2021, at a layer.
    """

    name: ClassVar[str] = "captum.LayerGradientShap"
    source: ClassVar[str] = "Lundberg and Lee, NeurIPS 2017; Erion et al., 2021, at a layer"
    algorithm: ClassVar[Any] = captum.attr.LayerGradientShap
    joint: ClassVar[bool] = True

    baseline: Baselines = ("zero", "blur")
    n_samples: PositiveInt = 5
    stdevs: NonNegativeFloat = 0.0
    multiply_by_inputs: bool = True
    seed: Seed = 0


@dataclass(frozen=True)
class LayerDeepLift(LayerMethod):
    """DeepLift for the output of a layer; one forward and backward of two images.

    Args:
        layer: Dotted name of a module that runs once; None means the default layer of the model.
        baseline: A substrate by name, or images.
        multiply_by_inputs: Whether to multiply by the difference of the outputs.
        seed: Seed of the baseline "noise".

    Reference:
        Shrikumar et al., ICML 2017, at a layer.
    """

    name: ClassVar[str] = "captum.LayerDeepLift"
    source: ClassVar[str] = "Shrikumar et al., ICML 2017, at a layer"
    algorithm: ClassVar[Any] = captum.attr.LayerDeepLift
    joint: ClassVar[bool] = True

    baseline: Baseline = "zero"
    multiply_by_inputs: bool = True
    seed: Seed = 0

    def copied(self, model: HookedModel) -> tuple[HookedModel, Trace | None]:
        return copy_for_deeplift(model)


@dataclass(frozen=True)
class LayerDeepLiftShap(LayerMethod):
    """DeepLift for the output of a layer, averaged over several baselines.

    Args:
        layer: Dotted name of a module that runs once; None means the default layer of the model.
        baseline: One or more substrates by name, or images; for each one forward and backward of two images.
        multiply_by_inputs: Whether to multiply by the difference of the outputs.
        seed: Seed of the baseline "noise"; the k-th baseline uses seed + k.

    Reference:
        Lundberg and Lee, NeurIPS 2017, sec. 4.2 (Deep SHAP), at a layer.
    """

    name: ClassVar[str] = "captum.LayerDeepLiftShap"
    source: ClassVar[str] = "Lundberg and Lee, NeurIPS 2017, sec. 4.2, at a layer"
    algorithm: ClassVar[Any] = captum.attr.LayerDeepLift  # for one baseline at a time
    joint: ClassVar[bool] = True

    baseline: Baselines = ("zero", "blur")
    multiply_by_inputs: bool = True
    seed: Seed = 0

    def copied(self, model: HookedModel) -> tuple[HookedModel, Trace | None]:
        return copy_for_deeplift(model)

    def attribute(self, call: Call) -> Tensor:
        return mean_over_baselines(call, super().attribute)


@dataclass(frozen=True)
class GuidedGradCam(ReluRule):
    """Guided backpropagation times the positive part of Grad-CAM; two forwards and backwards.

    Args:
        layer: Dotted name of a module that runs once; None means the default layer of the model.
        interpolate_mode: How the map of Grad-CAM is enlarged to the image; "nearest" also for clips and volumes.

    Reference:
        Selvaraju et al., ICCV 2017, sec. 3.2.
    """

    name: ClassVar[str] = "captum.GuidedGradCam"
    source: ClassVar[str] = "Selvaraju et al., ICCV 2017, sec. 3.2"
    algorithm: ClassVar[Any] = captum.attr.GuidedGradCam

    layer: str | None = None
    interpolate_mode: Literal["nearest", "area", "bilinear", "bicubic"] = "nearest"

    def explain(self, call: Call) -> Tensor:
        name, _, layout = read_layer(call.model, self.layer)
        require_channels_first(self, name, layout)
        if layout.extent is not None or layout.order is not None:
            raise UnsupportedModel(
                f"captum enlarges a map to the whole image, and the grid of layer {name!r} covers only a part of it. "
                "Use guided_gradcam of attribkit, or another layer."
            )
        module = module_in_copy(call.scoring.model, name)
        return self.attribute(replace(call, arguments={**call.arguments, "layer": module}))
