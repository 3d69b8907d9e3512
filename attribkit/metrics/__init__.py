"""The built-in metrics, registered by the hook that any plugin uses."""

from attribkit.core.metric import Metric
from attribkit.hookspecs import hookimpl
from attribkit.metrics.average_sensitivity import AverageSensitivity
from attribkit.metrics.box_iou import BoxIoU
from attribkit.metrics.class_randomisation import ClassRandomisation
from attribkit.metrics.complexity import MapEntropy
from attribkit.metrics.effective_complexity import EffectiveComplexity
from attribkit.metrics.energy_pointing_game import EnergyPointingGame
from attribkit.metrics.local_lipschitz import LocalLipschitz
from attribkit.metrics.localization_auc import LocalizationAUC
from attribkit.metrics.max_sensitivity import MaxSensitivity
from attribkit.metrics.parameter_randomisation import ParameterRandomisation
from attribkit.metrics.pointing_game import PointingGame
from attribkit.metrics.relevance_mass import RelevanceMass
from attribkit.metrics.relevance_rank import RelevanceRank
from attribkit.metrics.sparseness import Sparseness
from attribkit.metrics.top_k_intersection import TopKIntersection


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
