"""The built-in visualizers, registered by the hook that any plugin uses."""

from attribkit.contracts.visualizer import Visualizer
from attribkit.hookspecs import hookimpl
from attribkit.visualizers.activation_maximization import ActivationMaximization


@hookimpl
def attribkit_visualizers() -> list[type[Visualizer]]:
    """Visualizers in the order of tables."""
    return [ActivationMaximization]
