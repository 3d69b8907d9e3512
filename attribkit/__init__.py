"""attribkit tells what a PyTorch vision model looks at, and measures whether the answer can be trusted."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attribkit.core.attribution import Attribution
    from attribkit.core.errors import AttribkitError
    from attribkit.core.method import Method
    from attribkit.core.metric import Faithfulness, Localization
    from attribkit.core.model import HookedModel
    from attribkit.core.spec import ModelSpec
    from attribkit.core.targets import ClassLogit, Contrast, Counterfactual, Probability, Target
    from attribkit.explainer import Explainer
    from attribkit.figures import figure
    from attribkit.heads import cam_head, train_head
    from attribkit.hookspecs import hookimpl
    from attribkit.loading import load_model

__version__ = "0.1.0"

__all__ = [
    "AttribkitError",
    "Attribution",
    "ClassLogit",
    "Contrast",
    "Counterfactual",
    "Explainer",
    "Faithfulness",
    "HookedModel",
    "Localization",
    "Method",
    "ModelSpec",
    "Probability",
    "Target",
    "cam_head",
    "figure",
    "hookimpl",
    "load_model",
    "train_head",
]

_HOME = {  # where each public name lives; imported when it is first used, since torch takes seconds
    "AttribkitError": "core.errors",
    "Attribution": "core.attribution",
    "ClassLogit": "core.targets",
    "Contrast": "core.targets",
    "Counterfactual": "core.targets",
    "Explainer": "explainer",
    "Faithfulness": "core.metric",
    "HookedModel": "core.model",
    "Localization": "core.metric",
    "Method": "core.method",
    "ModelSpec": "core.spec",
    "Probability": "core.targets",
    "Target": "core.targets",
    "cam_head": "heads",
    "figure": "figures",
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
