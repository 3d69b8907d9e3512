"""Gradient saliency."""

from dataclasses import dataclass
from typing import ClassVar

from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.reading import Reads
from attribkit.core.shapes import Images, Scores
from attribkit.core.targets.target import Target


@dataclass(frozen=True)
class Saliency(Method):
    """How strongly each pixel moves the score: the largest magnitude of the gradient over the channels."""

    name: ClassVar[str] = "saliency"
    source: ClassVar[str] = "Simonyan et al., ICLR Workshop 2014, sec. 3.1"

    reads = Reads(gradients=(None,))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return model.gradient(x, target).abs().amax(1, keepdim=True)
