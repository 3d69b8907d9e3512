"""attribkit tells what a PyTorch vision model looks at, and measures whether the answer can be trusted."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attribkit.core.attribution import Attribution
    from attribkit.core.boxes import Box
    from attribkit.core.embeddings import EmbeddingNorm, Similarity
    from attribkit.core.errors import AttribkitError
    from attribkit.core.inputs import Shared
    from attribkit.core.method import Method
    from attribkit.core.metric import Faithfulness, Localization
    from attribkit.core.model import HookedModel
    from attribkit.core.reading import Reads
    from attribkit.core.regions import Region
    from attribkit.core.spec import ModelSpec
    from attribkit.core.targets import (
        ClassLogit,
        Contrast,
        Counterfactual,
        MultiLabel,
        Probability,
        Target,
    )
    from attribkit.core.units import Direction, LayerUnit, Unit
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
    "Box",
    "ClassLogit",
    "Contrast",
    "Counterfactual",
    "Direction",
    "EmbeddingNorm",
    "Explainer",
    "Faithfulness",
    "HookedModel",
    "LayerUnit",
    "Localization",
    "Method",
    "ModelSpec",
    "MultiLabel",
    "Probability",
    "Reads",
    "Region",
    "Shared",
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
    "train_head",
]

_HOME = {  # where each public name lives; imported when it is first used, since torch takes seconds
    "AttribkitError": "core.errors",
    "Attribution": "core.attribution",
    "Box": "core.boxes",
    "ClassLogit": "core.targets",
    "Contrast": "core.targets",
    "Counterfactual": "core.targets",
    "Direction": "core.units",
    "EmbeddingNorm": "core.embeddings",
    "Explainer": "explainer",
    "Faithfulness": "core.metric",
    "HookedModel": "core.model",
    "LayerUnit": "core.units",
    "Localization": "core.metric",
    "Method": "core.method",
    "ModelSpec": "core.spec",
    "MultiLabel": "core.targets",
    "Probability": "core.targets",
    "Reads": "core.reading",
    "Region": "core.regions",
    "Shared": "core.inputs",
    "Similarity": "core.embeddings",
    "Target": "core.targets",
    "Unit": "core.units",
    "Visualization": "core.visualization",
    "Visualizer": "core.visualizer",
    "cam_head": "heads",
    "figure": "figures",
    "gallery": "figures",
    "hookimpl": "hookspecs",
    "load_model": "loading",
    "train_head": "heads",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'attribkit' has no attribute {name!r}")
    return getattr(import_module(f"attribkit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
