"""What the author of a visualizer writes."""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from attribkit.core.options import Options
from attribkit.core.shapes import Images
from attribkit.engine.model import HookedModel
from attribkit.targets.target import Target

GeneratedImages = Float[Tensor, "n c *space"]  # as many images as the visualizer makes
Responses = Float[Tensor, "steps n"]  # of the unit to each of n images, step by step


class Visualizer(Options, ABC):
    """Makes images that a unit of a model responds to; subclass as a frozen dataclass whose fields are the options."""

    name: ClassVar[str]  # what users write: visualizer="activation_maximization"
    source: ClassVar[str]  # authors, venue, year, equation

    @abstractmethod
    def __call__(self, model: HookedModel, unit: Target, blank: Images) -> tuple[GeneratedImages, Responses]:
        """Images that excite the unit, normalised as the model expects, and the responses on the way to them.

        blank: zeros of the shape, device and precision that the images must have; one image, or one for each class of
        a target of several. The images are as many, or a multiple: that many in a row, several times. The last row of
        the responses is to the images handed back. The caller has put the model into evaluation mode, seeds nothing
        and puts everything back, random numbers too.
        """
