"""Methods based on the gradient with respect to the image: plain, under noise, and with other rules at the ReLUs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from attribkit._contracts.attribution import resize_map
from attribkit._contracts.method import Method
from attribkit._core.errors import InvalidInput
from attribkit._core.options import Name, NonNegativeFloat, PositiveInt, Seed
from attribkit._core.pictures import extremes
from attribkit._core.shapes import Images, Scores
from attribkit._engine import backward_rules
from attribkit._engine.forward import Requirements
from attribkit._engine.model import HookedModel
from attribkit._targets.target import Target
from attribkit.methods._gradcam import average_maps, weighted_sum


@dataclass(frozen=True)
class Saliency(Method):
    """Sensitivity of the score to each pixel: the maximum over the channels of the gradient's magnitude."""

    name: ClassVar[str] = "saliency"
    display_name: ClassVar[str] = "Saliency"
    source: ClassVar[str] = "Simonyan et al., ICLR Workshop 2014, sec. 3.1"

    requires = Requirements(gradients=(None,))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return model.gradient(x, target).abs().amax(1, keepdim=True)


@dataclass(frozen=True)
class InputXGradient(Method):
    """Each input value times its gradient: the first-order change of the score if it becomes zero (the mean colour)."""

    name: ClassVar[str] = "input_x_gradient"
    display_name: ClassVar[str] = "Input \N{MULTIPLICATION SIGN} gradient"
    source: ClassVar[str] = "Shrikumar et al., 2016, arXiv:1605.01713, sec. 3.2"

    requires = Requirements(gradients=(None,))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return x * model.gradient(x, target)


@dataclass(frozen=True)
class SmoothGrad(Method):
    """Gradient averaged over noisy copies of the image.

    All images of a batch get the same noise, so that their scores do not depend on each other.

    Args:
        samples: Number of noisy copies; each costs one forward and one backward.
        sigma: Standard deviation of the noise, as a fraction of each image's range of values.
        average: The mean of the gradient, the mean of its square (SmoothGrad-squared) or its variance (VarGrad).
        seed: Seed of the noise.
    """

    name: ClassVar[str] = "smoothgrad"
    display_name: ClassVar[str] = "SmoothGrad"
    source: ClassVar[str] = "Smilkov et al., 2017, arXiv:1706.03825, sec. 3; Hooker et al., NeurIPS 2019"

    samples: PositiveInt = 25
    sigma: NonNegativeFloat = 0.15
    average: Literal["mean", "square", "variance"] = "mean"
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.average == "variance" and (self.samples == 1 or self.sigma == 0):
            raise InvalidInput(
                f"average='variance' with samples={self.samples} and sigma={self.sigma} is zero everywhere: use at "
                "least 2 samples and sigma above 0."
            )

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        low, high = extremes(x)
        scale = self.sigma * (high - low)
        constant = (low == high).flatten().nonzero().flatten().tolist()
        if constant and self.sigma:
            model.note(
                f"images {constant} are constant: the noise is proportional to the range of values, so it is zero for "
                "them"
            )
        generator = torch.Generator().manual_seed(self.seed)
        noises = (
            torch.randn(x.shape[1:], generator=generator, dtype=torch.float32, device="cpu").to(x)
            for _ in range(self.samples)
        )
        total, squares = torch.zeros_like(x), torch.zeros_like(x)
        for gradient in model.gradients((x + scale * noise for noise in noises), target, self.samples):
            total += gradient / self.samples
            squares += gradient**2 / self.samples
        return {"mean": total, "square": squares, "variance": squares - total**2}[self.average]


@dataclass(frozen=True)
class GuidedBackprop(Method):
    """Gradient with negative values set to zero at every ReLU; sharp, and nearly the same for every class."""

    name: ClassVar[str] = "guided_backprop"
    display_name: ClassVar[str] = "Guided backprop"
    source: ClassVar[str] = "Springenberg et al., ICLR Workshop 2015, sec. 3.4"

    requires = Requirements(gradients=(backward_rules.guided_relu,))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return model.gradient(x, target, backward_rules.guided_relu)


@dataclass(frozen=True)
class DeconvNet(Method):
    """Gradient where each ReLU's derivative is replaced by a ReLU of the incoming gradient."""

    name: ClassVar[str] = "deconvnet"
    display_name: ClassVar[str] = "DeconvNet"
    source: ClassVar[str] = "Zeiler and Fergus, ECCV 2014, sec. 2.1"
    expected_failures: ClassVar[Mapping[str, str]] = {
        "position": "the map does not depend on which ReLUs the image activates"
    }

    requires = Requirements(gradients=(backward_rules.deconvnet_relu,))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return model.gradient(x, target, backward_rules.deconvnet_relu)


@dataclass(frozen=True)
class GuidedGradCAM(Method):
    """Guided backpropagation, which is sharp, times Grad-CAM, which is class-specific; both from one forward.

    Args:
        layer: Dotted name of the layer of Grad-CAM; None means the last layer with a spatial map.
    """

    name: ClassVar[str] = "guided_gradcam"
    display_name: ClassVar[str] = "Guided Grad-CAM"
    source: ClassVar[str] = "Selvaraju et al., ICCV 2017, sec. 3.2"

    layer: Name | None = None

    @property
    def requires(self) -> Requirements:
        return Requirements(layers=(self.layer,), gradients=(backward_rules.guided_relu,))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        results = model.read(x, target, self.requires)
        maps = [weighted_sum(a, gradient.flatten(2).mean(2)).relu() for a, gradient in results.layers[self.layer]]
        extents = [model.extent(self.layer, each.shape[2:]) for each in maps]
        gradcam = average_maps(maps, x.shape[2:], extents)
        extent = extents[0] if len(maps) == 1 else None
        return results.gradients[backward_rules.guided_relu] * resize_map(gradcam, x.shape[2:], extent)
