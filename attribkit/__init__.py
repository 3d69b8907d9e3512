"""attribkit tells what a PyTorch vision model looks at, and measures whether the answer can be trusted."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attribkit.core.attribution import Attribution
    from attribkit.core.errors import AttribkitError
    from attribkit.core.inputs import Shared
    from attribkit.core.method import Method
    from attribkit.core.metric import Complexity, Faithfulness, Localization, Metric, Robustness
    from attribkit.core.model import HookedModel
    from attribkit.core.options import Count, InnerShare, NotNegative, OneOrMore, Positive, Seed
    from attribkit.core.reading import Reads
    from attribkit.core.spec import ModelSpec
    from attribkit.core.substrates import Imputer
    from attribkit.core.targets.asked import scored_as
    from attribkit.core.targets.binary import Binary
    from attribkit.core.targets.boxes import Box
    from attribkit.core.targets.embeddings import EmbeddingNorm, Similarity
    from attribkit.core.targets.logits import ClassLogit, Contrast, Counterfactual, MultiLabel, Probability
    from attribkit.core.targets.no_target import NoTarget
    from attribkit.core.targets.regions import Region
    from attribkit.core.targets.target import Target
    from attribkit.core.targets.units import Direction, LayerUnit, Unit
    from attribkit.core.truth import Truth
    from attribkit.core.visualization import Visualization
    from attribkit.core.visualizer import Visualizer
    from attribkit.explainer import Explainer
    from attribkit.figures import figure, gallery
    from attribkit.heads import cam_head, train_head
    from attribkit.hookspecs import hookimpl
    from attribkit.loading import load_model

__version__ = "0.1.0"

__all__ = [
    "AttribkitError",
    "Attribution",
    "Binary",
    "Box",
    "ClassLogit",
    "Complexity",
    "Contrast",
    "Count",
    "Counterfactual",
    "Direction",
    "EmbeddingNorm",
    "Explainer",
    "Faithfulness",
    "HookedModel",
    "Imputer",
    "InnerShare",
    "LayerUnit",
    "Localization",
    "Method",
    "Metric",
    "ModelSpec",
    "MultiLabel",
    "NoTarget",
    "NotNegative",
    "OneOrMore",
    "Positive",
    "Probability",
    "Reads",
    "Region",
    "Robustness",
    "Seed",
    "Shared",
    "Similarity",
    "Target",
    "Truth",
    "Unit",
    "Visualization",
    "Visualizer",
    "cam_head",
    "figure",
    "gallery",
    "hookimpl",
    "load_model",
    "register",
    "scored_as",
    "train_head",
]

_HOME = {  # where each public name lives; imported when it is first used, since torch takes seconds
    "AttribkitError": "core.errors",
    "Attribution": "core.attribution",
    "Binary": "core.targets.binary",
    "Box": "core.targets.boxes",
    "ClassLogit": "core.targets.logits",
    "Complexity": "core.metric",
    "Contrast": "core.targets.logits",
    "Count": "core.options",
    "Counterfactual": "core.targets.logits",
    "Direction": "core.targets.units",
    "EmbeddingNorm": "core.targets.embeddings",
    "Explainer": "explainer",
    "Faithfulness": "core.metric",
    "HookedModel": "core.model",
    "Imputer": "core.substrates",
    "InnerShare": "core.options",
    "LayerUnit": "core.targets.units",
    "Localization": "core.metric",
    "Method": "core.method",
    "Metric": "core.metric",
    "ModelSpec": "core.spec",
    "MultiLabel": "core.targets.logits",
    "NoTarget": "core.targets.no_target",
    "NotNegative": "core.options",
    "OneOrMore": "core.options",
    "Positive": "core.options",
    "Probability": "core.targets.logits",
    "Reads": "core.reading",
    "Region": "core.targets.regions",
    "Robustness": "core.metric",
    "Seed": "core.options",
    "Shared": "core.inputs",
    "Similarity": "core.targets.embeddings",
    "Target": "core.targets.target",
    "Truth": "core.truth",
    "Unit": "core.targets.units",
    "Visualization": "core.visualization",
    "Visualizer": "core.visualizer",
    "cam_head": "heads",
    "figure": "figures",
    "gallery": "figures",
    "hookimpl": "hookspecs",
    "load_model": "loading",
    "register": "registry",
    "scored_as": "core.targets.asked",
    "train_head": "heads",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'attribkit' has no attribute {name!r}")
    return getattr(import_module(f"attribkit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
