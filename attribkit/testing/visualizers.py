"""Checks that a visualizer must pass."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from attribkit.contracts.visualization import Visualization
from attribkit.contracts.visualizer import Visualizer
from attribkit.explainer import Explainer
from attribkit.testing.state import (
    assert_described,
    assert_refuses_wrong_options,
    assert_survives,
    changes,
    model_state,
    outputs_of,
    tiny_cnn,
)


def check_visualizer(
    visualizer: Visualizer, model: nn.Module | None = None, size: tuple[int, ...] = (3, 16, 16)
) -> None:
    """Run every check of VISUALIZER_CHECKS; the first that fails raises an AssertionError that says what is wrong.

    model, size: a classifier of at least three classes, and (c, *space) of its images; None is a small CNN.
    """
    for check in VISUALIZER_CHECKS:
        check(visualizer, model or tiny_cnn(), size)


def check_visualizer_describes_itself(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """A frozen, hashable dataclass with a name, a source and a summary."""
    assert_described(visualizer)


def check_visualizer_refuses_wrong_options(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """Each option refuses what is of none of its types."""
    assert_refuses_wrong_options(visualizer)


def check_visualizer_leaves_model_alone(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """Nothing of the model, nor of the random number generators, is different afterwards."""
    before = model_state(model)
    _visualized(visualizer, model, size)
    assert not changes(before, model_state(model)), f"changed: {changes(before, model_state(model))}"


def check_visualizer_leaves_model_alone_on_error(
    visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]
) -> None:
    """Nor when the forward raises in its middle, or the user interrupts it."""
    for error in (RuntimeError("raised on purpose"), KeyboardInterrupt()):
        assert_survives(error, model, lambda: _visualized(visualizer, model, size))


def check_visualizer_fits_model(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """Finite images of the model's shape, device and precision, that want no gradient; one of each class, or more."""
    like = next(model.parameters())
    for unit, classes in ((2, 1), ([0, 2], 2)):
        images = _visualized(visualizer, model, size, unit).images
        assert images.shape[1:] == size, f"images of shape {tuple(images.shape)}, asked for {size}"
        assert len(images) % classes == 0, f"{len(images)} images of {classes} classes"
        assert images.dtype == like.dtype, f"images of {images.dtype}, the model is of {like.dtype}"
        assert images.device == like.device, f"images on {images.device}, the model is on {like.device}"
        assert not images.requires_grad, "images that want gradients"
        assert bool(images.isfinite().all()), "images that are not finite"


def check_visualizer_responses(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """The last responses are what the model says of the images, each of its own class."""
    made = _visualized(visualizer, model, size, [0, 2])
    classes = torch.tensor([0, 2], device="cpu").repeat(len(made) // 2)
    scores = outputs_of(model, made.images).cpu().float()[torch.arange(len(made), device="cpu"), classes]
    gap = float((scores - made.responses[-1].cpu()).abs().max())
    assert gap <= 1e-3 * max(1.0, float(scores.abs().max())), f"responses differ from the model's scores by {gap:.2g}"


def check_visualizer_repeats_itself(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """The same call gives the same images, whatever was drawn from the global random number generators before."""
    first = _visualized(visualizer, model, size).images
    torch.rand(1, dtype=torch.float32, device="cpu")
    np.random.rand()  # noqa: NPY002  # the global state is what must not matter
    assert torch.equal(first, _visualized(visualizer, model, size).images), "two calls gave different images"


VISUALIZER_CHECKS: tuple[Callable[[Visualizer, nn.Module, tuple[int, ...]], None], ...] = (
    check_visualizer_describes_itself,
    check_visualizer_refuses_wrong_options,
    check_visualizer_leaves_model_alone,
    check_visualizer_leaves_model_alone_on_error,
    check_visualizer_fits_model,
    check_visualizer_responses,
    check_visualizer_repeats_itself,
)


def _visualized(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...], unit: Any = 2) -> Visualization:
    return Explainer(model).visualize(unit, visualizer, size=size)
