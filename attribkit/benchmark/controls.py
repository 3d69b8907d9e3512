"""Controls that are no methods of anybody's: methods all the same, so that metrics may run them again."""

from dataclasses import dataclass, field
from typing import ClassVar

from attribkit.benchmark.statistics.roles import TRUTH
from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, Masks, Scores
from attribkit.core.targets.target import Target


@dataclass(frozen=True)
class Inverted(Method):
    """The negative of another method's map."""

    name: ClassVar[str] = "inverted"
    source: ClassVar[str] = "a control"

    method: Method

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return -self.method(model, x, target)


@dataclass(frozen=True, eq=False)
class TruthAsMap(Method):
    """The mask of the object, whatever the model and the pixels."""

    name: ClassVar[str] = TRUTH
    source: ClassVar[str] = "a control"

    mask: Masks = field(repr=False)

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        return self.mask[:, None].to(x)
