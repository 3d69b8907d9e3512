"""Options that make a curve that of a paper or of a tool; what they leave undefined, docs/metrics says."""

from collections.abc import Mapping
from typing import Any

from attribkit.core.blurs import GaussianBlur

Presets = Mapping[str, Mapping[str, Any]]

_RISE = {"score": "probability", "per_step": 224, "ties": "last", "area": "uniform"}
_TORCHCAM = {"score": "logit", "steps": 20, "ties": "first", "substrate": "zero"}
_XPLIQUE = {
    "score": "logit",
    "steps": 10,
    "last_step": "equal",
    "ties": "last",
    "area": "uniform",
    "substrate": "zero",
}
_LATEC = {"score": "probability", "per_step": 50, "ties": "first", "ends": "none", "area": "per_stop"}
_QUANTUS = {
    "score": "probability",
    "channels": "apart",
    "per_step": 1,
    "ties": "first",
    "ends": "end",
    "area": "sum",
    "substrate": "minimum",
}

DELETION: Presets = {
    "rise": {**_RISE, "substrate": "zero"},
    "torchcam": _TORCHCAM,
    "xplique": _XPLIQUE,
    "quantus": _QUANTUS,
    "latec": {**_LATEC, "substrate": "zero"},
}
INSERTION: Presets = {
    "rise": {**_RISE, "substrate": "folded_blur"},
    "torchcam": _TORCHCAM,
    "xplique": _XPLIQUE,
    "latec": {**_LATEC, "substrate": GaussianBlur(15, 5.0)},
}
# The difference of their two numbers, each with its own substrate.
DIFFERENCE: Presets = {
    name: {**DELETION[name], "insertion_substrate": INSERTION[name]["substrate"]} for name in INSERTION
}
