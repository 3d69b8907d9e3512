# mypy: disable-error-code="empty-body"
"""The hooks: all that a plugin can add to attribkit, and the marker for writing one."""

import pluggy
from torch import nn

from attribkit.contracts.method import Method
from attribkit.contracts.metric import Metric
from attribkit.contracts.visualizer import Visualizer
from attribkit.core.spec import ModelSpec
from attribkit.core.substrates import Imputer

hookspec = pluggy.HookspecMarker("attribkit")
hookimpl = pluggy.HookimplMarker("attribkit")


@hookspec
def attribkit_methods() -> list[type[Method]]:
    """Attribution methods that this plugin adds: images in, scores per pixel out."""


@hookspec
def attribkit_visualizers() -> list[type[Visualizer]]:
    """Visualizers that this plugin adds: a unit of a model in, images that it responds to out."""


@hookspec
def attribkit_metrics() -> list[type[Metric]]:
    """Metrics that this plugin adds: an attribution in, a number per image out."""


@hookspec
def attribkit_imputers() -> list[type[Imputer]]:
    """Imputers that this plugin adds: images with holes in, the images with the holes filled out."""


@hookspec(firstresult=True)
def attribkit_model_spec(model: nn.Module) -> ModelSpec | None:
    """Describe an architecture; None if it is not one that this plugin knows. The last plugin loaded is asked first."""
