"""Inspection of a layer for `attribkit inspect`: a table of facts and a figure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from attribkit import zoo
from attribkit._core.errors import InvalidInput
from attribkit._explainer import Explainer
from attribkit._inspection.feature_maps import FeatureMaps, Filters
from attribkit._inspection.receptive_field import ReceptiveField
from attribkit._loading import LoadedModel
from attribkit.figures import PaperFigure, inspection
from attribkit.io._preprocessing import ClipPreprocessing

_NOISE_IMAGES = 8
_GRADIENT_FRACTION = 0.95  # fraction that defines the effective receptive field


@dataclass(frozen=True, eq=False)
class LayerInspection:
    """The facts about a layer and its figure."""

    layer: str
    facts: list[dict[str, str]]  # rows of a table
    notes: tuple[str, ...]
    figure: PaperFigure


def inspect_layer(
    loaded: LoadedModel, layer: str | None, image: Image.Image | None, device: torch.device | str = "cpu"
) -> LayerInspection:
    """Inspect a layer of a model.

    Args:
        loaded: The model with its preprocessing.
        layer: Dotted name; None for the layer that methods use by default.
        image: The image; None for a generated scene.
        device: The device to run on.
    """
    if isinstance(loaded.preprocessing, ClipPreprocessing):
        raise InvalidInput(
            "Only image models can be inspected from the command line, and this is a video model: use Explainer in "
            "Python."
        )
    explainer = Explainer(loaded.model.to(device))
    image = image or Image.fromarray(zoo.scene(0).image)
    x = loaded.preprocessing(image)[None].to(device)
    maps = explainer.feature_maps(x, layer)
    field = explainer.receptive_field(maps.layer, _noise_like(x))
    filters = _filters(explainer, maps.layer)
    figure = inspection(maps, field, filters, loaded.preprocessing.picture(image))
    facts = {**_layer_facts(explainer, maps), **_filter_facts(filters), **_field_facts(field)}
    rows = [{"": name, "value": value} for name, value in facts.items()]
    notes = tuple(dict.fromkeys([*maps.notes, *field.notes]))
    return LayerInspection(maps.layer, rows, notes, figure)


def _noise_like(x: Tensor) -> Tensor:
    """Return noise images, over which the effective receptive field is averaged."""
    return torch.randn(
        _NOISE_IMAGES, *x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu"
    ).to(x)


def _filters(explainer: Explainer, layer: str) -> Filters | None:
    """Return the kernels of the layer if it is a 2D convolution."""
    try:
        filters = explainer.filters(layer)
    except InvalidInput:
        return None
    return filters if filters.weights.ndim == 4 else None


def _layer_facts(explainer: Explainer, maps: FeatureMaps) -> dict[str, str]:
    module = explainer.model.layer(maps.layer)
    return {
        "kind": type(module).__name__,
        "parameters": f"{sum(each.numel() for each in module.parameters()):,}",
        "channels": str(maps.values.shape[1]),
        "grid": _format_sizes(maps.values.shape[2:]),
    }


def _filter_facts(filters: Filters | None) -> dict[str, str]:
    if filters is None:
        return {}
    return {"filters": f"{len(filters.weights)} of {_format_sizes(filters.weights.shape[1:])} in {filters.layer}"}


def _field_facts(field: ReceptiveField) -> dict[str, str]:
    """Describe the analytic and the effective receptive field."""
    pixels = field.pixels(_GRADIENT_FRACTION)
    effective = {
        "gradient reaches": " by ".join(f"{first}..{end - 1}" for first, end in field.support),
        f"{_GRADIENT_FRACTION:.0%} of the gradient": f"{pixels} pixels{_fraction_of_field(field, pixels)}",
    }
    if field.whole_image_because:
        return {"receptive field": f"the whole image, through {field.whole_image_because}", **effective}
    if field.size is None or field.stride is None or field.start is None:
        return {"receptive field": f"unknown: {field.unknown_because}", **effective}
    analytic = {
        "receptive field": f"{_format_sizes(field.size)} pixels",
        "stride": f"{_format_sizes(field.stride)} pixels",
        "first unit starts at": f"pixel {', '.join(map(str, field.start))}",
    }
    return analytic | effective


def _fraction_of_field(field: ReceptiveField, pixels: int) -> str:
    if field.box is None:
        return ""
    area = math.prod(end - first for first, end in field.box)
    return f", {pixels / area:.0%} of the field of unit {', '.join(map(str, field.unit))}"


def _format_sizes(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))
