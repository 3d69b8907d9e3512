"""What of the model's answer a faithfulness metric looks at."""

from typing import Literal, get_args

from attribkit.core.errors import InvalidInput
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, PerImage
from attribkit.core.targets.logits import ClassLogit, Probability, as_probability
from attribkit.core.targets.target import Target

Score = Literal["probability", "logit"]  # of the explained class; other targets are scored as they are


def asked_target(target: Target, score: Score) -> Target:
    """The explained class's probability or logit; a target that is neither as it is."""
    if score not in get_args(Score):
        raise InvalidInput(f"score={score!r} is neither 'probability' nor 'logit'.")
    if score == "probability":
        return as_probability(target)
    return ClassLogit(target.index) if isinstance(target, Probability) else target


def score_of_whole(model: HookedModel, x: Images, target: Target) -> PerImage:
    """The score of the explained images as they are, asked once for all metrics."""
    return model.remembered(("score", target), lambda: model.score(x, target))
