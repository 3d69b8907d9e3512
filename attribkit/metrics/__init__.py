"""The built-in metrics, registered by the hook that any plugin uses."""

from attribkit.contracts.metric import Metric
from attribkit.hookspecs import hookimpl
from attribkit.metrics.complexity import EffectiveComplexity, MapEntropy, Sparseness
from attribkit.metrics.curves import AOPC, Deletion, Insertion, InsertionMinusDeletion
from attribkit.metrics.infidelity import Infidelity, InfidelityUnderNoise
from attribkit.metrics.localization import BoxIoU, LocalizationAUC, RelevanceMass, RelevanceRank, TopKIntersection
from attribkit.metrics.masked import AverageDCC, AverageDrop, AverageGain, IncreaseInConfidence
from attribkit.metrics.pointing import EnergyPointingGame, PointingGame
from attribkit.metrics.robustness import AverageSensitivity, LocalLipschitz, MaxSensitivity
from attribkit.metrics.sanity import ClassRandomisation, ParameterRandomisation
from attribkit.metrics.subset_metrics import FaithfulnessCorrelation, MuFidelity, SensitivityN, SingleDeletion


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
