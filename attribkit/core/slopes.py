"""Whether the gradient of a score is its derivative: along some directions, compared with differences of the score."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images
from attribkit.core.targets.target import Target

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


def wrong_slopes(model: HookedModel, x: Images, target: Target) -> list[Slope]:
    """The slopes of the score that its gradient contradicts; empty where they are too few to be sure.

    Each image is run alone. Along each direction the step shrinks until the score is straight, or constant; where it is
    not before rounding hides it, as in deep networks of low precision, nothing is concluded.
    """
    slopes: list[Slope] = []
    for i in range(min(2, len(x))):
        image = slice(i, i + 1)
        slopes += _slopes(model.part(image), x[image].detach(), target.part(image))
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
