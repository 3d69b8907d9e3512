"""Scores and maps that several metrics compute: the original score, the scored target, and a recomputed map."""

from functools import partial

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.metric import Metric
from attribkit._contracts.records import Recorded
from attribkit._core.errors import InvalidInput
from attribkit._core.shapes import Heatmaps, Images, PerImage
from attribkit._engine.model import HookedModel
from attribkit._runs.attribution import run_attribution
from attribkit._targets.binary import BinaryScore
from attribkit._targets.resolution import with_score_type
from attribkit._targets.target import Target


def recompute(
    metric: Metric,
    model: HookedModel,
    attribution: Attribution,
    *,
    x: Images | None = None,
    target: Target | None = None,
) -> Heatmaps:
    """Run the attribution's method again and return its heatmap.

    Args:
        metric: The metric, which reduces the scores to a heatmap.
        model: The model to explain; it may differ from the one of the attribution.
        attribution: The attribution whose method, images and target are used.
        x: Images in place of the attribution's, as many as those; None uses the attribution's.
        target: Target in place of the attribution's; None uses the attribution's.

    Raises:
        InvalidInput: If the method or the target was loaded from a file and cannot be run.
    """
    method, used_target = attribution.method, attribution.target if target is None else target
    if isinstance(method, Recorded) or isinstance(used_target, Recorded):
        raise InvalidInput(
            f"{metric.name!r} runs the method again, but the attribution by {method!r} for {used_target!r} was loaded "
            "from a file. Compute it with Explainer.attribute."
        )
    images = (attribution.x if x is None else x).clone()  # a method may write into its images
    return metric.heatmap(run_attribution(method, model.bind(images, model.inputs), images, used_target))


def scored_target(attribution: Attribution, score: BinaryScore) -> Target:
    """Return the target with a class's score as probability or logit; other targets are returned unchanged."""
    return with_score_type(attribution.target, score)  # type: ignore[arg-type]


def original_score(model: HookedModel, x: Images, target: Target) -> PerImage:
    """Return the score of the unperturbed images, computed once for all metrics."""
    return model.cached(("score", target), partial(model.score, x, target))
