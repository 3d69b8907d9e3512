"""Conformance checks for visualizers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from attribkit._contracts.visualization import Visualization
from attribkit._contracts.visualizer import Visualizer
from attribkit._explainer import Explainer
from attribkit.testing._state import (
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
    """Run all conformance checks (VISUALIZER_CHECKS) on a visualizer.

    Args:
        visualizer: An instance of the visualizer.
        model: A classifier of at least three classes; None means a small convolutional network.
        size: Shape of the model's images, (c, *space).

    Raises:
        AssertionError: If a check fails, with a description of the violation.
    """
    for check in VISUALIZER_CHECKS:
        check(visualizer, model or tiny_cnn(), size)


def check_visualizer_describes_itself(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """Check for a frozen, hashable dataclass with a name, a source and a docstring."""
    assert_described(visualizer)


def check_visualizer_refuses_wrong_options(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """Check that each option rejects values of other types."""
    assert_refuses_wrong_options(visualizer)


def check_visualizer_leaves_model_alone(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """Check that the run leaves the model and the random number generators unchanged."""
    before = model_state(model)
    _visualized(visualizer, model, size)
    assert not changes(before, model_state(model)), f"changed: {changes(before, model_state(model))}"


def check_visualizer_leaves_model_alone_on_error(
    visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]
) -> None:
    """Check that the model and the generators are unchanged after an error or a KeyboardInterrupt in the forward."""
    for error in (RuntimeError("raised on purpose"), KeyboardInterrupt()):
        assert_survives(error, model, lambda: _visualized(visualizer, model, size))


def check_visualizer_fits_model(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """Check the shape, dtype and device of the images, their number for each class, and that they are finite."""
    like = next(model.parameters())
    for unit, classes in ((2, 1), ([0, 2], 2)):
        images = _visualized(visualizer, model, size, unit).images
        assert images.shape[1:] == size, f"images have shape {tuple(images.shape)}, expected (n, *{size})"
        assert len(images) % classes == 0, f"{len(images)} images, expected a multiple of {classes} classes"
        assert images.dtype == like.dtype, f"images have dtype {images.dtype}, the model {like.dtype}"
        assert images.device == like.device, f"images are on {images.device}, the model on {like.device}"
        assert not images.requires_grad, "images require gradients"
        assert bool(images.isfinite().all()), "images are not finite"


def check_visualizer_responses(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """Check that the last responses are the model's scores of the images, each for its class."""
    result = _visualized(visualizer, model, size, [0, 2])
    classes = torch.tensor([0, 2], device="cpu").repeat(len(result) // 2)
    scores = outputs_of(model, result.images).cpu().float()[torch.arange(len(result), device="cpu"), classes]
    gap = float((scores - result.responses[-1].cpu()).abs().max())
    assert gap <= 1e-3 * max(1.0, float(scores.abs().max())), f"responses differ from the model's scores by {gap:.2g}"


def check_visualizer_repeats_itself(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """Check that two equal calls give equal images, even if the global random number generators have advanced."""
    first = _visualized(visualizer, model, size).images
    torch.rand(1, dtype=torch.float32, device="cpu")
    np.random.rand()  # noqa: NPY002  # advances the global generator on purpose
    assert torch.equal(first, _visualized(visualizer, model, size).images), "two equal calls give different images"


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
