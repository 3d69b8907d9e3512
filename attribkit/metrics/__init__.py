"""The built-in metrics, registered through the hook that plugins use."""

from attribkit._contracts.metric import Metric
from attribkit._hookspecs import hookimpl
from attribkit.metrics._complexity import EffectiveComplexity, MapEntropy, Sparseness
from attribkit.metrics._curves import AOPC, Deletion, Insertion, InsertionMinusDeletion
from attribkit.metrics._infidelity import Infidelity, InfidelityUnderNoise
from attribkit.metrics._localization import (
    BoxIoU,
    EnergyPointingGame,
    LocalizationAUC,
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    TopKIntersection,
)
from attribkit.metrics._masked import AverageDCC, AverageDrop, AverageGain, IncreaseInConfidence
from attribkit.metrics._robustness import AverageSensitivity, LocalLipschitz, MaxSensitivity
from attribkit.metrics._sanity import ClassRandomisation, ParameterRandomisation
from attribkit.metrics._subset_metrics import FaithfulnessCorrelation, MuFidelity, SensitivityN, SingleDeletion

__all__ = [
    "AOPC", "AverageDCC", "AverageDrop", "AverageGain", "AverageSensitivity", "BoxIoU", "ClassRandomisation",
    "Deletion", "EffectiveComplexity", "EnergyPointingGame", "FaithfulnessCorrelation", "IncreaseInConfidence",
    "Infidelity", "InfidelityUnderNoise", "Insertion", "InsertionMinusDeletion", "LocalLipschitz", "LocalizationAUC",
    "MapEntropy", "MaxSensitivity", "MuFidelity", "ParameterRandomisation", "PointingGame", "RelevanceMass",
    "RelevanceRank", "SensitivityN", "SingleDeletion", "Sparseness", "TopKIntersection",
]  # fmt: skip


@hookimpl
def attribkit_metrics() -> list[type[Metric]]:
    """Return the built-in metrics, in the order in which tables show them."""
    return [
        Deletion, Insertion, InsertionMinusDeletion, AOPC,
        SensitivityN, FaithfulnessCorrelation, MuFidelity, SingleDeletion, Infidelity, InfidelityUnderNoise,
        AverageDrop, IncreaseInConfidence, AverageGain, AverageDCC,
        RelevanceMass, RelevanceRank, TopKIntersection, LocalizationAUC, PointingGame, EnergyPointingGame, BoxIoU,
        MapEntropy, EffectiveComplexity, Sparseness,
        MaxSensitivity, AverageSensitivity, LocalLipschitz, ParameterRandomisation, ClassRandomisation,
    ]  # fmt: skip
