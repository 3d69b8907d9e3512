"""The built-in metrics, registered by the hook that any plugin uses."""

from attribkit.core.metric import Metric
from attribkit.hookspecs import hookimpl
from attribkit.metrics.banks.faithfulness_correlation import FaithfulnessCorrelation
from attribkit.metrics.banks.infidelity import Infidelity
from attribkit.metrics.banks.infidelity_under_noise import InfidelityUnderNoise
from attribkit.metrics.banks.mu_fidelity import MuFidelity
from attribkit.metrics.banks.sensitivity_n import SensitivityN
from attribkit.metrics.banks.single_deletion import SingleDeletion
from attribkit.metrics.complexity.effective_complexity import EffectiveComplexity
from attribkit.metrics.complexity.entropy import MapEntropy
from attribkit.metrics.complexity.sparseness import Sparseness
from attribkit.metrics.curves.aopc import AOPC
from attribkit.metrics.curves.deletion import Deletion
from attribkit.metrics.curves.insertion import Insertion
from attribkit.metrics.curves.insertion_minus_deletion import InsertionMinusDeletion
from attribkit.metrics.localization.box_iou import BoxIoU
from attribkit.metrics.localization.energy_pointing_game import EnergyPointingGame
from attribkit.metrics.localization.localization_auc import LocalizationAUC
from attribkit.metrics.localization.pointing_game import PointingGame
from attribkit.metrics.localization.relevance_mass import RelevanceMass
from attribkit.metrics.localization.relevance_rank import RelevanceRank
from attribkit.metrics.localization.top_k_intersection import TopKIntersection
from attribkit.metrics.masked.adcc import AverageDCC
from attribkit.metrics.masked.average_drop import AverageDrop
from attribkit.metrics.masked.average_gain import AverageGain
from attribkit.metrics.masked.increase_in_confidence import IncreaseInConfidence
from attribkit.metrics.robustness.average_sensitivity import AverageSensitivity
from attribkit.metrics.robustness.local_lipschitz import LocalLipschitz
from attribkit.metrics.robustness.max_sensitivity import MaxSensitivity
from attribkit.metrics.sanity.class_randomisation import ClassRandomisation
from attribkit.metrics.sanity.parameter_randomisation import ParameterRandomisation


@hookimpl
def attribkit_metrics() -> list[type[Metric]]:
    """Metrics in the order in which tables show them."""
    return [
        Deletion,
        Insertion,
        InsertionMinusDeletion,
        AOPC,
        SensitivityN,
        FaithfulnessCorrelation,
        MuFidelity,
        SingleDeletion,
        Infidelity,
        InfidelityUnderNoise,
        AverageDrop,
        IncreaseInConfidence,
        AverageGain,
        AverageDCC,
        RelevanceMass,
        RelevanceRank,
        TopKIntersection,
        LocalizationAUC,
        PointingGame,
        EnergyPointingGame,
        BoxIoU,
        MapEntropy,
        EffectiveComplexity,
        Sparseness,
        MaxSensitivity,
        AverageSensitivity,
        LocalLipschitz,
        ParameterRandomisation,
        ClassRandomisation,
    ]
