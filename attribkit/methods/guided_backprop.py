"""Guided backpropagation and the deconvolutional network: gradients under another rule at the ReLUs."""

from dataclasses import dataclass
from typing import ClassVar

from attribkit.core import rules
from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.reading import Reads
from attribkit.core.shapes import Images, Scores
from attribkit.core.targets.target import Target


@dataclass(frozen=True)
class GuidedBackprop(Method):
    """The gradient, negative parts cut at every ReLU; sharp, and nearly the same for every class."""

    name: ClassVar[str] = "guided_backprop"
    source: ClassVar[str] = "Springenberg et al., ICLR Workshop 2015, sec. 3.4"

    reads = Reads(gradients=(rules.guided,))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return model.gradient(x, target, rules.guided)


@dataclass(frozen=True)
class DeconvNet(Method):
    """The gradient, rectified at every ReLU in place of the ReLU's own mask."""

    name: ClassVar[str] = "deconvnet"
    source: ClassVar[str] = "Zeiler and Fergus, ECCV 2014, sec. 2.1"

    reads = Reads(gradients=(rules.deconvnet,))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return model.gradient(x, target, rules.deconvnet)
