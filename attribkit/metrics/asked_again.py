"""What a method says when it is asked again."""

from attribkit.core.attribution import Attribution
from attribkit.core.errors import InvalidInput
from attribkit.core.explained import explained
from attribkit.core.metric import Metric
from attribkit.core.model import HookedModel
from attribkit.core.recorded import Recorded
from attribkit.core.shapes import Heatmaps, Images
from attribkit.core.targets.target import Target


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
