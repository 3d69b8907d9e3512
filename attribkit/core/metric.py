"""What the author of a metric writes."""

from abc import ABC, abstractmethod
from typing import ClassVar

from attribkit.core.attribution import Attribution
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Masks, PerImage


class Metric(ABC):
    """Scores an attribution, a number per image; subclass one of the two kinds below as a frozen dataclass."""

    name: ClassVar[str]  # what users write: metric="pointing_game"
    source: ClassVar[str]  # authors, venue, year, equation
    higher_is_better: ClassVar[bool]


class Faithfulness(Metric):
    """Asks the model: are these the pixels that it used?"""

    @abstractmethod
    def __call__(self, model: HookedModel, attribution: Attribution) -> PerImage:
        """One number per image, which does not depend on the rest of the batch."""


class Localization(Metric):
    """Asks an annotator: are these the pixels of the object?"""

    @abstractmethod
    def __call__(self, attribution: Attribution, mask: Masks) -> PerImage:
        """One number per image, which does not depend on the rest of the batch."""
