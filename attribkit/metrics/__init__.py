"""The built-in metrics, registered by the hook that any plugin uses."""

from attribkit.core.metric import Metric
from attribkit.hookspecs import hookimpl
from attribkit.metrics.complexity.effective_complexity import EffectiveComplexity
from attribkit.metrics.complexity.entropy import MapEntropy
from attribkit.metrics.complexity.sparseness import Sparseness
from attribkit.metrics.localization.box_iou import BoxIoU
from attribkit.metrics.localization.energy_pointing_game import EnergyPointingGame
from attribkit.metrics.localization.localization_auc import LocalizationAUC
from attribkit.metrics.localization.pointing_game import PointingGame
from attribkit.metrics.localization.relevance_mass import RelevanceMass
from attribkit.metrics.localization.relevance_rank import RelevanceRank
from attribkit.metrics.localization.top_k_intersection import TopKIntersection
from attribkit.metrics.robustness.average_sensitivity import AverageSensitivity
from attribkit.metrics.robustness.local_lipschitz import LocalLipschitz
from attribkit.metrics.robustness.max_sensitivity import MaxSensitivity
from attribkit.metrics.sanity.class_randomisation import ClassRandomisation
from attribkit.metrics.sanity.parameter_randomisation import ParameterRandomisation


@hookimpl
def attribkit_metrics() -> list[type[Metric]]:
    """Metrics in the order in which tables show them."""
    return [
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
