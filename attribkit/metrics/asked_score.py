"""What of the model's answer a faithfulness metric looks at."""

from attribkit.core.attribution import Attribution
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images, PerImage
from attribkit.core.targets.asked import scored_as
from attribkit.core.targets.binary import Score
from attribkit.core.targets.target import Target


def asked_target(attribution: Attribution, score: Score) -> Target:
    """The explained class's probability or logit; a target that is neither as it is."""
    return scored_as(attribution.target, score)  # type: ignore[arg-type]


def score_of_whole(model: HookedModel, x: Images, target: Target) -> PerImage:
    """The score of the explained images as they are, asked once for all metrics."""
    return model.remembered(("score", target), lambda: model.score(x, target))
