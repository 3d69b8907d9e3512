"""Run a metric and check what it returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.drawing import save_picture
from attribkit._contracts.metric import Complexity, Faithfulness, Localization, Metric, Robustness
from attribkit._contracts.records import Recorded
from attribkit._core.annotations import describe_plugin
from attribkit._core.errors import AttribkitError, InvalidInput, error_context
from attribkit._core.ground_truth import GroundTruth, as_ground_truth
from attribkit._core.inputs import has_other_inputs
from attribkit._core.shapes import Images
from attribkit._core.substrates import options_channels_first
from attribkit._display.progress import progress_shown, track
from attribkit._display.representations import repr_with_notes, short_repr
from attribkit._engine.model import HookedModel
from attribkit._runs.diagnosis import diagnosis_of
from attribkit._runs.validation import read_only, refuse_exits
from attribkit._state.hooks import frozen
from attribkit._targets.resolution import as_target
from attribkit._targets.target import NoTarget, Target

_MEANS_SHOWN = 8  # maps whose mean is part of the repr
_BETTER = {True: "; higher is better", False: "; lower is better", None: ""}


@dataclass(frozen=True, eq=False)
class MetricResult:
    """The values of one metric for m attributions of the same b images.

    Args:
        metric: The metric with its options.
        values: Values, (m, b); NaN where the metric is not defined.
        details: Further results by name, (m, b, ...), such as curves.
        notes: Properties of the model that affect the values, where the metric used the model.
    """

    metric: Metric
    values: Float[Tensor, "m b"]
    details: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def save(self, path: str | Path, names: Sequence[str]) -> None:
        """Write a picture of the curves, that of `attribkit.figures.curves`.

        Args:
            path: Path of the picture; its suffix selects the format, such as .png or .pdf.
            names: Name of each attribution.

        Raises:
            InvalidInput: If the metric does not have curves, or the suffix or the names do not fit.
            UnreadableFile: If the file cannot be written.
        """
        save_picture(path, "curves", self, names)

    def __repr__(self) -> str:
        means = ", ".join(f"{mean:.3g}" for mean in self.values.double().nanmean(1)[:_MEANS_SHOWN].tolist())
        more = ", ..." if len(self.values) > _MEANS_SHOWN else ""
        better = _BETTER[self.metric.higher_is_better]
        details = f", details {', '.join(self.details)}" if self.details else ""
        shape = tuple(self.values.shape)
        text = f"MetricResult({self.metric!r}, values {shape}, mean of each map {means}{more}{better}{details})"
        return repr_with_notes(text, self.notes)


@dataclass(frozen=True, eq=False)
class MetricSession:
    """A series of metrics on attributions of the same images, which share the results of the model.

    An error of one metric does not affect the others. Do not change the model while the session is used.

    Args:
        model: The model, bound to `x`.
        x: Images, (b, c, *space).
        mask: The mask or GroundTruth of the images; None without annotations.
        show_progress: Whether metrics that take long show their progress.
    """

    model: HookedModel
    x: Images
    mask: Any
    show_progress: bool = True

    __repr__ = short_repr

    def __call__(self, metric: Metric, attributions: Sequence[Attribution]) -> MetricResult:
        """Score attributions by a metric.

        Args:
            metric: The metric.
            attributions: Attributions of the images of the session, all for the same target.

        Returns:
            The values of the metric, with details and notes.

        Raises:
            InvalidInput: If the attributions do not belong together or to the images of the session.
        """
        module = self.model.module
        with (
            progress_shown(self.show_progress),
            error_context("model", module),
            error_context("metric", metric),
            frozen(module),
        ):
            check_attributions(attributions)
            channels_first, target = (
                options_channels_first(metric, self.model.spec.axes),
                self._target_where_missing(metric, attributions),
            )
            resolved = [self._resolved(each, target) for each in attributions]
            result = run_metric(channels_first, self.model, resolved, self.mask)
            return replace(result, metric=metric, notes=self._notes(resolved[0].target))

    def _notes(self, target: Any) -> tuple[str, ...]:
        """Return the notes on the model, if it was run."""
        if not isinstance(target, Target) or not self.model.diagnostics.ran:
            return ()
        return tuple(diagnosis_of(self.model, self.x, target).notes)

    def _resolved(self, attribution: Attribution, target: Any) -> Attribution:
        """Return the attribution, channels first, with the images that the model is bound to; it is checked once.

        The options of its method stay in the axes of the model, as `run_attribution` takes them.

        `target` replaces a missing target.
        """
        if isinstance(attribution.target, NoTarget):
            key = ("measured", attribution, repr(target))
            return self.model.cached(key, lambda: self._resolve(replace(attribution, target=target)))
        return self.model.cached(("measured", attribution), lambda: self._resolve(attribution))

    def _resolve(self, attribution: Attribution) -> Attribution:
        return with_resolved_target(self.model, self.x, attribution.channels_first())

    def _target_where_missing(self, metric: Metric, attributions: Sequence[Attribution]) -> Any:
        """Return the target for maps without one: that of the other maps, or the default of the model."""
        others = [each.target for each in attributions if not isinstance(each.target, NoTarget)]
        if others:
            return others[0]
        return (
            as_target(None, is_embedding_model=self.model.spec.is_embedding_model)
            if isinstance(metric, Faithfulness)
            else NoTarget()
        )


def run_metric(metric: Metric, model: HookedModel, attributions: Sequence[Attribution], mask: Any) -> MetricResult:
    """Score attributions of the images that the model is bound to, with their mask or GroundTruth if available."""
    shared = {f"the scores of {each.method!r}": each.scores for each in attributions}
    shared |= {"the images x": attributions[0].x} | ({"the mask": mask} if isinstance(mask, Tensor) else {})
    with refuse_exits(metric), read_only(metric, shared):
        if isinstance(metric, Faithfulness | Robustness):
            _check_can_rerun(model, attributions)
        if isinstance(metric, Faithfulness):
            values = metric(model, attributions)
            result = MetricResult(metric, values, metric.details(model, attributions))
        elif isinstance(metric, Localization):
            truth = _ground_truth(mask, metric, attributions[0])
            result = MetricResult(metric, torch.stack([metric(each, truth) for each in attributions]))
        elif isinstance(metric, Complexity):
            result = MetricResult(metric, torch.stack([metric(each) for each in attributions]))
        elif isinstance(metric, Robustness):
            values = torch.stack([metric(model, each) for each in track(attributions, "maps")])
            details = [metric.details(model, each) for each in attributions]
            stacked = {key: torch.stack([each[key] for each in details]) for key in details[0]}
            result = MetricResult(metric, values, stacked)
        else:
            raise InvalidInput(
                f"{metric!r} must be an instance of a class derived from Faithfulness, Localization, Complexity or "
                "Robustness."
            )
        _check_values(result, len(attributions), len(attributions[0]))
    return result


def check_attributions(attributions: Sequence[Attribution]) -> None:
    """Raise InvalidInput unless this is a list of attributions for the same target."""
    if not isinstance(attributions, Sequence) or not all(isinstance(each, Attribution) for each in attributions):
        raise InvalidInput(
            f"attributions must be a list of results of `Explainer.attribute`, got {type(attributions).__name__}; "
            "wrap a single result in a list."
        )
    if not attributions:
        raise InvalidInput("attributions is empty: pass one or more results of `Explainer.attribute`.")
    targets = [each.target for each in attributions if not isinstance(each.target, NoTarget)]
    if not all(_is_same(each, targets[0]) for each in targets):
        raise InvalidInput("The attributions have different targets: measure each target in a separate call.")


def with_resolved_target(model: HookedModel, x: Images, attribution: Attribution) -> Attribution:
    """Return the attribution with the images x and its target resolved; raise InvalidInput if it has other images."""
    if attribution.x.device != x.device or attribution.x.dtype != x.dtype:
        raise InvalidInput(
            f"The images of {attribution.method!r} are {attribution.x.dtype} on {attribution.x.device}, but those of "
            f"the other attributions are {x.dtype} on {x.device}: move the attribution with .to(device), or explain "
            "the images again."
        )
    if attribution.x.shape != x.shape or not torch.equal(attribution.x, x):
        raise InvalidInput(
            f"{attribution.method!r} explains different images from the first attribution of the call or session: "
            "measure different images in separate calls."
        )
    finite = attribution.scores.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        wrong = (~finite).nonzero().flatten().tolist()
        raise InvalidInput(
            f"The scores of {attribution.method!r} for images {wrong} are not finite, so their pixels cannot be ranked."
        )
    target = attribution.target
    return replace(attribution, x=x, target=model.resolve(target) if isinstance(target, Target) else target)


def _is_same(one: Target | Recorded, other: Target | Recorded) -> bool:
    """Return whether two targets are equal; those with tensors are compared by the checksum in their repr."""
    return one == other or (type(one) is type(other) and repr(one) == repr(other))


def _check_can_rerun(model: HookedModel, attributions: Sequence[Attribution]) -> None:
    """Raise InvalidInput unless the model can be run with the target and inputs that were explained."""
    if not isinstance(target := attributions[0].target, Target):
        raise InvalidInput(
            f"The target {target!r} was loaded from a file and cannot be evaluated: set it with "
            "dataclasses.replace(attribution, target=...)."
        )
    if not model.inputs.values and any(has_other_inputs(each.notes) for each in attributions):
        raise InvalidInput("The images were explained with additional model inputs: pass the same inputs=...")


def _ground_truth(mask: Any, metric: Metric, attribution: Attribution) -> GroundTruth:
    if mask is None:
        raise InvalidInput(f"{metric.name!r} requires a mask (True on the object), but none was given: pass mask=...")
    return as_ground_truth(mask, attribution.x)


def _check_values(result: MetricResult, maps: int, images: int) -> None:
    values = result.values
    if not isinstance(values, Tensor) or values.shape != (maps, images):
        got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise AttribkitError(
            f"{describe_plugin(result.metric)} "
            f"returned {got} for {maps} attributions of {images} images; a metric must return one "
            "number for each image of each attribution."
        )
