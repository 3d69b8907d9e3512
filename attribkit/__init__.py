"""Attribution methods for PyTorch vision models, and metrics of how far to trust them.

The entry point is `Explainer`::

    from attribkit import Explainer

    attribution = Explainer(model).attribute(x, "gradcam")
    attribution.heatmap()  # (b, h, w)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attribkit._contracts.attribution import Attribution, Comparison, FailedAttribution
    from attribkit._contracts.method import Method, PerImageMethod
    from attribkit._contracts.metric import Complexity, Faithfulness, Localization, Metric, Robustness
    from attribkit._contracts.visualization import Visualization
    from attribkit._contracts.visualizer import Visualizer
    from attribkit._core.errors import AttribkitError, InvalidInput, UnknownName, UnreadableFile, UnsupportedModel
    from attribkit._core.ground_truth import GroundTruth
    from attribkit._core.inputs import BroadcastInput
    from attribkit._core.options import (
        Fraction,
        NonNegativeFloat,
        OneOrMore,
        OpenFraction,
        PositiveFloat,
        PositiveInt,
        Seed,
    )
    from attribkit._core.segments import GivenSegments, Segments, segment
    from attribkit._core.spec import ModelSpec
    from attribkit._core.substrates import GivenImages, Imputer, Substrate, substrate_images
    from attribkit._core.tensors import Fingerprinted
    from attribkit._display.progress import track
    from attribkit._engine.forward import Requirements
    from attribkit._engine.model import HookedModel
    from attribkit._explainer import Explainer
    from attribkit._heads import cam_head, train_head
    from attribkit._hookspecs import hookimpl
    from attribkit._loading import load_model
    from attribkit._targets.binary import Binary
    from attribkit._targets.embeddings import EmbeddingNorm, Similarity
    from attribkit._targets.logits import ClassLogit, Contrast, Counterfactual, MultiLabel, Probability
    from attribkit._targets.regions import Box, Region
    from attribkit._targets.resolution import with_score_type
    from attribkit._targets.target import NoTarget, Target
    from attribkit._targets.units import Direction, LayerUnit, Unit
    from attribkit.figures import figure, gallery
    from attribkit.metrics._correlation import spearman_correlation
    from attribkit.metrics._curve_engine import rank_pixels

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
    "Fingerprinted",
    "Fraction",
    "GivenImages",
    "GivenSegments",
    "GroundTruth",
    "HookedModel",
    "Imputer",
    "InvalidInput",
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
    "PerImageMethod",
    "PositiveFloat",
    "PositiveInt",
    "Probability",
    "Region",
    "Requirements",
    "Robustness",
    "Seed",
    "Segments",
    "Similarity",
    "Substrate",
    "Target",
    "Unit",
    "UnknownName",
    "UnreadableFile",
    "UnsupportedModel",
    "Visualization",
    "Visualizer",
    "cam_head",
    "figure",
    "gallery",
    "hookimpl",
    "load_model",
    "rank_pixels",
    "register",
    "segment",
    "spearman_correlation",
    "substrate_images",
    "track",
    "train_head",
    "with_score_type",
]

_HOME = {  # module of each public name, imported on first use, since importing torch takes seconds
    "AttribkitError": "_core.errors",
    "Attribution": "_contracts.attribution",
    "Binary": "_targets.binary",
    "Box": "_targets.regions",
    "BroadcastInput": "_core.inputs",
    "ClassLogit": "_targets.logits",
    "Comparison": "_contracts.attribution",
    "Complexity": "_contracts.metric",
    "Contrast": "_targets.logits",
    "Counterfactual": "_targets.logits",
    "Direction": "_targets.units",
    "EmbeddingNorm": "_targets.embeddings",
    "Explainer": "_explainer",
    "FailedAttribution": "_contracts.attribution",
    "Faithfulness": "_contracts.metric",
    "Fingerprinted": "_core.tensors",
    "Fraction": "_core.options",
    "GivenImages": "_core.substrates",
    "GivenSegments": "_core.segments",
    "GroundTruth": "_core.ground_truth",
    "HookedModel": "_engine.model",
    "Imputer": "_core.substrates",
    "InvalidInput": "_core.errors",
    "LayerUnit": "_targets.units",
    "Localization": "_contracts.metric",
    "Method": "_contracts.method",
    "Metric": "_contracts.metric",
    "ModelSpec": "_core.spec",
    "MultiLabel": "_targets.logits",
    "NoTarget": "_targets.target",
    "NonNegativeFloat": "_core.options",
    "OneOrMore": "_core.options",
    "OpenFraction": "_core.options",
    "PerImageMethod": "_contracts.method",
    "PositiveFloat": "_core.options",
    "PositiveInt": "_core.options",
    "Probability": "_targets.logits",
    "Region": "_targets.regions",
    "Requirements": "_engine.forward",
    "Robustness": "_contracts.metric",
    "Seed": "_core.options",
    "Segments": "_core.segments",
    "segment": "_core.segments",
    "Substrate": "_core.substrates",
    "substrate_images": "_core.substrates",
    "Similarity": "_targets.embeddings",
    "Target": "_targets.target",
    "Unit": "_targets.units",
    "UnknownName": "_core.errors",
    "UnreadableFile": "_core.errors",
    "UnsupportedModel": "_core.errors",
    "Visualization": "_contracts.visualization",
    "Visualizer": "_contracts.visualizer",
    "cam_head": "_heads",
    "figure": "figures",
    "gallery": "figures",
    "hookimpl": "_hookspecs",
    "load_model": "_loading",
    "rank_pixels": "metrics._curve_engine",
    "register": "registry",
    "spearman_correlation": "metrics._correlation",
    "track": "_display.progress",
    "train_head": "_heads",
    "with_score_type": "_targets.resolution",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'attribkit' has no attribute {name!r}")
    return getattr(import_module(f"attribkit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
