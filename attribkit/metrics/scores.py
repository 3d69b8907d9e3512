"""[metrics/asked_again] What a method says when it is asked again.
[metrics/asked_score] What of the model's answer a faithfulness metric looks at.
"""

from attribkit.contracts.attribution import Attribution
from attribkit.contracts.metric import Metric
from attribkit.contracts.records import Recorded
from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import Heatmaps, Images, PerImage
from attribkit.engine.model import HookedModel
from attribkit.runs.attribution import run_attribution
from attribkit.targets.binary import BinaryScore
from attribkit.targets.resolution import with_score_type
from attribkit.targets.target import Target


def recompute(
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
    return metric.heatmap(run_attribution(method, model.bind(images, model.inputs), images, question))


def scored_target(attribution: Attribution, score: BinaryScore) -> Target:
    """The explained class's probability or logit; a target that is neither as it is."""
    return with_score_type(attribution.target, score)  # type: ignore[arg-type]


def original_score(model: HookedModel, x: Images, target: Target) -> PerImage:
    """The score of the explained images as they are, asked once for all metrics."""
    return model.cached(("score", target), lambda: model.score(x, target))
