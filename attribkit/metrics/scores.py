"""[metrics/asked_again] What a method says when it is asked again.
[metrics/asked_score] What of the model's answer a faithfulness metric looks at."""

from attribkit.contracts.attribution import Attribution
from attribkit.contracts.metric import Metric
from attribkit.contracts.records import Recorded
from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import Heatmaps, Images, PerImage
from attribkit.engine.model import HookedModel
from attribkit.runs.attribution import explained
from attribkit.targets.binary import Score
from attribkit.targets.resolution import scored_as
from attribkit.targets.target import Target


def asked_again(
    metric: Metric,
    model: HookedModel,
    attribution: Attribution,
    *,
    x: Images | None = None,
    target: Target | None = None,
) -> Heatmaps:
    """The heatmap of the attribution's method for a model, for other images or another target where these are given.

    x: as many images as the attribution's. Raises InvalidInput where the method or the target comes from a file.
    """
    method, question = attribution.method, attribution.target if target is None else target
    if isinstance(method, Recorded) or isinstance(question, Recorded):
        raise InvalidInput(
            f"{metric.name!r} runs the method again, and {method!r} of {question!r} comes from a file: explain the "
            "images anew by Explainer.attribute."
        )
    images = (attribution.x if x is None else x).clone()  # what a plugin writes into them, the attribution keeps
    return metric.heatmap(explained(method, model.explaining(images, model.inputs), images, question))


def asked_target(attribution: Attribution, score: Score) -> Target:
    """The explained class's probability or logit; a target that is neither as it is."""
    return scored_as(attribution.target, score)  # type: ignore[arg-type]


def score_of_whole(model: HookedModel, x: Images, target: Target) -> PerImage:
    """The score of the explained images as they are, asked once for all metrics."""
    return model.remembered(("score", target), lambda: model.score(x, target))
