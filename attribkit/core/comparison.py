"""What a comparison of several methods gives: their attributions, and the errors of those that failed."""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from attribkit.core.attribution import Attribution
from attribkit.core.errors import AttribkitError
from attribkit.core.method import Method
from attribkit.core.targets.target import Target


@dataclass(frozen=True, eq=False)
class FailedAttribution:
    """A method that gave no attribution for a target; str() is a sentence."""

    method: Method
    target: Target
    error: Exception

    def __post_init__(self) -> None:
        traceback.clear_frames(self.error.__traceback__)  # whose variables hold activations

    def __str__(self) -> str:
        kind = "" if isinstance(self.error, AttribkitError) else f"{self.method.name}: {type(self.error).__name__}: "
        return f"{kind}{self.error}"


class Comparison(list[Attribution]):
    """The attributions of several methods and targets, target by target.

    rows: one for each target, with the attribution or the failure of each method. Where nothing failed, the list holds
    all of them in this order; a failure has no place in the list.
    """

    def __init__(self, rows: Sequence[Sequence[Attribution | FailedAttribution]]) -> None:
        self.rows = tuple(tuple(row) for row in rows)
        super().__init__(each for row in self.rows for each in row if isinstance(each, Attribution))

    @property
    def failures(self) -> list[FailedAttribution]:
        """Those that gave no attribution, in the order of the rows."""
        return [each for row in self.rows for each in row if isinstance(each, FailedAttribution)]
