"""A layer's facts and figure: what ``attribkit inspect`` does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from attribkit import zoo
from attribkit.core.errors import InvalidInput
from attribkit.explainer import Explainer
from attribkit.figures import draw_inspection
from attribkit.inspection.feature_maps import FeatureMaps, Filters
from attribkit.inspection.receptive_field import ReceptiveField
from attribkit.io.loading import LoadedModel
from attribkit.io.preprocessing import ClipPreprocessing

_NOISE_IMAGES = 8
_SHARE = 0.95  # of the gradient, that the effective field is told by


@dataclass(frozen=True, eq=False)
class LayerInspection:
    """A layer, as a terminal and a figure show it."""

    layer: str
    facts: list[dict[str, str]]  # rows of a table
    notes: tuple[str, ...]
    figure: Figure


def inspect_layer(
    loaded: LoadedModel, layer: str | None, photograph: Image.Image | None, device: torch.device | str = "cpu"
) -> LayerInspection:
    """Look into a layer of a model.

    layer: dotted name; None is the layer that methods read. photograph: None is a scene of the embedded generator.
    """
    if isinstance(loaded.preprocessing, ClipPreprocessing):
        raise InvalidInput("A layer is drawn for a photograph, and this model takes clips: use Explainer in Python.")
    explainer = Explainer(loaded.model.to(device))
    image = photograph or Image.fromarray(zoo.scene(0).image)
    x = loaded.preprocessing(image)[None].to(device)
    maps = explainer.feature_maps(x, layer)
    field = explainer.receptive_field(maps.layer, _noise_like(x))
    filters = _filters(explainer, maps.layer)
    figure = draw_inspection(maps, field, filters, loaded.preprocessing.picture(image))
    told = {**_of_layer(explainer, maps), **_of_filters(filters), **_of_field(field)}
    facts = [{"": name, "value": value} for name, value in told.items()]
    notes = tuple(dict.fromkeys([*maps.notes, *field.notes]))
    return LayerInspection(maps.layer, facts, notes, figure)


def _noise_like(x: Tensor) -> Tensor:
    """Images of noise, over which the effective field is averaged: no photograph's edges in it."""
    return torch.randn(
        _NOISE_IMAGES, *x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu"
    ).to(x)


def _filters(explainer: Explainer, layer: str) -> Filters | None:
    """The layer's kernels, if it is one convolution with two axes."""
    try:
        filters = explainer.filters(layer)
    except InvalidInput:
        return None
    return filters if filters.weights.ndim == 4 else None


def _of_layer(explainer: Explainer, maps: FeatureMaps) -> dict[str, str]:
    module = explainer.model.layer(maps.layer)
    return {
        "kind": type(module).__name__,
        "parameters": f"{sum(each.numel() for each in module.parameters()):,}",
        "channels": str(maps.values.shape[1]),
        "grid": _times(maps.values.shape[2:]),
    }


def _of_filters(filters: Filters | None) -> dict[str, str]:
    if filters is None:
        return {}
    return {"filters": f"{len(filters.weights)} of {_times(filters.weights.shape[1:])} in {filters.layer}"}


def _of_field(field: ReceptiveField) -> dict[str, str]:
    """The analytic receptive field and what is used of it, in words."""
    held = field.pixels(_SHARE)
    effective = {
        "gradient reaches": " by ".join(f"{first}..{end - 1}" for first, end in field.support),
        f"{_SHARE:.0%} of the gradient": f"{held} pixels{_share_of_field(field, held)}",
    }
    if field.whole_image_because:
        return {"receptive field": f"the whole image, through {field.whole_image_because}", **effective}
    if field.size is None or field.stride is None or field.start is None:
        return {"receptive field": f"unknown: {field.unknown_because}", **effective}
    analytic = {
        "receptive field": f"{_times(field.size)} pixels",
        "stride": f"{_times(field.stride)} pixels",
        "first unit sees from": f"pixel {', '.join(map(str, field.start))}",
    }
    return analytic | effective


def _share_of_field(field: ReceptiveField, held: int) -> str:
    if field.box is None:
        return ""
    pixels = math.prod(end - first for first, end in field.box)
    return f", {held / pixels:.0%} of the field of unit {', '.join(map(str, field.unit))}"


def _times(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))
