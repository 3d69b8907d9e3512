"""[methods/saliency] Gradient saliency.
[methods/input_x_gradient] Input times gradient.
[methods/smoothgrad] SmoothGrad and its relatives.
[methods/guided_backprop] Guided backpropagation and the deconvolutional network: gradients under another rule at the ReLUs.
[methods/guided_gradcam] Guided Grad-CAM.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from attribkit.contracts.attribution import resize_map
from attribkit.contracts.method import Method
from attribkit.core.errors import InvalidInput
from attribkit.core.options import Name, NonNegativeFloat, PositiveInt, Seed
from attribkit.core.pictures import extremes
from attribkit.core.shapes import Images, Scores
from attribkit.engine import backward_rules
from attribkit.engine.forward import Requirements
from attribkit.engine.model import HookedModel
from attribkit.methods.gradcam import average_maps, weighted_sum
from attribkit.targets.target import Target


@dataclass(frozen=True)
class Saliency(Method):
    """How strongly each pixel moves the score: the largest magnitude of the gradient over the channels."""

    name: ClassVar[str] = "saliency"
    source: ClassVar[str] = "Simonyan et al., ICLR Workshop 2014, sec. 3.1"

    requires = Requirements(gradients=(None,))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return model.gradient(x, target).abs().amax(1, keepdim=True)


@dataclass(frozen=True)
class InputXGradient(Method):
    """Each pixel times its gradient: to first order, what setting it to zero (the mean colour) would take away."""

    name: ClassVar[str] = "input_x_gradient"
    source: ClassVar[str] = "Shrikumar et al., 2016, arXiv:1605.01713, sec. 3.2"

    requires = Requirements(gradients=(None,))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return x * model.gradient(x, target)


@dataclass(frozen=True)
class SmoothGrad(Method):
    """The gradient under noise: its mean, the mean of its square (SmoothGrad-squared) or its variance (VarGrad).

    Every image gets the same noise, drawn from the seed, so that its scores do not depend on the images beside it.
    """

    name: ClassVar[str] = "smoothgrad"
    source: ClassVar[str] = "Smilkov et al., 2017, arXiv:1706.03825, sec. 3; Hooker et al., NeurIPS 2019"

    samples: PositiveInt = 25  # one forward and backward each
    sigma: NonNegativeFloat = 0.15  # standard deviation of the noise, as a share of each image's range of values
    average: Literal["mean", "square", "variance"] = "mean"
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.average == "variance" and (self.samples == 1 or self.sigma == 0):
            raise InvalidInput(
                f"average='variance' with samples={self.samples} and sigma={self.sigma} is zero everywhere: give "
                "samples from 2 and sigma above 0."
            )

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        low, high = extremes(x)
        scale = self.sigma * (high - low)
        flat = (low == high).flatten().nonzero().flatten().tolist()
        if flat and self.sigma:
            model.note(f"images {flat} are of one value, and noise is a share of their range: it is none for them")
        random = torch.Generator().manual_seed(self.seed)
        noises = (
            torch.randn(x.shape[1:], generator=random, dtype=torch.float32, device="cpu").to(x)
            for _ in range(self.samples)
        )
        total, squares = torch.zeros_like(x), torch.zeros_like(x)
        for gradient in model.gradients((x + scale * noise for noise in noises), target):
            total += gradient / self.samples
            squares += gradient**2 / self.samples
        return {"mean": total, "square": squares, "variance": squares - total**2}[self.average]


@dataclass(frozen=True)
class GuidedBackprop(Method):
    """The gradient, negative parts cut at every ReLU; sharp, and nearly the same for every class."""

    name: ClassVar[str] = "guided_backprop"
    source: ClassVar[str] = "Springenberg et al., ICLR Workshop 2015, sec. 3.4"

    requires = Requirements(gradients=(backward_rules.guided_relu,))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return model.gradient(x, target, backward_rules.guided_relu)


@dataclass(frozen=True)
class DeconvNet(Method):
    """The gradient, rectified at every ReLU in place of the ReLU's own mask."""

    name: ClassVar[str] = "deconvnet"
    source: ClassVar[str] = "Zeiler and Fergus, ECCV 2014, sec. 2.1"

    requires = Requirements(gradients=(backward_rules.deconvnet_relu,))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return model.gradient(x, target, backward_rules.deconvnet_relu)


@dataclass(frozen=True)
class GuidedGradCAM(Method):
    """Guided backpropagation times Grad-CAM: the first is sharp, the second knows the class. From one forward."""

    name: ClassVar[str] = "guided_gradcam"
    source: ClassVar[str] = "Selvaraju et al., ICCV 2017, sec. 3.2"

    layer: Name | None = None  # dotted name, of Grad-CAM; None is the last map of the image

    @property
    def requires(self) -> Requirements:
        return Requirements(layers=(self.layer,), gradients=(backward_rules.guided_relu,))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        answers = model.read(x, target, self.requires)
        maps = [weighted_sum(a, gradient.flatten(2).mean(2)).relu() for a, gradient in answers.layers[self.layer]]
        extents = [model.extent(self.layer, each.shape[2:]) for each in maps]
        where = average_maps(maps, x.shape[2:], extents)
        return answers.gradients[backward_rules.guided_relu] * resize_map(
            where, x.shape[2:], extents[0] if len(maps) == 1 else None
        )
