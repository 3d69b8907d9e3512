"""Class activation maps."""

from dataclasses import dataclass
from typing import ClassVar

from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.options import Name
from attribkit.core.shapes import Images, Scores
from attribkit.core.targets.target import Target
from attribkit.methods.layer_maps import weighted


@dataclass(frozen=True)
class CAM(Method):
    """The last maps, each times the weight that the classifier gives its average; exact, for models that end so.

    Their mean, plus the classifier's bias, is the class's score. Models with another head are refused.
    """

    name: ClassVar[str] = "cam"
    source: ClassVar[str] = "Zhou et al., CVPR 2016, eq. 2"

    layer: Name | None = None  # dotted name; None is the last map of the image

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return weighted(*model.class_weights(x, target, self.layer))
