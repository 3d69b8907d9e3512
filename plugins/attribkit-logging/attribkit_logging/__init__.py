"""Attributions of attribkit in TensorBoard, Weights & Biases, MLflow, Lightning and FiftyOne.

The libraries are optional; each is imported only by the function or class that needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._images import LoggedImage, attribution_images
from ._loggers import log_attribution

if TYPE_CHECKING:
    from ._callback import AttributionCallback
    from ._fiftyone import fiftyone_samples, to_fiftyone

__all__ = [
    "AttributionCallback",
    "LoggedImage",
    "attribution_images",
    "fiftyone_samples",
    "log_attribution",
    "to_fiftyone",
]

_HOME = {  # modules that are imported on first use, since they need an optional library
    "AttributionCallback": "_callback",
    "fiftyone_samples": "_fiftyone",
    "to_fiftyone": "_fiftyone",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'attribkit_logging' has no attribute {name!r}")
    return getattr(import_module(f"attribkit_logging.{_HOME[name]}"), name)
