"""The built-in metrics, registered by the hook that any plugin uses."""

from attribkit.core.metric import Metric
from attribkit.hookspecs import hookimpl
from attribkit.metrics.pointing_game import PointingGame
from attribkit.metrics.relevance_mass import RelevanceMass


@hookimpl
def attribkit_metrics() -> list[type[Metric]]:
    """Metrics in the order in which tables show them."""
    return [RelevanceMass, PointingGame]
