"""attribkit tells what a PyTorch vision model looks at, and measures whether the answer can be trusted."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attribkit.contracts.attribution import Attribution, Comparison, FailedAttribution
    from attribkit.contracts.method import Method
    from attribkit.contracts.metric import Complexity, Faithfulness, Localization, Metric, Robustness
    from attribkit.contracts.visualization import Visualization
    from attribkit.contracts.visualizer import Visualizer
    from attribkit.core.errors import AttribkitError
    from attribkit.core.ground_truth import GroundTruth
    from attribkit.core.inputs import BroadcastInput
    from attribkit.core.options import NonNegativeFloat, OneOrMore, OpenFraction, PositiveFloat, PositiveInt, Seed
    from attribkit.core.spec import ModelSpec
    from attribkit.core.substrates import Imputer
    from attribkit.engine.forward import Requirements
    from attribkit.engine.model import HookedModel
    from attribkit.explainer import Explainer
    from attribkit.figures import figure, gallery
    from attribkit.heads import cam_head, train_head
    from attribkit.hookspecs import hookimpl
    from attribkit.io.loading import load_model
    from attribkit.targets.binary import Binary
    from attribkit.targets.embeddings import EmbeddingNorm, Similarity
    from attribkit.targets.logits import ClassLogit, Contrast, Counterfactual, MultiLabel, Probability
    from attribkit.targets.regions import Box, Region
    from attribkit.targets.resolution import with_score_type
    from attribkit.targets.target import NoTarget, Target
    from attribkit.targets.units import Direction, LayerUnit, Unit

__version__ = "0.1.0"

__all__ = [
    "AttribkitError",
    "Attribution",
    "Binary",
    "Box",
    "BroadcastInput",
    "ClassLogit",
    "Comparison",
    "Complexity",
    "Contrast",
    "Counterfactual",
    "Direction",
    "EmbeddingNorm",
    "Explainer",
    "FailedAttribution",
    "Faithfulness",
    "GroundTruth",
    "HookedModel",
    "Imputer",
    "LayerUnit",
    "Localization",
    "Method",
    "Metric",
    "ModelSpec",
    "MultiLabel",
    "NoTarget",
    "NonNegativeFloat",
    "OneOrMore",
    "OpenFraction",
    "PositiveFloat",
    "PositiveInt",
    "Probability",
    "Region",
    "Requirements",
    "Robustness",
    "Seed",
    "Similarity",
    "Target",
    "Unit",
    "Visualization",
    "Visualizer",
    "cam_head",
    "figure",
    "gallery",
    "hookimpl",
    "load_model",
    "register",
    "train_head",
    "with_score_type",
]

_HOME = {  # where each public name lives; imported when it is first used, since torch takes seconds
    "AttribkitError": "core.errors",
    "Attribution": "contracts.attribution",
    "Binary": "targets.binary",
    "Box": "targets.regions",
    "ClassLogit": "targets.logits",
    "Comparison": "contracts.attribution",
    "Complexity": "contracts.metric",
    "Contrast": "targets.logits",
    "PositiveInt": "core.options",
    "Counterfactual": "targets.logits",
    "Direction": "targets.units",
    "EmbeddingNorm": "targets.embeddings",
    "Explainer": "explainer",
    "FailedAttribution": "contracts.attribution",
    "Faithfulness": "contracts.metric",
    "HookedModel": "engine.model",
    "Imputer": "core.substrates",
    "OpenFraction": "core.options",
    "LayerUnit": "targets.units",
    "Localization": "contracts.metric",
    "Method": "contracts.method",
    "Metric": "contracts.metric",
    "ModelSpec": "core.spec",
    "MultiLabel": "targets.logits",
    "NoTarget": "targets.target",
    "NonNegativeFloat": "core.options",
    "OneOrMore": "core.options",
    "PositiveFloat": "core.options",
    "Probability": "targets.logits",
    "Requirements": "engine.forward",
    "Region": "targets.regions",
    "Robustness": "contracts.metric",
    "Seed": "core.options",
    "BroadcastInput": "core.inputs",
    "Similarity": "targets.embeddings",
    "Target": "targets.target",
    "GroundTruth": "core.ground_truth",
    "Unit": "targets.units",
    "Visualization": "contracts.visualization",
    "Visualizer": "contracts.visualizer",
    "cam_head": "heads",
    "figure": "figures",
    "gallery": "figures",
    "hookimpl": "hookspecs",
    "load_model": "io.loading",
    "register": "registry",
    "with_score_type": "targets.resolution",
    "train_head": "heads",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'attribkit' has no attribute {name!r}")
    return getattr(import_module(f"attribkit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
