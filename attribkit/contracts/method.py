"""What the author of a method writes."""

from abc import ABC, abstractmethod
from typing import ClassVar

from attribkit.core.options import Options
from attribkit.core.shapes import Images, Scores
from attribkit.engine.forward import Requirements
from attribkit.engine.model import HookedModel
from attribkit.targets.target import Target


class Method(Options, ABC):
    """Scores each pixel's part in the model's answer; subclass as a frozen dataclass whose fields are the options.

    The annotation of a field says what the option may be, as ``samples: PositiveInt`` or ``layer: str | None``; anything else
    is refused when an instance is made.
    """

    name: ClassVar[str]  # what users write: method="gradcam"
    source: ClassVar[str]  # authors, venue, year, equation
    needs_target: ClassVar[bool] = True  # False: the map is the same for every target, and NoTarget() is passed

    @property
    def requires(self) -> Requirements:
        """What it will ask of the images as they are, so that one forward can serve it and others; none by default."""
        return Requirements()

    @abstractmethod
    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        """Score x for target, with the words of `model`; signed, at the method's own resolution.

        The caller has put the model into evaluation mode and puts everything back.
        """
