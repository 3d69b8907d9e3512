"""[visualizers/trajectory] What an ascent has come through: when to stop it, and which images it never moved.
[visualizers/activation_maximization] Activation maximization: gradient ascent on the image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attribkit.contracts.visualizer import GeneratedImages, Responses, Visualizer
from attribkit.core.axes import capped_sizes, per_axis
from attribkit.core.errors import InvalidInput
from attribkit.core.options import (
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeInt,
    OneOrMore,
    PositiveFloat,
    PositiveInt,
    Seed,
)
from attribkit.core.progress import track
from attribkit.core.shapes import Images, PerImage
from attribkit.engine.model import HookedModel
from attribkit.targets.outputs import to_full_precision
from attribkit.targets.target import Target
from attribkit.visualizers.parametrisations import (
    Canvas,
    Fourier,
    Pixels,
    bounded,
    squared_norm,
    total_variation,
    with_natural_colours,
)
from attribkit.visualizers.transformations import RandomMovement


class ScoreTrajectory:
    """The responses and objectives of n images, step by step; asks the device for an answer once in a while only."""

    def __init__(self) -> None:
        self._responses: list[Tensor] = []
        self._objectives: list[Tensor] = []
        self._climbed: Tensor | None = None  # whether a gradient led anywhere

    def add(self, response: PerImage, objective: PerImage, gradient: Images) -> None:
        """Take a step down in the record; gradient: of the response, by the pixels."""
        self._responses.append(response)
        self._objectives.append(objective)
        climbs = gradient.flatten(1).any(1)
        self._climbed = climbs if self._climbed is None else self._climbed | climbs

    def responses(self, last: PerImage) -> Responses:
        """All of them, and one more."""
        return torch.stack([*self._responses, last])

    def is_flat(self, tolerance: float, patience: int) -> bool:
        """Whether every image's mean objective of the last steps is, relatively, about that of as many before.

        Looks each time that so many steps have passed; an image that no gradient has moved yet is not flat.
        """
        steps = len(self._objectives)
        if not tolerance or steps % patience or steps < 2 * patience or self.unmoved():
            return False
        before, now = (torch.stack(part).mean(0) for part in _halves(self._objectives[-2 * patience :]))
        return bool(((now - before).abs() <= tolerance * now.abs()).all())

    def unmoved(self) -> list[int]:
        """The images for which the gradient was zero at every step."""
        if self._climbed is None:
            return []
        images: list[int] = (~self._climbed).nonzero().flatten().tolist()
        return images


def _halves(steps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    middle = len(steps) // 2
    return list(steps[:middle]), list(steps[middle:])


Jitter = NonNegativeInt | OneOrMore[NonNegativeInt]

_PARAMETRISATIONS: dict[str, type[Fourier | Pixels]] = {"fourier": Fourier, "pixel": Pixels}
_JITTER = 8  # pixels
_STARTS = {"noise": 1.0, "zeros": 0.0}  # standard deviation of the first parameters


@dataclass(frozen=True)
class ActivationMaximization(Visualizer):
    """An image, found by gradient ascent, that a unit responds to strongly."""

    name: ClassVar[str] = "activation_maximization"
    source: ClassVar[str] = "Simonyan et al., ICLR 2014 workshop, sec. 2; Olah et al., Distill 2017"

    parametrisation: Literal["fourier", "pixel"] = "fourier"  # frequencies give bounded pixels, where these are known
    start: Literal["noise", "zeros"] = "noise"  # of variance 1; by frequency and colour it is like natural images
    decorrelated: bool = True  # colours mixed as in natural images; for three channels
    jitter: Jitter | None = None  # pixels, the largest shift; None is 8, of clips and volumes at most 1/8 of each axis
    scale: FractionBelowOne = 0.1  # share of its size; like shift and turn the most at the first step, fading to none
    rotate: NonNegativeFloat = 8.0  # degrees
    l2: NonNegativeFloat = 0.0  # weight of the squared norm of the normalised image
    total_variation: NonNegativeFloat = 0.0  # weight of its total variation
    blur: NonNegativeFloat = 0.0  # pixels; standard deviation of a blur after every few steps; for pixels
    blur_every: PositiveInt = 4  # steps
    steps: PositiveInt = 256  # at most; one forward and backward each
    learning_rate: PositiveFloat = 0.2  # of Adam at the first step; falls to zero along a cosine
    tolerance: NonNegativeFloat = 0.001  # relative rise of the objective below which it is flat; 0 never stops early
    patience: PositiveInt = 32  # steps whose mean is compared with that of as many before
    seed: Seed = 0
    count: PositiveInt = 1  # images, each from noise of its own

    def __post_init__(self) -> None:
        if self.blur and self.parametrisation != "pixel":
            raise InvalidInput('blur is for parametrisation="pixel": frequencies are damped already.')

    def __call__(self, model: HookedModel, unit: Target, blank: Images) -> tuple[GeneratedImages, Responses]:
        unit = _repeated(unit, self.count)
        generator = torch.Generator().manual_seed(self.seed)
        canvas = self._canvas(model, blank, generator)
        space = tuple(blank.shape[2:])
        jitter = (
            capped_sizes(_JITTER, 8, space) if self.jitter is None else per_axis("jitter", self.jitter, space, least=0)
        )
        trajectory = self._ascend(model, unit, canvas, RandomMovement(jitter, self.scale, self.rotate, generator))
        if still := trajectory.unmoved():
            model.note(f"the gradient was zero at every step for images {still}: they show where they began, no unit")
        images = canvas.images().detach().to(blank.dtype)
        return images, trajectory.responses(model.score_and_gradient(images, unit)[0])

    def _canvas(self, model: HookedModel, blank: Images, generator: torch.Generator) -> Canvas:
        """The images before the first step."""
        parametrisation = _PARAMETRISATIONS[self.parametrisation]((len(blank) * self.count, *blank.shape[1:]))
        first = _STARTS[self.start] * torch.randn(
            parametrisation.parameters_shape, generator=generator, dtype=torch.float32, device="cpu"
        )
        stages = [parametrisation, *self._stages(model, blank.shape[1])]
        return Canvas(first.to(to_full_precision(blank)).requires_grad_(), stages)

    def _ascend(self, model: HookedModel, unit: Target, canvas: Canvas, move: RandomMovement) -> ScoreTrajectory:
        """Change the canvas until the steps are spent or the objective is flat."""
        dtype = next(p.dtype for p in model.module.parameters() if p.is_floating_point())
        ascent = _Ascent(canvas.parameters, self.learning_rate, self.steps)
        trajectory = ScoreTrajectory()
        for step in track(range(1, self.steps + 1), self.name):
            images = canvas.images()
            moved = move.faded(ascent.share)(images)
            response, gradient = model.score_and_gradient(moved.detach().to(dtype), unit)
            penalty = self._penalty(images)
            ascent.step((gradient * moved).sum() - penalty.sum())  # has the gradient of response - penalty
            if self.blur and step % self.blur_every == 0:
                canvas.blur(self.blur)
            trajectory.add(response, response - penalty.detach(), gradient)
            if step < self.steps and trajectory.is_flat(self.tolerance, self.patience):
                model.note(f"stopped after {step} of {self.steps} steps, since the objective was flat")
                break
        return trajectory

    def _stages(self, model: HookedModel, channels: int) -> list[Callable[[Images], Images]]:
        """What turns the parametrisation's images into normalised ones: natural colours, bounds."""
        stages: list[Callable[[Images], Images]] = []
        if self.decorrelated and channels == 3:
            stages.append(with_natural_colours)
        elif self.decorrelated:
            model.note(f"decorrelated=True is for 3 channels and does nothing for {channels}")
        normalisation = model.spec.normalisation(channels)
        if self.parametrisation == "fourier" and normalisation is not None:
            stages.append(bounded(*normalisation))
        elif self.parametrisation == "fourier":
            model.note("the model's mean and std are not known: the pixel values are not bounded")
        return stages

    def _penalty(self, images: Images) -> PerImage:
        """What is taken from each image's response."""
        penalty = images.new_zeros(len(images))
        if self.l2:
            penalty = penalty + self.l2 * squared_norm(images)
        return penalty + self.total_variation * total_variation(images) if self.total_variation else penalty


class _Ascent:
    """Steps of Adam (Kingma and Ba, ICLR 2015) up an objective, shorter and shorter along a cosine."""

    def __init__(self, parameters: Tensor, learning_rate: float, steps: int) -> None:
        self.parameters = parameters
        self.learning_rate = learning_rate
        self.optimizer = torch.optim.Adam([parameters], lr=learning_rate, maximize=True)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)

    @property
    def share(self) -> float:
        """The next step's length, as a share of the first's."""
        return float(self.schedule.get_last_lr()[0]) / self.learning_rate

    def step(self, objective: Tensor) -> None:
        """Change the parameters in place."""
        (self.parameters.grad,) = torch.autograd.grad(objective, [self.parameters])
        self.optimizer.step()
        self.schedule.step()


def _repeated(unit: Target, times: int) -> Target:
    """The unit, for several images of each class."""
    if times == 1:
        return unit
    repeated = unit.tile(times)
    if repeated is None:
        raise InvalidInput(f"{unit!r} speaks of given images only: use count=1.")
    return repeated
