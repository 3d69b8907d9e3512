"""Checks whether the scores and gradients of a model are reliable.

A few forwards test whether the score of an image is random or depends on the rest of the batch; finite differences test
whether the gradient of the score is its derivative. The results are kept for later calls.
"""

from collections.abc import Hashable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from attribkit._core.shapes import Images
from attribkit._engine.diagnostics import ALL_GENERATORS, Diagnostics
from attribkit._engine.model import HookedModel
from attribkit._targets.target import FunctionTarget, Target

_REPEATS = 3  # forwards of one image, if the first two differ
_SUSPICIOUS = 2e-5  # relative difference between forwards of one image above which more forwards are run
_ROUNDING = 1e-4  # relative difference between a forward of one image and one of a batch that rounding explains
_EPSILONS = 4, 16  # the two limits above in units of the machine epsilon, for low precision

_STEPS = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)  # in standard deviations of the image
_JITTER = 1e-2  # in the same unit; moves the image away from the kinks of clamps and ReLUs
_COARSE = 4  # grid cells along each axis of the smooth direction
_CLEAR = 20.0  # a difference of scores is used if it exceeds the rounding error by this factor
_STRAIGHT = 0.1  # the score is linear where the slopes at two steps, in both directions, differ by less than this
_WRONG = 0.3  # relative difference between gradient and slope above which the gradient is wrong

_SOURCES = {
    "torch": "torch's global generator, as functional dropout does",
    "python": "Python's random module",
    "numpy": "NumPy's global generator",
}
_UNKNOWN_SOURCE = "from an unknown source, such as os.urandom, the time or a local generator"
_REMEDY = "disable this, or average several explanations"


@dataclass(frozen=True)
class Diagnosis:
    """The results of the checks of a model, as notes for users; None where nothing was found.

    Args:
        randomness: Forwards of the same image give different scores.
        draws: The model draws random numbers in evaluation mode.
        batch: The score of an image depends on the other images of its batch.
        gradient: The gradient is not the derivative of the score.
        seeds: Whether each forward seeds the generators from which it draws.
    """

    randomness: str | None = None
    draws: str | None = None
    batch: str | None = None
    gradient: str | None = None
    seeds: bool = False

    def __or__(self, other: "Diagnosis") -> "Diagnosis":
        """Return the union; if both have a note of the same kind, use that of the left operand."""
        mine = {name: text for name, text in vars(self).items() if text}
        return replace(other, **mine)

    @property
    def notes(self) -> list[str]:
        """Return the notes."""
        return [text for text in (self.randomness, self.draws, self.batch, self.gradient) if text is not None]


class Slope(NamedTuple):
    """The slope of the score along a direction, by finite differences and by the gradient."""

    by_differences: float
    by_gradient: float

    @property
    def is_wrong(self) -> bool:
        """Return whether the two slopes differ by more than the step size and rounding explain."""
        larger = max(abs(self.by_differences), abs(self.by_gradient))
        return abs(self.by_differences - self.by_gradient) > _WRONG * larger


def diagnosis_of(model: HookedModel, x: Images, target: Target) -> Diagnosis:
    """Return the diagnosis of a model that has explained x, from two small forwards once per image size and target.

    It includes the findings of `preflight` for images of this size.
    """
    diagnoses = model.diagnoses
    key = diagnosis_key(model, x, target)
    if key not in diagnoses:
        diagnoses[key] = _diagnose(model, x, target)
    diagnosis: Diagnosis = diagnoses[key] | diagnoses.get(diagnosis_key(model, x), Diagnosis())
    drawn = model.diagnostics.drawn
    reported = diagnosis.randomness or diagnosis.draws or diagnosis.seeds
    return diagnosis if reported or not drawn else replace(diagnosis, draws=_draws_note(drawn))


def diagnosis_key(model: HookedModel, x: Images, target: Target | None = None) -> Hashable:
    """Return the cache key of a diagnosis; without a target, the key for all targets."""
    target_key = target and (target.layer_key if isinstance(target, FunctionTarget) else target.kind)
    return tuple(x.shape[1:]), x.dtype, model.inputs.kind, target_key


def _diagnose(model: HookedModel, x: Images, target: Target) -> Diagnosis:
    """Test whether the score of the first image is random or depends on the other images of its batch.

    The image is run alone (unless the model has run it alone already) and in a batch of two. If the scores agree, no
    more forwards are needed. The target must be resolved.
    """
    runs = _Runs(model, x, target)
    try:
        samples = runs.earlier_scores or [runs.score_alone()]
        together = runs.scores_with_another() if model.batch_size != 1 else [runs.score_alone()]
        scale = max(abs(each) for each in [*samples, *together])
        scale = max([scale, *(abs(together[0] - each) for each in together[1:])])
        gap = _spread([*samples, together[0]])
        if gap <= _tolerance(runs.precision, scale, _SUSPICIOUS, _EPSILONS[0]) and not runs.diagnostics.drawn:
            return Diagnosis()
        return _explain_gap(runs, gap, scale)
    except Exception:  # the model or target does not accept another image or a batch of two; it is not tested again
        return Diagnosis()


def randomness_note(gap: float, scale: float, sources: Set[str]) -> str:
    """Return the note on forwards of one image that differ; `sources` are the generators that were used."""
    return (
        f"two forward passes of the same images gave scores that differ by up to {gap:.2g}, for scores of magnitude "
        f"{scale:.2g}: the model draws random numbers in evaluation mode ({_describe(sources)}); {_REMEDY}"
    )


def unused_draws_note(sources: Set[str]) -> str:
    """Return the note on random numbers that did not change the score of an image."""
    return (
        f"the model draws random numbers in evaluation mode ({_describe(sources)}), although two forward passes of "
        f"the same images gave the same scores; {_REMEDY}"
    )


def wrong_gradient_note(slopes: Sequence[Slope]) -> str:
    """Return the note on a gradient that is not the derivative of the score."""
    worst = max(slopes, key=lambda slope: abs(slope.by_differences - slope.by_gradient))
    return (
        "the gradient is not the derivative of the score: along one direction the slope of the score is "
        f"{worst.by_differences:.2g} by finite differences, but {worst.by_gradient:.2g} by the gradient (possible "
        "causes: a straight-through estimator, a detach, a gradient reversal or a custom backward). Gradient-based "
        "methods would explain a different function; use occlusion, rise or ablationcam"
    )


def batch_dependence_note(gap: float, scale: float) -> str:
    """Return the note on a score that depends on the other images of the batch."""
    return (
        f"the score of an image changes by up to {gap:.2g} with the other images of its batch, for a score of "
        f"magnitude {scale:.2g}: explain the images one at a time with Explainer(model, batch_size=1)"
    )


def _draws_note(sources: Set[str]) -> str:
    """Return the note on random numbers that were drawn where forwards were not compared."""
    return (
        f"the model draws random numbers in evaluation mode ({_describe(sources)}), so scores differ from call to "
        f"call; {_REMEDY}"
    )


class _Runs:
    """Forwards of the first image, alone and with another one, and the random numbers that they draw."""

    def __init__(self, model: HookedModel, x: Images, target: Target) -> None:
        first = slice(0, 1)
        self.image = x[first].detach()
        self.target = target.subset(first)
        alone = (each for each in model.diagnostics.first_scores if each.image == x.data_ptr() and each.images == 1)
        self.earlier_scores = [float(each.score) for each in alone if each.target is target or each.target == target]
        self.precision = precision_of(model, x)
        self._model = model.subset(first)
        self.diagnostics = self._model.diagnostics = Diagnostics(ALL_GENERATORS)
        self._model.notes = []

    def score_alone(self) -> float:
        """Return the score of the image in a forward of this image alone."""
        return self._scores(self.image, self.target)[0]

    def scores_with_another(self) -> list[float]:
        """Return the scores of the image, and of another image that precedes it in the batch."""
        pair = torch.cat([_other_image(self.image), self.image])
        return self._scores(pair, self.target.tile(2) or self.target)[::-1]

    def _scores(self, images: Tensor, target: Target) -> list[float]:
        with self._model.uncounted():
            scores: list[float] = self._model.score(images, target).tolist()
        return scores


def _explain_gap(runs: _Runs, gap: float, scale: float) -> Diagnosis:
    """Determine why the scores of the first image differ between forwards, or which random numbers were drawn."""
    repeated = [runs.score_alone() for _ in range(_REPEATS)]
    spread, drawn = _spread(repeated), runs.diagnostics.drawn
    if spread > _tolerance(runs.precision, scale, _SUSPICIOUS / 2, _EPSILONS[0]):
        return Diagnosis(randomness=randomness_note(max(spread, gap), scale, drawn))
    seeds = bool(drawn) and not runs.diagnostics.drawn_anew
    diagnosis = Diagnosis(draws=unused_draws_note(drawn) if drawn and not seeds else None, seeds=seeds)
    if gap > scale * batch_rounding(runs.precision):
        return replace(diagnosis, batch=batch_dependence_note(gap, scale))
    return diagnosis


def _describe(sources: Set[str]) -> str:
    return " and ".join(_SOURCES[each] for each in sorted(sources)) or _UNKNOWN_SOURCE


def _other_image(image: Tensor) -> Tensor:
    """Return the image mirrored, darker, with more contrast, and a slightly wider range in both directions."""
    low, high = image.aminmax()
    return torch.where(high > low, low - 0.25 * (high - low) + 1.3 * (image.flip(-1) - low), image - 1)


def batch_rounding(precision: float) -> float:
    """Return the relative difference of scores that rounding explains between a single image and a batch."""
    return max(_ROUNDING, _EPSILONS[1] * precision)


def precision_of(model: HookedModel, x: Tensor) -> float:
    """Return the largest machine epsilon of images, parameters and, where it is enabled, TF32."""
    types = {x.dtype, *(each.dtype for each in model.module.parameters() if each.is_floating_point())}
    tf32 = x.device.type == "cuda" and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    return max([torch.finfo(each).eps for each in types] + [2.0**-11] * tf32)


def _tolerance(precision: float, scale: float, relative: float, epsilons: int) -> float:
    return scale * max(relative, epsilons * precision)


def _spread(samples: Sequence[float]) -> float:
    return max(samples) - min(samples)


def contradicted_slopes(model: HookedModel, x: Images, target: Target) -> list[Slope]:
    """Return the slopes of the score that its gradient contradicts; an empty list where they are too few to be sure.

    Each image is run alone. Along each direction the step shrinks until the score is linear or constant. If rounding
    errors dominate before that, as in deep networks of low precision, the direction is skipped.
    """
    slopes: list[Slope] = []
    for i in range(min(2, len(x))):
        image = slice(i, i + 1)
        slopes += _slopes(model.subset(image), x[image].detach(), target.subset(image))
    wrong = [slope for slope in slopes if slope.is_wrong]
    return wrong if len(wrong) >= 2 and 3 * len(wrong) >= len(slopes) else []


def _slopes(model: HookedModel, x: Tensor, target: Target) -> Iterator[Slope]:
    """Yield the slopes of the directions along which the score is linear at some step."""
    generator = torch.Generator().manual_seed(0)
    size = float(x.std()) or 1.0
    x = (x + _JITTER * size * _noise(x, generator)).to(x.dtype)
    gradient = model.gradient(x, target).double()
    score = _score(model, x, target)
    ulps = (x.double() * torch.finfo(x.dtype).eps * _noise(x, generator).sign()).to(x.dtype)
    rounding = max(abs(_score(model, x + ulps, target) - score), 4 * torch.finfo(torch.float32).eps * abs(score))
    for direction in _directions(x, size, generator):
        slope = _linear_slope(model, x, target, _Base(score, gradient, rounding), direction)
        if slope is not None:
            yield slope


class _Base(NamedTuple):
    """The score of an image, its gradient and its rounding error."""

    score: float
    gradient: Tensor
    rounding: float


def _linear_slope(model: HookedModel, x: Tensor, target: Target, base: _Base, direction: Tensor) -> Slope | None:
    """Return the slope at the largest step at which the score is linear; None if rounding errors dominate before."""
    earlier: list[Slope] = []
    for step in _STEPS:
        sides = [x + (sign * step * direction).to(x.dtype) for sign in (1, -1)]
        changes = [_score(model, side, target) - base.score for side in sides]
        predicted = [float((base.gradient * (side.double() - x.double())).sum()) for side in sides]
        clear = _CLEAR * base.rounding
        if max(map(abs, changes + predicted)) < clear:
            return None
        is_constant = max(map(abs, changes)) <= 2 * base.rounding and min(map(abs, predicted)) >= clear
        if not is_constant and min(map(abs, changes)) < clear:
            earlier = []
            continue
        pairs = zip(changes, predicted, (step, -step), strict=True)
        slopes = [Slope(0 if is_constant else change / by, expected / by) for change, expected, by in pairs]
        if earlier and _is_linear([*earlier, *slopes]):
            return slopes[0]
        earlier = slopes
    return None


def _is_linear(slopes: list[Slope]) -> bool:
    by_differences = [slope.by_differences for slope in slopes]
    middle = sum(by_differences) / len(by_differences)
    return max(abs(each - middle) for each in by_differences) <= _STRAIGHT * abs(middle)


def _score(model: HookedModel, x: Tensor, target: Target) -> float:
    return float(model.score(x, target).double())


def _noise(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=torch.float64, device="cpu").to(x.device)


def _directions(x: Tensor, size: float, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield directions as large as the image: independent noise, smooth noise, and the image itself (its contrast)."""
    yield size * _noise(x, generator)
    cells = torch.randn(
        1,
        x.shape[1],
        *(min(_COARSE, side) for side in x.shape[2:]),
        generator=generator,
        dtype=torch.float64,
        device="cpu",
    )
    for axis, side in enumerate(x.shape[2:], start=2):
        cells = cells.repeat_interleave(-(-side // cells.shape[axis]), axis).narrow(axis, 0, side)
    yield size * cells.to(x.device)
    yield x.double()
