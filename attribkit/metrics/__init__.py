"""The built-in metrics, registered by the hook that any plugin uses."""

from attribkit.core.metric import Metric
from attribkit.hookspecs import hookimpl
from attribkit.metrics.banks.faithfulness_correlation import FaithfulnessCorrelation
from attribkit.metrics.banks.infidelity import Infidelity
from attribkit.metrics.banks.mu_fidelity import MuFidelity
from attribkit.metrics.banks.sensitivity_n import SensitivityN
from attribkit.metrics.banks.single_deletion import SingleDeletion
from attribkit.metrics.curves.aopc import AOPC
from attribkit.metrics.curves.deletion import Deletion
from attribkit.metrics.curves.insertion import Insertion
from attribkit.metrics.curves.insertion_minus_deletion import InsertionMinusDeletion
from attribkit.metrics.masked.adcc import AverageDCC
from attribkit.metrics.masked.average_drop import AverageDrop
from attribkit.metrics.masked.average_gain import AverageGain
from attribkit.metrics.masked.increase_in_confidence import IncreaseInConfidence
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
        SensitivityN,
        FaithfulnessCorrelation,
        MuFidelity,
        SingleDeletion,
        Infidelity,
        AverageDrop,
        IncreaseInConfidence,
        AverageGain,
        AverageDCC,
    ]
