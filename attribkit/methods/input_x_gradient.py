"""Input times gradient."""

from dataclasses import dataclass
from typing import ClassVar

from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.reading import Reads
from attribkit.core.shapes import Images, Scores
from attribkit.core.targets.target import Target


@dataclass(frozen=True)
class InputXGradient(Method):
    """Each pixel times its gradient: to first order, what setting it to zero (the mean colour) would take away."""

    name: ClassVar[str] = "input_x_gradient"
    source: ClassVar[str] = "Shrikumar et al., 2016, arXiv:1605.01713, sec. 3.2"

    reads = Reads(gradients=(None,))

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return x * model.gradient(x, target)
