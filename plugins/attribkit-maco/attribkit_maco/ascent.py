"""Gradient ascent on the parameters of images, through random views."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attribkit import HookedModel, Target, track

from .views import RandomViews, View

Score = Callable[[Tensor], tuple[Tensor, Tensor]]  # of crops; their scores and the gradients of these
Penalty = Callable[[View, Tensor, Tensor], Tensor]  # of a view, the images and the response's gradient; its gradient


@dataclass(frozen=True)
class Canvas:
    """Optimised parameters, and the function that turns them into images.

    Args:
        parameters: Leaves that require gradients.
        draw: Returns the current images, (n, c, h, w), differentiable with respect to the parameters.
    """

    parameters: Sequence[Tensor]
    draw: Callable[[], Tensor]


@dataclass
class Trajectory:
    """What an ascent leaves behind: the responses of its steps and the importance of each pixel.

    Args:
        responses: Mean response over the views at each step, each (n,).
        importance: Absolute gradient of the response with respect to the images, summed over channels and steps,
            (n, h, w).
    """

    importance: Tensor
    responses: list[Tensor] = field(default_factory=list)


def ascend(
    model: HookedModel,
    unit: Target,
    canvas: Canvas,
    views: RandomViews,
    steps: int,
    learning_rate: float,
    name: str,
    penalty: Penalty | None = None,
) -> Trajectory:
    """Maximise the mean response over random views, minus a penalty, by Adam with a cosine schedule.

    Args:
        model: The model.
        unit: The unit, with a target for each image.
        canvas: The images, changed in place.
        views: Random views; each step draws new ones.
        steps: Number of steps.
        learning_rate: Learning rate of the first step, which falls to zero along a cosine.
        name: Label of the progress bar.
        penalty: Returns the gradient of the penalty with respect to the images.

    Returns:
        The responses of the steps and the importance of the pixels.
    """
    image = canvas.draw().detach()
    trajectory = Trajectory(image.new_zeros((len(image), *image.shape[2:])))
    optimizer = torch.optim.Adam(canvas.parameters, lr=learning_rate, maximize=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for _ in track(range(steps), name, steps):
        drawn = canvas.draw()
        image = drawn.detach()
        view = views.draw(image)
        response, gradient = gradient_through(view, image, lambda crops: _scores(model, unit, crops, views.count))
        trajectory.responses.append(response)
        trajectory.importance += gradient.abs().sum(1)
        if penalty is not None:
            gradient = gradient - penalty(view, image, gradient)
        for leaf, slope in zip(canvas.parameters, torch.autograd.grad(drawn, canvas.parameters, gradient), strict=True):
            leaf.grad = slope
        optimizer.step()
        schedule.step()
    return trajectory


def gradient_through(view: View, images: Tensor, score: Score) -> tuple[Tensor, Tensor]:
    """Return the mean score over the crops of each image, (n,), and its gradient with respect to the images.

    Args:
        view: The crops.
        images: Images, (n, c, h, w).
        score: Returns the score of each crop and its gradient with respect to the crop.
    """
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        crops = view(leaf)
    scores, slopes = score(crops.detach())
    (gradient,) = torch.autograd.grad(crops, leaf, slopes.to(crops) / view.count)
    return scores.view(view.count, -1).mean(0), gradient


def _scores(model: HookedModel, unit: Target, crops: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the score of each crop and its gradient; targets that cannot be repeated are scored in turns."""
    crops = crops.to(model.images.dtype)
    many = unit if count == 1 else unit.tile(count)
    if many is not None:
        return model.score_and_gradient(crops, many)
    parts = [model.score_and_gradient(each, unit) for each in crops.chunk(count)]
    return torch.cat([score for score, _ in parts]), torch.cat([slope for _, slope in parts])


def note_unchanged(model: HookedModel, trajectory: Trajectory) -> None:
    """Add a note on images whose gradient was zero at every step."""
    if not trajectory.responses:
        return
    unchanged = (~trajectory.importance.flatten(1).any(1)).nonzero().flatten().tolist()
    if unchanged:
        model.note(f"the gradient was zero at every step for images {unchanged}: they show the start, not the unit")
