"""Conformance checks for attribution methods: maps of detectors whose correct maps are known.

The detectors respond to red spots (class 1) and to blue spots (class 2), and ignore green ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attribkit._contracts.attribution import Attribution
from attribkit._contracts.method import Method
from attribkit._core.errors import UnsupportedModel
from attribkit._explainer import Explainer
from attribkit.registry import options_of
from attribkit.testing._checks import NotApplicable, require
from attribkit.testing._examples import (
    BLUE,
    CELL_SIDE,
    RED,
    SPOTS,
    detector_of,
    exchange_colours,
    spot_centre,
    spotted_images,
)
from attribkit.testing._method_checks.contract import METHOD_CHECKS, require_close, require_target

_MAX_DISTANCE = 0.5  # pixels between the centres of a spot and of its map, along each axis
_MAX_SAMPLED_DISTANCE = 3.0  # the same for methods with a seed
_LEAST_CHANGE = 1e-3  # of the maps between two targets, relative to their range


@dataclass(frozen=True, eq=False)
class SpotMaps:
    """Maps of the detector that a method supports.

    Args:
        explainer: The explainer of the detector.
        x: The images, (4, 3, 96, 160).
        red: Attribution of the class of red spots.
        blue: Attribution of the class of blue spots; of a method that does not use a target, it equals `red`.
    """

    explainer: Explainer
    x: Tensor
    red: Attribution
    blue: Attribution

    def by_colour(self, method: Method) -> list[tuple[str, Attribution]]:
        """Return the colours of the spots that the maps must show."""
        return [("red", self.red), ("blue", self.blue)] if method.uses_target else [("red", self.red)]


@lru_cache(maxsize=4)
def _spot_maps(method: Method, device: torch.device) -> SpotMaps:
    """Explain the detector; methods that do not use a target get images with red spots only."""
    x = (spotted_images() if method.uses_target else spotted_images(["red"])).to(device)
    explainer = Explainer(detector_of(method, x))
    red = explainer.attribute(x, method, target=RED)
    blue = explainer.attribute(x, method, target=BLUE) if method.uses_target else red
    return SpotMaps(explainer, x, red, blue)


def _maps(method: Method, device: torch.device) -> SpotMaps:
    """Return the maps of the detector; raises NotApplicable for controls."""
    maps = _spot_maps(method, device)
    if not method.uses_target and maps.explainer.model.image_count == 0:
        raise NotApplicable("the method uses neither the target nor the model: it is a control")
    return maps


@METHOD_CHECKS.add
def check_method_sign(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that the value of the map that differs most from its median is positive evidence, above the median."""
    maps = _maps(method, x.device)
    for colour, attribution in maps.by_colour(method):
        for spots, heatmap in zip(SPOTS, attribution.heatmap(), strict=True):
            deviation = (heatmap - heatmap.median()).flatten()
            largest = float(deviation[deviation.abs().argmax()])
            require(
                largest >= 0,
                f"the map of the class of {colour} spots is lowest where it differs most from its median, by "
                f"{largest:.2g} (spot at cell {getattr(spots, colour)})",
                "positive scores for evidence for the target",
                "change the sign of the scores",
            )


@METHOD_CHECKS.add
def check_method_reads_target(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that the maps of two classes, which detect different spots, differ."""
    require_target(method)
    maps = _maps(method, x.device)
    red, blue = maps.red.heatmap(), maps.blue.heatmap()
    width = float(torch.maximum(red.max() - red.min(), blue.max() - blue.min()))
    change = float((red - blue).abs().max())
    require(
        change > _LEAST_CHANGE * width or width == 0,
        f"the maps of two classes differ by {change:.2g}, their range is {width:.2g}",
        "maps that depend on the target",
        "pass `target` to the calls of the model, or declare `uses_target: ClassVar[bool] = False`",
    )


@METHOD_CHECKS.add
def check_method_position(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that the centre of each map is the centre of the spot that determines the score."""
    maps = _maps(method, x.device)
    limit = _MAX_SAMPLED_DISTANCE if "seed" in options_of(type(method)) else _MAX_DISTANCE
    for colour, attribution in maps.by_colour(method):
        heatmaps = attribution.heatmap()
        distances = [_distance(heatmap, spots, colour) for spots, heatmap in zip(SPOTS, heatmaps, strict=True)]
        worst = max(range(len(SPOTS)), key=lambda i: distances[i])
        if distances[worst] <= limit:
            continue
        expected = spot_centre(SPOTS[worst], colour).tolist()
        constant = bool(heatmaps[worst].max() == heatmaps[worst].min())
        found = "constant" if constant else f"centred at (row, column) {_rounded(centre_of(heatmaps[worst]))}"
        require(
            False,
            f"the map of a {colour} spot is {found}, up to {distances[worst]:.1f} pixels away along an axis"
            f"{_explanation(heatmaps, colour)}",
            f"a centre at {expected}, with at most {limit} pixels along each axis",
            "return scores (b, k, rows, columns) whose grid covers the whole image, with rows first",
        )


@METHOD_CHECKS.add
def check_method_grid(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that a grid that is nearly as fine as the image is exactly the grid of the image."""
    maps = _maps(method, x.device)
    grid, sides = maps.red.scores.shape[2:], maps.x.shape[2:]
    nearly = any(side / 2 < cells != side for cells, side in zip(grid, sides, strict=True))
    require(
        not nearly or maps.red.extent is not None,
        f"scores on a grid of {tuple(grid)} for images of {tuple(sides)} pixels",
        "one score for each pixel, or for each cell of a coarser grid that covers the whole image",
        "pad the scores to the size of the images: the grid is enlarged to the whole image, so a grid without the "
        "pixels of the border shifts the map",
    )


@METHOD_CHECKS.add
def check_method_other_inputs(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that other inputs of the model's forward are used: an input that exchanges the classes of some images."""
    require_target(method)
    maps = _maps(method, x.device)
    swap = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float32, device=x.device)
    try:
        swapped = maps.explainer.attribute(maps.x, method, target=RED, inputs={"swap": swap})
    except UnsupportedModel as error:
        raise NotApplicable(f"the method refuses other inputs: {error}") from error
    for i, exchanged in enumerate(swap.bool().tolist()):
        require_close(
            (maps.blue if exchanged else maps.red)[i],
            swapped[i],
            f"of image {i} with an input that {'exchanges' if exchanged else 'keeps'} the classes, and the scores of "
            f"class {BLUE if exchanged else RED} without it,",
            "call the model through the interface (model.score, model.gradient, model(x)), not model.module(x)",
        )


@METHOD_CHECKS.add
def check_method_reads_model(method: Method, model: nn.Module, x: Tensor) -> None:
    """Check that a detector with other weights gives other maps: that of the exchanged class."""
    require_target(method)
    maps = _maps(method, x.device)
    other = Explainer(exchange_colours(detector_of(method, maps.x)))
    require_close(
        maps.blue,
        other.attribute(maps.x, method, target=RED),
        f"of class {BLUE}, and of class {RED} of a model whose weights of the two colours are exchanged,",
        "compute the scores from the model that is passed, and keep no state between models",
    )


def centre_of(heatmap: Tensor) -> Tensor:
    """Return the row and column of the centre of the values of a map that differ most from its median.

    The values are those within a third of the largest difference, weighted by their difference.
    """
    weights = (heatmap - heatmap.median()).abs().double()
    weights = weights.where(weights >= weights.max() * 2 / 3, 0)
    axes = [torch.arange(side, dtype=weights.dtype, device=weights.device) for side in heatmap.shape]
    coordinates = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([(weights * each).sum() for each in coordinates]) / weights.sum()


def _distance(heatmap: Tensor, spots: object, colour: str) -> float:
    """Return the distance between the centres of a map and of a spot along the worse axis; infinite if constant."""
    difference = centre_of(heatmap).cpu() - spot_centre(spots, colour)  # type: ignore[arg-type]
    return float(difference.abs().max().nan_to_num(torch.inf))


_TRANSFORMATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "upside down": lambda maps: maps.flip(1),
    "mirrored left to right": lambda maps: maps.flip(2),
    "rotated by 180 degrees": lambda maps: maps.flip(1, 2),
    "transposed": lambda maps: F.interpolate(
        maps.mT[:, None], size=maps.shape[1:], mode="bilinear", align_corners=False
    )[:, 0],
}


def _explanation(heatmaps: Tensor, colour: str) -> str:
    """Return which transformation of the maps would put their centres at the spots, if there is one."""
    for name, transform in _TRANSFORMATIONS.items():
        changed = transform(heatmaps)
        if all(
            _distance(heatmap, spots, colour) <= CELL_SIDE / 4 for spots, heatmap in zip(SPOTS, changed, strict=True)
        ):
            return f"; the maps are {name}"
    return ""


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 1) for value in values.tolist()]
