"""Conformance checks for visualizers."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from attribkit._contracts.visualization import Visualization
from attribkit._contracts.visualizer import Visualizer
from attribkit._explainer import Explainer
from attribkit.registry import options_of
from attribkit.testing._checks import NotApplicable, raise_first_failure, require
from attribkit.testing._examples import tiny_cnn
from attribkit.testing._state import (
    advance_generators,
    model_state,
    outputs_of,
    plugin_checks,
    require_unchanged,
    require_unchanged_on_error,
)

ImageShape = tuple[int, ...]

VISUALIZER_CHECKS = plugin_checks("visualizer", lambda _visualizer: (tiny_cnn(), (3, 16, 16)))


def check_visualizer(visualizer: Visualizer, model: nn.Module | None = None, size: ImageShape = (3, 16, 16)) -> None:
    """Run all conformance checks (VISUALIZER_CHECKS) on a visualizer until one fails.

    Args:
        visualizer: An instance of the visualizer.
        model: A classifier of at least three classes; None means a small convolutional network.
        size: Shape of the model's images, (c, *space).

    Raises:
        ConformanceError: If a check fails, with the name of the check, what it observed and expected, and how to fix
            it.
    """
    raise_first_failure(VISUALIZER_CHECKS, visualizer, model or tiny_cnn(), size)


@VISUALIZER_CHECKS.add
def check_visualizer_model_unchanged(visualizer: Visualizer, model: nn.Module, size: ImageShape) -> None:
    """Check that the run leaves the model, the random number generators and global settings unchanged."""
    before = model_state(model)
    _visualized(visualizer, model, size)
    require_unchanged(before, model, "the visualizer")


@VISUALIZER_CHECKS.add
def check_visualizer_model_unchanged_on_error(visualizer: Visualizer, model: nn.Module, size: ImageShape) -> None:
    """Check that the model and the generators are unchanged after an error or a KeyboardInterrupt in the forward."""
    require_unchanged_on_error(model, lambda: _visualized(visualizer, model, size))


@VISUALIZER_CHECKS.add
def check_visualizer_fits_model(visualizer: Visualizer, model: nn.Module, size: ImageShape) -> None:
    """Check the shape, dtype and device of the images, their number for each class, and that they are finite."""
    like = next(model.parameters())
    for unit, classes in ((2, 1), ([0, 2], 2)):
        images = _visualized(visualizer, model, size, unit).images
        require(
            images.shape[1:] == size
            and len(images) % classes == 0
            and (images.dtype, images.device, images.requires_grad) == (like.dtype, like.device, False)
            and bool(images.isfinite().all()),
            f"images of shape {tuple(images.shape)}, dtype {images.dtype}, device {images.device}, "
            f"requires_grad={images.requires_grad}, finite: {bool(images.isfinite().all())}",
            f"finite images (n, {', '.join(map(str, size))}) with n a multiple of {classes}, dtype {like.dtype}, on "
            f"{like.device}, no graph",
            "create the images from `blank`: torch.zeros_like(blank)",
        )


@VISUALIZER_CHECKS.add
def check_visualizer_responses(visualizer: Visualizer, model: nn.Module, size: ImageShape) -> None:
    """Check that the last responses are the model's scores of the images, each for its class."""
    result = _visualized(visualizer, model, size, [0, 2])
    classes = torch.tensor([0, 2], device="cpu").repeat(len(result) // 2)
    scores = outputs_of(model, result.images).cpu().float()[torch.arange(len(result), device="cpu"), classes]
    gap = float((scores - result.responses[-1].cpu()).abs().max())
    limit = 1e-3 * max(1.0, float(scores.abs().max()))
    require(
        gap <= limit,
        f"the last responses differ from the model's scores of the images by {gap:.2g}",
        f"a difference of at most {limit:.2g}",
        "append model.score(images, unit) of the returned images as the last row of the responses",
    )


@VISUALIZER_CHECKS.add
def check_visualizer_exceeds_blank(visualizer: Visualizer, model: nn.Module, size: ImageShape) -> None:
    """Check that the unit responds more to the images than to a blank image."""
    like = next(model.parameters())
    blank = outputs_of(model, torch.zeros(1, *size, dtype=like.dtype, device=like.device))[0]
    for unit in (0, 2):
        response = float(_visualized(visualizer, model, size, unit).responses[-1].max())
        require(
            response > float(blank[unit]),
            f"the response of class {unit} is {response:.4g}; that to a blank image is {float(blank[unit]):.4g}",
            "a response above that to a blank image",
            "follow the gradient upwards: images + step * gradient",
        )


@VISUALIZER_CHECKS.add
def check_visualizer_reads_unit(visualizer: Visualizer, model: nn.Module, size: ImageShape) -> None:
    """Check that the images of two classes differ, and that each excites its own class more than the other image."""
    first, second = (_visualized(visualizer, model, size, unit).images for unit in (0, 2))
    scores = [outputs_of(model, images)[:, [0, 2]].amax(0) for images in (first, second)]
    require(
        float(scores[0][0]) > float(scores[1][0]) and float(scores[1][1]) > float(scores[0][1]),
        f"the images of classes 0 and 2 have scores {_rounded(scores[0])} and {_rounded(scores[1])} for these classes",
        "images that excite their own class more than the image of the other class does",
        "pass `unit` to model.score_and_gradient",
    )


@VISUALIZER_CHECKS.add
def check_visualizer_repeats(visualizer: Visualizer, model: nn.Module, size: ImageShape) -> None:
    """Check that two equal calls give equal images, even if the global random number generators have advanced."""
    first = _visualized(visualizer, model, size).images
    advance_generators()
    require(
        torch.equal(first, _visualized(visualizer, model, size).images),
        "two equal calls give different images",
        "equal images",
        "draw random numbers from torch.Generator().manual_seed(self.seed), with the option `seed: Seed = 0`",
    )


@VISUALIZER_CHECKS.add
def check_visualizer_seed(visualizer: Visualizer, model: nn.Module, size: ImageShape) -> None:
    """Check that another seed gives other images."""
    if "seed" not in options_of(type(visualizer)):
        raise NotApplicable("the visualizer does not have the option `seed`")
    other = replace(visualizer, seed=visualizer.seed + 1)  # type: ignore[attr-defined,call-arg,type-var]
    first, second = (_visualized(each, model, size).images for each in (visualizer, other))
    require(
        not torch.equal(first, second),
        "the same images for two seeds",
        "other images for another seed",
        "seed a generator with self.seed, or remove the option",
    )


def _visualized(visualizer: Visualizer, model: nn.Module, size: ImageShape, unit: Any = 2) -> Visualization:
    return Explainer(model).visualize(unit, visualizer, size=size)


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 3) for value in values.tolist()]
