"""Guided Grad-CAM."""

from dataclasses import dataclass
from typing import ClassVar

from attribkit.core import rules
from attribkit.core.attribution import resized
from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.options import Name
from attribkit.core.reading import Reads
from attribkit.core.shapes import Images, Scores
from attribkit.core.targets.target import Target
from attribkit.methods.layer_maps import averaged, weighted


@dataclass(frozen=True)
class GuidedGradCAM(Method):
    """Guided backpropagation times Grad-CAM: the first is sharp, the second knows the class. From one forward."""

    name: ClassVar[str] = "guided_gradcam"
    source: ClassVar[str] = "Selvaraju et al., ICCV 2017, sec. 3.2"

    layer: Name | None = None  # dotted name, of Grad-CAM; None is the last map of the image

    @property
    def reads(self) -> Reads:
        return Reads(layers=(self.layer,), gradients=(rules.guided,))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        answers = model.read(x, target, self.reads)
        maps = [weighted(a, gradient.flatten(2).mean(2)).relu() for a, gradient in answers.layers[self.layer]]
        return answers.gradients[rules.guided] * resized(averaged(maps, x.shape[2:]), x.shape[2:])
