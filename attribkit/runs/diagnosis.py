"""[core/slopes] Whether the gradient of a score is its derivative: along some directions, compared with differences of the score.
[core/diagnosis] What makes the scores or the gradient of a model unreliable, found by a few forwards and kept for later calls.
"""

from collections.abc import Hashable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from attribkit.core.shapes import Images
from attribkit.engine.diagnostics import ALL_GENERATORS, Diagnostics
from attribkit.engine.model import HookedModel
from attribkit.targets.target import FunctionTarget, Target

_STEPS = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)  # in standard deviations of the image
_JITTER = 1e-2  # the same; moves the image off values at which a clamp or a ReLU has its corner
_COARSE = 4  # cells along each axis of a smooth direction
_CLEAR = 20.0  # a difference of scores is read where it is so many times the rounding
_STRAIGHT = 0.1  # the slopes at two steps, to both sides, differ by less: the score is straight there
_WRONG = 0.3  # share by which the gradient may differ from such a slope


class Slope(NamedTuple):
    """What the score does along a direction, and what its gradient says."""

    measured: float
    by_gradient: float

    @property
    def is_wrong(self) -> bool:
        """Whether the two differ by more than steps and rounding explain."""
        larger = max(abs(self.measured), abs(self.by_gradient))
        return abs(self.measured - self.by_gradient) > _WRONG * larger


def contradicted_slopes(model: HookedModel, x: Images, target: Target) -> list[Slope]:
    """The slopes of the score that its gradient contradicts; empty where they are too few to be sure.

    Each image is run alone. Along each direction the step shrinks until the score is straight, or constant; where it is
    not before rounding hides it, as in deep networks of low precision, nothing is concluded.
    """
    slopes: list[Slope] = []
    for i in range(min(2, len(x))):
        image = slice(i, i + 1)
        slopes += _slopes(model.subset(image), x[image].detach(), target.subset(image))
    wrong = [slope for slope in slopes if slope.is_wrong]
    return wrong if len(wrong) >= 2 and 3 * len(wrong) >= len(slopes) else []


def _slopes(model: HookedModel, x: Tensor, target: Target) -> Iterator[Slope]:
    """Those of the directions along which the score is straight."""
    generator = torch.Generator().manual_seed(0)
    size = float(x.std()) or 1.0
    x = (x + _JITTER * size * _noise(x, generator)).to(x.dtype)
    gradient = model.gradient(x, target).double()
    score = _score(model, x, target)
    ulps = (x.double() * torch.finfo(x.dtype).eps * _noise(x, generator).sign()).to(x.dtype)
    rounding = max(abs(_score(model, x + ulps, target) - score), 4 * torch.finfo(torch.float32).eps * abs(score))
    for direction in _directions(x, size, generator):
        straight = _where_straight(model, x, target, _Base(score, gradient, rounding), direction)
        if straight is not None:
            yield straight


class _Base(NamedTuple):
    """What is known of the score at an image."""

    score: float
    gradient: Tensor
    rounding: float  # by which the score is uncertain


def _where_straight(model: HookedModel, x: Tensor, target: Target, base: _Base, direction: Tensor) -> Slope | None:
    """The slope at the largest step at which the score is straight; None where rounding hides it before."""
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
        if earlier and _is_straight([*earlier, *slopes]):
            return slopes[0]
        earlier = slopes
    return None


def _is_straight(slopes: list[Slope]) -> bool:
    measured = [slope.measured for slope in slopes]
    middle = sum(measured) / len(measured)
    return max(abs(each - middle) for each in measured) <= _STRAIGHT * abs(middle)


def _score(model: HookedModel, x: Tensor, target: Target) -> float:
    return float(model.score(x, target).double())


def _noise(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=torch.float64, device="cpu").to(x.device)


def _directions(x: Tensor, size: float, generator: torch.Generator) -> Iterator[Tensor]:
    """Of every pixel for itself, smooth over the image, and that of more contrast; about as large as the image."""
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


_REPEATS = 3  # forwards of one image, where the first two differ
_SUSPICIOUS = 2e-5  # share of the scores by which forwards of one image may differ before they are looked at closely
_ROUNDING = 1e-4  # share of the scores by which a forward alone and one in a batch may differ
_EPSILONS = 4, 16  # the same two in units of the precision, where it is low
_SOURCES = {
    "torch": "torch's, as functional dropout does",
    "python": "those of Python's random",
    "numpy": "those of NumPy's global generator",
}
_UNSEEN = "from a source that is no global generator, such as os.urandom, the time or a generator of its own"
_REMEDY = "turn that off, or average several explanations"


@dataclass(frozen=True)
class Diagnosis:
    """What was found of a model: sentences, or None."""

    randomness: str | None = None
    draws: str | None = None
    batch: str | None = None
    gradient: str | None = None
    seeds: bool = False  # whether each forward seeds the generators that it draws from

    def __or__(self, other: "Diagnosis") -> "Diagnosis":
        """Both; of two findings of a kind, this one's."""
        mine = {name: text for name, text in vars(self).items() if text}
        return replace(other, **mine)

    @property
    def notes(self) -> list[str]:
        """The sentences."""
        return [text for text in (self.randomness, self.draws, self.batch, self.gradient) if text is not None]


def diagnosis_of(model: HookedModel, x: Images, target: Target) -> Diagnosis:
    """What is known of the model that was asked about x, or is found by two small forwards once per size and target.

    What `check` found of images of this size is a part of it.
    """
    known = model.diagnoses
    key = key_of(model, x, target)
    if key not in known:
        known[key] = add_diagnosis(model, x, target)
    found: Diagnosis = known[key] | known.get(key_of(model, x), Diagnosis())
    reported = found.randomness or found.draws or found.seeds
    return found if reported or not model.diagnostics.drawn else replace(found, draws=draws(model.diagnostics.drawn))


def key_of(model: HookedModel, x: Images, target: Target | None = None) -> Hashable:
    """What a diagnosis depends on, beside the model; without a target, that of all targets."""
    asked = target and (target.layer_key if isinstance(target, FunctionTarget) else target.kind)
    return tuple(x.shape[1:]), x.dtype, model.inputs.kind, asked


def add_diagnosis(model: HookedModel, x: Images, target: Target) -> Diagnosis:
    """Whether the score of the first image is random, or depends on the other images of its batch.

    The image is run alone (unless the model was asked about it alone already) and in a batch of two; where the scores
    agree, these are all. target: what it means is settled.
    """
    runs = _Runs(model, x, target)
    try:
        samples = runs.taken or [runs.alone()]
        together = runs.beside_another() if model.batch_size != 1 else [runs.alone()]
        scale = max(abs(each) for each in [*samples, *together])
        scale = max([scale, *(abs(together[0] - each) for each in together[1:])])
        gap = _spread([*samples, together[0]])
        if gap <= _tolerance(runs.precision, scale, _SUSPICIOUS, _EPSILONS[0]) and not runs.diagnostics.drawn:
            return Diagnosis()
        return _explained_gap(runs, gap, scale)
    except Exception:  # of a model or target that takes no other image, or no batch of two: it is not run again
        return Diagnosis()


def randomness(gap: float, scale: float, sources: Set[str]) -> str:
    """The sentence on forwards of one image that differ; sources: of the numbers that were drawn."""
    return (
        f"two forwards of the same images differ, scores of {scale:.2g} by up to {gap:.2g}: the model draws random "
        f"numbers in evaluation mode ({_named(sources)}); {_REMEDY}"
    )


def draws(sources: Set[str]) -> str:
    """The sentence on numbers that were drawn, where forwards were not compared."""
    return f"the model draws random numbers in evaluation mode ({_named(sources)}): other scores each time; {_REMEDY}"


def unused_draws(sources: Set[str]) -> str:
    """The sentence on numbers that were drawn where forwards of one image gave the same score."""
    return (
        f"the model draws random numbers in evaluation mode ({_named(sources)}), though forwards of one image gave the "
        f"same score; {_REMEDY}"
    )


def wrong_gradient(slopes: Sequence[Slope]) -> str:
    """The sentence on a gradient that is not the derivative of the score."""
    worst = max(slopes, key=lambda slope: abs(slope.measured - slope.by_gradient))
    return (
        f"the gradient is not the derivative of the score: along a direction the score changes at a rate of "
        f"{worst.measured:.2g}, by its gradient at {worst.by_gradient:.2g} (a straight-through estimator, a detach, a "
        "gradient reversal or a backward of its own?): methods that use gradients explain another function; use "
        "occlusion, rise or ablationcam"
    )


def batch_dependence(gap: float, scale: float) -> str:
    """The sentence on a score that depends on the other images of the batch."""
    return (
        f"an image's score of {scale:.2g} changes by up to {gap:.2g} with the other images of its batch: explain "
        "images one by one, Explainer(model, batch_size=1)"
    )


class _Runs:
    """Forwards of the first image, alone and beside another, and what they drew."""

    def __init__(self, model: HookedModel, x: Images, target: Target) -> None:
        first = slice(0, 1)
        self.image = x[first].detach()
        self.target = target.subset(first)
        known = (each for each in model.diagnostics.first_scores if each.image == x.data_ptr() and each.images == 1)
        self.taken = [float(each.score) for each in known if each.target is target or each.target == target]
        self.precision = precision_of(model, x)
        self._model = model.subset(first)
        self.diagnostics = self._model.diagnostics = Diagnostics(ALL_GENERATORS)
        self._model.notes = []

    def alone(self) -> float:
        """The score of the image in a forward of its own."""
        return self._scores(self.image, self.target)[0]

    def beside_another(self) -> list[float]:
        """The scores of the image, and of another one that stands before it in the same batch."""
        pair = torch.cat([_another(self.image), self.image])
        return self._scores(pair, self.target.tile(2) or self.target)[::-1]

    def _scores(self, images: Tensor, target: Target) -> list[float]:
        with self._model.uncounted():
            scores: list[float] = self._model.score(images, target).tolist()
        return scores


def _explained_gap(runs: _Runs, gap: float, scale: float) -> Diagnosis:
    """Why the scores of the first image differ between forwards, or what was drawn."""
    again = [runs.alone() for _ in range(_REPEATS)]
    spread, drawn = _spread(again), runs.diagnostics.drawn
    if spread > _tolerance(runs.precision, scale, _SUSPICIOUS / 2, _EPSILONS[0]):
        return Diagnosis(randomness=randomness(max(spread, gap), scale, drawn))
    seeds = bool(drawn) and not runs.diagnostics.drawn_anew
    found = Diagnosis(draws=unused_draws(drawn) if drawn and not seeds else None, seeds=seeds)
    if gap > scale * batch_rounding(runs.precision):
        return replace(found, batch=batch_dependence(gap, scale))
    return found


def _named(sources: Set[str]) -> str:
    return " and ".join(_SOURCES[each] for each in sorted(sources)) or _UNSEEN


def _another(image: Tensor) -> Tensor:
    """Another image: mirrored, darker, with more contrast, and a range a little wider to both sides."""
    low, high = image.aminmax()
    return torch.where(high > low, low - 0.25 * (high - low) + 1.3 * (image.flip(-1) - low), image - 1)


def batch_rounding(precision: float) -> float:
    """The share of a score by which a forward alone and one in a batch may differ, in a precision."""
    return max(_ROUNDING, _EPSILONS[1] * precision)


def precision_of(model: HookedModel, x: Tensor) -> float:
    """The machine epsilon of the coarsest type that the model computes in, as far as can be told."""
    types = {x.dtype, *(each.dtype for each in model.module.parameters() if each.is_floating_point())}
    tf32 = x.device.type == "cuda" and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    return max([torch.finfo(each).eps for each in types] + [2.0**-11] * tf32)


def _tolerance(precision: float, scale: float, share: float, epsilons: int) -> float:
    return scale * max(share, epsilons * precision)


def _spread(samples: Sequence[float]) -> float:
    return max(samples) - min(samples)
