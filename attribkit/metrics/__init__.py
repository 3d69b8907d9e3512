"""The built-in metrics, registered by the hook that any plugin uses."""

from attribkit.core.metric import Metric
from attribkit.hookspecs import hookimpl
from attribkit.metrics.curves.aopc import AOPC
from attribkit.metrics.curves.deletion import Deletion
from attribkit.metrics.curves.insertion import Insertion
from attribkit.metrics.curves.insertion_minus_deletion import InsertionMinusDeletion
from attribkit.metrics.pointing_game import PointingGame
from attribkit.metrics.relevance_mass import RelevanceMass


@hookimpl
def attribkit_metrics() -> list[type[Metric]]:
    """Metrics in the order in which tables show them."""
    return [
        Deletion,
        Insertion,
        InsertionMinusDeletion,
        AOPC,
        RelevanceMass,
        PointingGame,
    ]
