"""The JSON manifest that `attribkit explain --json` prints; docs/command_line.md describes its fields."""

import ast
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from attribkit import registry
from attribkit._contracts.attribution import Attribution, FailedAttribution
from attribkit._contracts.method import Method
from attribkit._core.errors import printable
from attribkit.cli._explain_files import ExplainedImage
from attribkit.figures._figure import display_name

MANIFEST_SCHEMA = 1  # raised if a field is renamed, removed or changes its meaning
_PACKAGES = ("attribkit", "torch", "torchvision", "timm", "numpy")
_LAYER_NOTE = re.compile(r"layer=(.+?): (.+)", re.DOTALL)


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from: the options of the command that name it."""

    name: str
    arguments: Sequence[str]
    weights: Path | None
    pretrained: bool


def manifest(
    source: ModelSource, model: nn.Module, preprocessing: Any, results: Sequence[ExplainedImage], files: Sequence[Path]
) -> dict[str, Any]:
    """Return a record of a run: versions, model, methods, a result for each map, failures and files.

    Args:
        source: The options that name the model.
        model: The model.
        preprocessing: The preprocessing of its images.
        results: The results for each image and class.
        files: The files that were written.
    """
    used = [result.method for each in results for result in each.results]
    methods = {repr(method): method for method in used if isinstance(method, Method)}
    return {
        "schema": MANIFEST_SCHEMA,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "model": _describe_model(source, model),
        "preprocessing": repr(preprocessing),
        "methods": [_describe_method(method) for method in methods.values()],
        "results": [_result(each, attribution) for each in results for attribution in each.attributions],
        "failures": [_failure(each, failed) for each in results for failed in each.failures],
        "files": [str(path) for path in files],
    }


def _describe_model(source: ModelSource, model: nn.Module) -> dict[str, Any]:
    return {
        "name": source.name,
        "arguments": list(source.arguments),
        "weights": None if source.weights is None else str(source.weights),
        "pretrained": source.pretrained,
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": str(next(model.parameters()).device),
    }


def _describe_method(method: Method) -> dict[str, Any]:
    options = {name: _as_json(getattr(method, name)) for name in registry.options_of(type(method))}
    return {"name": method.name, "method": repr(method), "source": method.source, "options": options}


def _as_json(value: Any) -> Any:
    """Return numbers, strings, None and sequences of them unchanged, and the repr of any other value."""
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    return value if isinstance(value, str | int | float | None) else repr(value)


def _subject(explained: ExplainedImage, result: Attribution | FailedAttribution) -> dict[str, Any]:
    return {
        "image": printable(explained.image),
        "class": explained.label,
        "index": explained.index,
        "probability": round(explained.probability, 6),
        "frames": None if explained.clip is None else list(map(int, explained.clip.frame_indices)),
        "method": repr(result.method),
        "target": repr(result.target),
    }


def _result(explained: ExplainedImage, attribution: Attribution) -> dict[str, Any]:
    low, high = (round(float(each), 6) for each in attribution.scores.detach().aminmax())
    return {
        **_subject(explained, attribution),
        "title": display_name(attribution),
        **_layer(attribution),
        "scores": {"shape": list(attribution.scores.shape[1:]), "minimum": low, "maximum": high},
        "notes": list(attribution.notes),
    }


def _layer(attribution: Attribution) -> dict[str, Any]:
    """Return the layers that were read and why; the option of the method if it names them, or None for no layer."""
    chosen = [match for note in attribution.notes if (match := _LAYER_NOTE.fullmatch(note))]
    if chosen:
        names = ast.literal_eval(chosen[0][1])
        return {"layers": [names] if isinstance(names, str) else list(names), "layer_reason": chosen[0][2]}
    option = getattr(attribution.method, "layer", None)
    if option is None:
        return {"layers": [], "layer_reason": None}
    names = [option] if isinstance(option, str) else list(option)
    return {"layers": names, "layer_reason": "given by the option layer"}


def _failure(explained: ExplainedImage, failed: FailedAttribution) -> dict[str, Any]:
    return {**_subject(explained, failed), "error": str(failed)}
