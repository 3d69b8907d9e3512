"""The built-in visualizers, registered through the hook that plugins use."""

from attribkit._contracts.visualizer import Visualizer
from attribkit._hookspecs import hookimpl
from attribkit.visualizers._activation_maximization import ActivationMaximization

__all__ = [
    "ActivationMaximization",
]


@hookimpl
def attribkit_visualizers() -> list[type[Visualizer]]:
    """Return the built-in visualizers, in the order in which tables show them."""
    return [ActivationMaximization]
