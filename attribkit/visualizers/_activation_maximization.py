"""Activation maximization: gradient ascent on the image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attribkit._contracts.visualizer import GeneratedImages, Responses, Visualizer
from attribkit._core.axes import capped_sizes, per_axis
from attribkit._core.errors import InvalidInput
from attribkit._core.options import (
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeInt,
    OneOrMore,
    PositiveFloat,
    PositiveInt,
    Seed,
)
from attribkit._core.shapes import Images, PerImage
from attribkit._display.progress import track
from attribkit._engine.model import HookedModel
from attribkit._targets.outputs import to_full_precision
from attribkit._targets.target import Target
from attribkit.visualizers._parametrisations import (
    Canvas,
    Fourier,
    Pixels,
    RandomMovement,
    pixel_bounds,
    squared_norm,
    total_variation,
    with_natural_colours,
)

Jitter = NonNegativeInt | OneOrMore[NonNegativeInt]

_PARAMETRISATIONS: dict[str, type[Fourier | Pixels]] = {"fourier": Fourier, "pixel": Pixels}
_JITTER = 8  # pixels
_STARTS = {"noise": 1.0, "zeros": 0.0}  # standard deviation of the initial parameters


class ScoreTrajectory:
    """Responses and objectives of n images at each step, with one device synchronisation in `patience` steps."""

    def __init__(self) -> None:
        self._responses: list[Tensor] = []
        self._objectives: list[Tensor] = []
        self._had_gradient: Tensor | None = None  # whether any step had a gradient other than zero

    def add(self, response: PerImage, objective: PerImage, gradient: Images) -> None:
        """Record a step; the gradient is that of the response with respect to the pixels."""
        self._responses.append(response)
        self._objectives.append(objective)
        has_gradient = gradient.flatten(1).any(1)
        self._had_gradient = has_gradient if self._had_gradient is None else self._had_gradient | has_gradient

    def responses(self, last: PerImage) -> Responses:
        """Return the recorded responses and a last one."""
        return torch.stack([*self._responses, last])

    def is_flat(self, tolerance: float, patience: int) -> bool:
        """Return whether the mean objective of the last `patience` steps is close to that of as many steps before.

        This must hold for all images, within the relative tolerance. It is checked every `patience` steps, and is False
        while an image has had no gradient other than zero.
        """
        steps = len(self._objectives)
        if not tolerance or steps % patience or steps < 2 * patience or self.zero_gradient_images():
            return False
        before, now = (torch.stack(part).mean(0) for part in _halves(self._objectives[-2 * patience :]))
        return bool(((now - before).abs() <= tolerance * now.abs()).all())

    def zero_gradient_images(self) -> list[int]:
        """Return the images whose gradient was zero at every step."""
        if self._had_gradient is None:
            return []
        images: list[int] = (~self._had_gradient).nonzero().flatten().tolist()
        return images


def _halves(steps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    middle = len(steps) // 2
    return list(steps[:middle]), list(steps[middle:])


@dataclass(frozen=True)
class ActivationMaximization(Visualizer):
    """Image for which a unit has a large response, by gradient ascent with Adam on response - penalties.

    Before each step the image is shifted, scaled and rotated at random, less and less towards the last step.

    Args:
        parametrisation: "fourier" optimises frequencies, with bounded pixels if the model's mean and std are known;
            "pixel" optimises pixels.
        start: Initial parameters: "noise" of variance 1, or "zeros".
        decorrelated: Whether colours are correlated as in natural images; for three channels only.
        jitter: Maximum shift in pixels, for all axes or for each; None means 8, and at most an eighth of each axis of
            clips and volumes.
        scale: Maximum relative change of the image's size, at the first step.
        rotate: Maximum angle in degrees, at the first step.
        l2: Weight of the squared norm of the normalised image.
        total_variation: Weight of the total variation of the normalised image.
        blur: Standard deviation in pixels of a Gaussian blur after every `blur_every` steps; for "pixel" only.
        blur_every: Steps between blurs.
        steps: Maximum number of steps; each costs one forward and one backward.
        learning_rate: Learning rate of Adam at the first step; it falls to zero along a cosine.
        tolerance: Relative change of the objective at which the ascent stops; 0 never stops early.
        patience: Number of steps whose mean objective is compared with that of as many steps before.
        seed: Seed of the initial noise and of the random movements.
        count: Number of images, each from different noise.
    """

    name: ClassVar[str] = "activation_maximization"
    source: ClassVar[str] = "Simonyan et al., ICLR 2014 workshop, sec. 2; Olah et al., Distill 2017"

    parametrisation: Literal["fourier", "pixel"] = "fourier"
    start: Literal["noise", "zeros"] = "noise"
    decorrelated: bool = True
    jitter: Jitter | None = None
    scale: FractionBelowOne = 0.1
    rotate: NonNegativeFloat = 8.0
    l2: NonNegativeFloat = 0.0
    total_variation: NonNegativeFloat = 0.0
    blur: NonNegativeFloat = 0.0
    blur_every: PositiveInt = 4
    steps: PositiveInt = 256
    learning_rate: PositiveFloat = 0.2
    tolerance: NonNegativeFloat = 0.001
    patience: PositiveInt = 32
    seed: Seed = 0
    count: PositiveInt = 1

    def __post_init__(self) -> None:
        if self.blur and self.parametrisation != "pixel":
            raise InvalidInput(
                f'blur={self.blur} needs parametrisation="pixel", got {self.parametrisation!r}: use blur=0.'
            )

    def __call__(self, model: HookedModel, unit: Target, blank: Images) -> tuple[GeneratedImages, Responses]:
        unit = _tile_unit(unit, self.count)
        generator = torch.Generator().manual_seed(self.seed)
        canvas = self._canvas(model, blank, generator)
        space = tuple(blank.shape[2:])
        jitter = (
            capped_sizes(_JITTER, 8, space) if self.jitter is None else per_axis("jitter", self.jitter, space, least=0)
        )
        trajectory = self._ascend(model, unit, canvas, RandomMovement(jitter, self.scale, self.rotate, generator))
        if constant := trajectory.zero_gradient_images():
            model.note(
                f"the gradient was zero at every step for images {constant}: they show the initial image, not the unit"
            )
        images = canvas.images().detach().to(blank.dtype)
        return images, trajectory.responses(model.score_and_gradient(images, unit)[0])

    def _canvas(self, model: HookedModel, blank: Images, generator: torch.Generator) -> Canvas:
        """Make the initial images."""
        parametrisation = _PARAMETRISATIONS[self.parametrisation]((len(blank) * self.count, *blank.shape[1:]))
        shape = parametrisation.parameters_shape
        noise = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        parameters = _STARTS[self.start] * noise
        stages = [parametrisation, *self._stages(model, blank.shape[1])]
        return Canvas(parameters.to(to_full_precision(blank)).requires_grad_(), stages)

    def _ascend(self, model: HookedModel, unit: Target, canvas: Canvas, move: RandomMovement) -> ScoreTrajectory:
        """Optimise the canvas until the steps are used up or the objective is flat."""
        dtype = next(p.dtype for p in model.module.parameters() if p.is_floating_point())
        ascent = _Ascent(canvas.parameters, self.learning_rate, self.steps)
        trajectory = ScoreTrajectory()
        for step in track(range(1, self.steps + 1), self.name):
            images = canvas.images()
            moved = move.weakened(ascent.rate_fraction)(images)
            response, gradient = model.score_and_gradient(moved.detach().to(dtype), unit)
            penalty = self._penalty(images)
            ascent.step((gradient * moved).sum() - penalty.sum())  # same gradient as response - penalty
            if self.blur and step % self.blur_every == 0:
                canvas.blur(self.blur)
            trajectory.add(response, response - penalty.detach(), gradient)
            if step < self.steps and trajectory.is_flat(self.tolerance, self.patience):
                model.note(f"stopped after {step} of {self.steps} steps, because the objective was constant")
                break
        return trajectory

    def _stages(self, model: HookedModel, channels: int) -> list[Callable[[Images], Images]]:
        """Return the functions that turn the parametrisation's output into normalised images."""
        stages: list[Callable[[Images], Images]] = []
        if self.decorrelated and channels == 3:
            stages.append(with_natural_colours)
        elif self.decorrelated:
            model.note(f"decorrelated=True needs 3 channels and is ignored for {channels}")
        normalisation = model.spec.normalisation(channels)
        if self.parametrisation == "fourier" and normalisation is not None:
            stages.append(pixel_bounds(*normalisation))
        elif self.parametrisation == "fourier":
            model.note("the model's mean and std are unknown: the pixel values are not bounded")
        return stages

    def _penalty(self, images: Images) -> PerImage:
        """Return the penalty that is subtracted from each image's response."""
        penalty = images.new_zeros(len(images))
        if self.l2:
            penalty = penalty + self.l2 * squared_norm(images)
        return penalty + self.total_variation * total_variation(images) if self.total_variation else penalty


class _Ascent:
    """Gradient ascent by Adam (Kingma and Ba, ICLR 2015) with a learning rate that falls along a cosine."""

    def __init__(self, parameters: Tensor, learning_rate: float, steps: int) -> None:
        self.parameters = parameters
        self.learning_rate = learning_rate
        self.optimizer = torch.optim.Adam([parameters], lr=learning_rate, maximize=True)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)

    @property
    def rate_fraction(self) -> float:
        """Return the learning rate of the next step, as a fraction of that of the first step."""
        return float(self.schedule.get_last_lr()[0]) / self.learning_rate

    def step(self, objective: Tensor) -> None:
        """Update the parameters in place."""
        (self.parameters.grad,) = torch.autograd.grad(objective, [self.parameters])
        self.optimizer.step()
        self.schedule.step()


def _tile_unit(unit: Target, times: int) -> Target:
    """Return the target for several images of each class."""
    if times == 1:
        return unit
    tiled = unit.tile(times)
    if tiled is None:
        raise InvalidInput(
            f"{unit!r} depends on particular images and cannot be repeated, got count={times}: use count=1."
        )
    return tiled
