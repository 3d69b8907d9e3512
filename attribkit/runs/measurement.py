"""What a metric gives, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.contracts.attribution import Attribution
from attribkit.contracts.metric import Complexity, Faithfulness, Localization, Metric, Robustness
from attribkit.contracts.records import Recorded
from attribkit.core.errors import AttribkitError, InvalidInput, error_context
from attribkit.core.ground_truth import GroundTruth, as_ground_truth
from attribkit.core.inputs import has_other_inputs
from attribkit.core.shapes import Images
from attribkit.core.substrates import options_channels_first
from attribkit.engine.model import HookedModel
from attribkit.runs.diagnosis import diagnosis_of
from attribkit.runs.guards import read_only, refuse_exits
from attribkit.state.hooks import frozen
from attribkit.targets.resolution import as_target
from attribkit.targets.target import NoTarget, Target


@dataclass(frozen=True, eq=False)
class MetricResult:
    """The numbers that one metric gives m attributions of the same b images."""

    metric: Metric
    values: Float[Tensor, "m b"]
    details: Mapping[str, Tensor] = field(default_factory=dict)  # by name, (m, b, ...): curves, shares of ties ...
    notes: tuple[str, ...] = ()  # what a careful reader should know of the model, where it was asked


@dataclass(frozen=True, eq=False)
class MetricSession:
    """Metrics put to maps of the same images, one after the other: what several ask of the model is asked once.

    An error of one costs the others nothing, and nothing that was found is lost. The model must stay as it is.
    """

    model: HookedModel  # about to explain x
    x: Images  # channels first
    told: Any  # their mask or GroundTruth, or None

    def __call__(self, metric: Metric, attributions: Sequence[Attribution]) -> MetricResult:
        """The numbers of some maps, all of them for the same target."""
        with error_context("model", self.model.module), error_context("metric", metric), frozen(self.model.module):
            check_attributions(attributions)
            asked, target = (
                options_channels_first(metric, self.model.spec.axes),
                self._target_of_none(metric, attributions),
            )
            own = [self._own(each, target) for each in attributions]
            found = run_metric(asked, self.model, own, self.told)
            return replace(found, metric=metric, notes=self._notes(own[0].target))

    def _notes(self, target: Any) -> tuple[str, ...]:
        """What was found of the model, once it was asked."""
        if not isinstance(target, Target) or not self.model.diagnostics.ran:
            return ()
        return tuple(diagnosis_of(self.model, self.x, target).notes)

    def _own(self, attribution: Attribution, target: Any) -> Attribution:
        """The same of the very images that the model is explaining, channels first, checked once.

        target: what the model is asked where the attribution has none.
        """
        if isinstance(attribution.target, NoTarget):
            key = ("measured", attribution, repr(target))
            return self.model.cached(key, lambda: self._settled(replace(attribution, target=target)))
        return self.model.cached(("measured", attribution), lambda: self._settled(attribution))

    def _settled(self, attribution: Attribution) -> Attribution:
        first = attribution.channels_first()
        method = options_channels_first(first.method, attribution.axes)
        return with_resolved_target(
            self.model, self.x, first if method is first.method else replace(first, method=method)
        )

    def _target_of_none(self, metric: Metric, attributions: Sequence[Attribution]) -> Any:
        """What the model is asked about maps that have no target: that of the other maps, else what None means."""
        others = [each.target for each in attributions if not isinstance(each.target, NoTarget)]
        if others:
            return others[0]
        return (
            as_target(None, is_embedding_model=self.model.spec.is_embedding_model)
            if isinstance(metric, Faithfulness)
            else NoTarget()
        )


def run_metric(metric: Metric, model: HookedModel, attributions: Sequence[Attribution], told: Any) -> MetricResult:
    """Score attributions of the images that the model is explaining; told: their mask or GroundTruth, or None."""
    shared = {f"the scores of {each.method!r}": each.scores for each in attributions}
    shared |= {"the images x": attributions[0].x} | ({"the mask": told} if isinstance(told, Tensor) else {})
    with refuse_exits(metric), read_only(metric, shared):
        return _measured(metric, model, attributions, told)


def _measured(metric: Metric, model: HookedModel, attributions: Sequence[Attribution], told: Any) -> MetricResult:
    if isinstance(metric, Faithfulness | Robustness):
        _check_question(model, attributions)
    if isinstance(metric, Faithfulness):
        values = metric(model, attributions)
        found = MetricResult(metric, values, metric.details(model, attributions))
    elif isinstance(metric, Localization):
        truth = _truth(told, metric, attributions[0])
        found = MetricResult(metric, torch.stack([metric(each, truth) for each in attributions]))
    elif isinstance(metric, Complexity):
        found = MetricResult(metric, torch.stack([metric(each) for each in attributions]))
    elif isinstance(metric, Robustness):
        values = torch.stack([metric(model, each) for each in attributions])
        details = [metric.details(model, each) for each in attributions]
        found = MetricResult(metric, values, {key: torch.stack([each[key] for each in details]) for key in details[0]})
    else:
        raise InvalidInput(f"{metric!r} is of no kind of metric: derive it from Faithfulness, say, or Localization.")
    _check_values(found, len(attributions), len(attributions[0]))
    return found


def check_attributions(attributions: Sequence[Attribution]) -> None:
    """Refuse attributions that do not belong together."""
    if not isinstance(attributions, Sequence) or not all(isinstance(each, Attribution) for each in attributions):
        raise InvalidInput(
            f"attributions={type(attributions).__name__} is no list of attributions: give results of "
            "`Explainer.attribute` in a list, one too."
        )
    if not attributions:
        raise InvalidInput("There is nothing to measure: give one or more results of `Explainer.attribute`.")
    targets = [each.target for each in attributions if not isinstance(each.target, NoTarget)]
    if not all(_is_same(each, targets[0]) for each in targets):
        raise InvalidInput("The attributions are of several targets: measure those of each on their own.")


def with_resolved_target(model: HookedModel, x: Images, attribution: Attribution) -> Attribution:
    """The attribution of these images, with what its target means for them where the model's answer decides that."""
    if attribution.x.device != x.device or attribution.x.dtype != x.dtype:
        raise InvalidInput(
            f"The images of {attribution.method!r} are {attribution.x.dtype} on {attribution.x.device}, those that are "
            f"measured {x.dtype} on {x.device}: move the attribution by .to(device), or explain the images anew."
        )
    if attribution.x.shape != x.shape or not torch.equal(attribution.x, x):
        raise InvalidInput(
            f"The scores of {attribution.method!r} are of other images than those that are measured: measure each "
            "group on its own."
        )
    finite = attribution.scores.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        wrong = (~finite).nonzero().flatten().tolist()
        raise InvalidInput(
            f"The scores of {attribution.method!r} for images {wrong} are not finite: nothing ranks them."
        )
    target = attribution.target
    return replace(attribution, x=x, target=model.resolve(target) if isinstance(target, Target) else target)


def _is_same(one: Target | Recorded, other: Target | Recorded) -> bool:
    """Whether two targets ask the same; those that hold tensors tell them by a checksum."""
    return one == other or (type(one) is type(other) and repr(one) == repr(other))


def _check_question(model: HookedModel, attributions: Sequence[Attribution]) -> None:
    """Refuse to ask the model another question than the one that was explained."""
    if not isinstance(target := attributions[0].target, Target):
        raise InvalidInput(
            f"The target {target!r} comes from a file and cannot be asked: replace(attribution, target=...)."
        )
    if not model.inputs.values and any(has_other_inputs(each.notes) for each in attributions):
        raise InvalidInput("The images were explained with other inputs of the model beside them: give inputs= again.")


def _truth(told: Any, metric: Metric, attribution: Attribution) -> GroundTruth:
    if told is None:
        raise InvalidInput(f"{metric.name!r} compares with a mask, True on the object: give mask=...")
    return as_ground_truth(told, attribution.x)


def _check_values(found: MetricResult, maps: int, images: int) -> None:
    if not isinstance(found.values, Tensor) or found.values.shape != (maps, images):
        got = f"shape {tuple(found.values.shape)}" if isinstance(found.values, Tensor) else type(found.values).__name__
        raise AttribkitError(f"{found.metric!r} gave {got} for {maps} attributions of {images} images.")
