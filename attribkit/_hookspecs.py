# mypy: disable-error-code="empty-body"
"""The hooks that a plugin implements to extend attribkit, and the marker `hookimpl` for the implementations.

A plugin is a module that an installed distribution names in the entry point group "attribkit"::

    [project.entry-points.attribkit]
    my_plugin = "my_package"

Its functions have the names of the hooks below and the decorator `hookimpl`. A plugin whose hooks fail or return
something else is skipped with a PluginWarning. A module may state the version of the hooks for which it was written,
``attribkit_hooks_version = 1``; it is skipped where the version of the hooks differs.

Example:
    ::

        from attribkit import hookimpl


        @hookimpl
        def attribkit_methods():
            return [MyMethod]
"""

import pluggy
from torch import nn

from attribkit._contracts.dataset import Dataset
from attribkit._contracts.method import Method
from attribkit._contracts.metric import Metric
from attribkit._contracts.visualizer import Visualizer
from attribkit._core.spec import ModelSpec
from attribkit._core.substrates import Imputer

HOOKS_VERSION = 1  # increases if a hook changes in a way that existing plugins do not support

hookspec = pluggy.HookspecMarker("attribkit")
hookimpl = pluggy.HookimplMarker("attribkit")


@hookspec
def attribkit_methods() -> list[type[Method]]:
    """Return the attribution methods that the plugin adds."""


@hookspec
def attribkit_visualizers() -> list[type[Visualizer]]:
    """Return the visualizers that the plugin adds."""


@hookspec
def attribkit_metrics() -> list[type[Metric]]:
    """Return the metrics that the plugin adds."""


@hookspec
def attribkit_imputers() -> list[type[Imputer]]:
    """Return the imputers that the plugin adds: they fill removed pixels for metrics and methods."""


@hookspec
def attribkit_datasets() -> list[type[Dataset]]:
    """Return the data sets that the plugin adds, for benchmarks."""


@hookspec(firstresult=True)
def attribkit_model_spec(model: nn.Module) -> ModelSpec | None:
    """Return the spec of a model's architecture, or None if the plugin does not support the architecture.

    The plugins are called in the reverse order of loading, the built-in families last, until one returns a spec.

    Args:
        model: The module that the user passes to `Explainer`.
    """
