"""Laws that the maps of each architecture of the coverage table must satisfy: names, single images, positions."""

import ast
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from coverage_checks import Cell
from torch import Tensor, nn

from attribkit import AttribkitError, Attribution, Explainer, LayerUnit, Method, registry

BY_NAME, IMAGE_BY_IMAGE, POSITION = (  # names of the rows
    "gradcam, layer by its name",
    "gradcam and saliency, image by image",
    "gradcam, position",
)

Question = Callable[[Tensor], dict[str, Any]]  # images -> target and inputs

_IMAGES = 2  # in a batch
_MAX_PARAMETERS = 200_000_000  # of a model that is copied in double precision
_SAME = 1e-5  # tolerance as a fraction of the range of a map, for the same computation
_ROUNDING = 1e-3  # the same, between single images and a batch in float32
_ROUNDING_DOUBLE = 1e-9
# Tolerance of positions: grid cells, plus a fraction of the standard deviation of the cells' gradients
_MEAN_TOLERANCE = (0.55, 0.1)  # of the mean of several cells; up to 0.55, a map covers the whole image
_CELL_TOLERANCE = (0.5, 0.4)  # of each cell
_DRAWS = 4  # images to average over if one is not enough
_SHARED = 0.8  # largest fraction of gradients that distant cells may share; the rest would be noise


def laws(explainer: Explainer, x: Tensor, question: Question) -> Iterator[tuple[str, Cell]]:
    """Yield the row name and the outcome of each law; x: one image."""
    checks: dict[str, Callable[[], Cell]] = {
        BY_NAME: lambda: by_name(explainer, x, question),
        IMAGE_BY_IMAGE: lambda: image_by_image(explainer, x, question),
        POSITION: lambda: positions(explainer, x, question),
    }
    for name, check in checks.items():
        yield name, _run_check(check)


def by_name(explainer: Explainer, x: Tensor, question: Question) -> Cell:
    """Check that the layer names in the note, passed as layer=, give the same map, or the mean of several maps."""
    options = question(x) | {"relu": False}
    default = explainer.attribute(x, "gradcam", **options)
    names = layer_names(default)
    attributions = [explainer.attribute(x, "gradcam", layer=name, **options) for name in names]
    mean = torch.stack([_unit_range(each) for each in attributions]).mean(0)
    if len(attributions) == 1:
        mean = attributions[0].heatmap()
    gaps = [_gap(mean, default.heatmap())]
    if len(attributions) > 1:
        gaps.append(_gap(explainer.attribute(x, "gradcam", layer=names, **options).heatmap(), default.heatmap()))
    status = "ok" if max(gaps) <= _SAME else "wrong"
    return Cell(status, ", ".join(names), _grids(attributions), f"{max(gaps):.1e} of the range")


def image_by_image(explainer: Explainer, x: Tensor, question: Question) -> Cell:
    """Check that a batch of two images, in either order, gives the maps that a new explainer gives for each image."""
    gap, notes = _gap_to_batch(explainer, x, question)
    if gap <= _ROUNDING:
        return Cell("ok", text=f"{gap:.1e} of the range")
    explanations = [note for note in notes if "other images of its batch" in note or "random numbers" in note]
    if explanations:
        return Cell("ok", text=f"{gap:.1e} of the range, with the note: {explanations[0]}")
    model = explainer.model.module
    if sum(each.numel() for each in model.parameters()) > _MAX_PARAMETERS:
        return Cell("not judged", text=f"{gap:.1e} of the range in float32; too large for double precision")
    double, _ = _gap_to_batch(Explainer(deepcopy(model).double(), batch_size=_IMAGES), x.double(), question)
    if double <= _ROUNDING_DOUBLE:
        return Cell("ok", text=f"{gap:.1e} of the range by rounding, in double precision {double:.1e}")
    return Cell("wrong", text=f"{gap:.1e} of the range, in double precision {double:.1e}")


def positions(explainer: Explainer, x: Tensor, question: Question) -> Cell:
    """Check the positions of the cells of the layers against their gradients, for two image shapes."""
    texts, statuses = [], []
    for images in (x, *_wider(explainer.model.module, x, question)):
        options = question(images)
        for name in layer_names(explainer.attribute(images, "gradcam", **options)):
            offsets = _offsets_of_layer(explainer, images, name, options)
            statuses.append(offsets.status)
            texts.append(f"{name} at {'x'.join(map(str, images.shape[2:]))}: {offsets.text}")
    status = next(status for status in ("wrong", "ok", "not judged") if status in statuses)
    return Cell(status, text="; ".join(texts))


def layer_names(attribution: Attribution) -> tuple[str, ...]:
    """Return the layer names in the note on the layer."""
    note = next(note for note in attribution.notes if note.startswith("layer="))
    names = ast.literal_eval(note.removeprefix("layer=").split(": ")[0])
    return names if isinstance(names, tuple) else (names,)


@dataclass(frozen=True)
class Offsets:
    """Distances between the centres of the gradients of a few cells and the positions of these cells."""

    offsets: Tensor  # (cells, axes), in cells
    width: Tensor  # (axes,) standard deviation of the gradient of the middle cell, in cells
    shared: float  # fraction of the gradients of two distant cells at the same pixels

    @property
    def shift(self) -> float:
        """Return the mean offset over the cells, in cells, along the worst axis."""
        return float(self.offsets.mean(0).abs().max())

    @property
    def status(self) -> str:
        if self.shared > _SHARED:
            return "not judged"
        pairs = ((self.offsets.mean(0), _MEAN_TOLERANCE), (self.offsets, _CELL_TOLERANCE))
        within = [bool((offsets.abs() <= cells + fraction * self.width).all()) for offsets, (cells, fraction) in pairs]
        return "ok" if all(within) else "wrong"

    @property
    def text(self) -> str:
        if self.status == "not judged":
            return f"cells far apart have {self.shared:.0%} of their gradients at the same pixels"
        alone = "" if self.status == "ok" else f", one of them {float(self.offsets.abs().max()):.2f}"
        return f"{self.shift:.2f} of a cell{alone}"


def _offsets_of_layer(explainer: Explainer, x: Tensor, name: str, options: dict[str, Any]) -> Offsets:
    """Return the offsets from one image; if they exceed the tolerance, those from several."""
    offsets = measure_offsets(explainer, x, name, options)
    return offsets if offsets.status == "ok" else measure_offsets(explainer, x, name, options, _DRAWS)


def measure_offsets(explainer: Explainer, x: Tensor, name: str, options: dict[str, Any], draws: int = 1) -> Offsets:
    """Compare the positions of a few cells of a layer with their gradients; draws: random images to average over.

    The part of the gradients that two distant cells share, for example through global pooling, is left out.
    """
    named = explainer.attribute(x, "gradcam", layer=name, **options)
    grid, extent = tuple(named.scores.shape[2:]), named.extent or ((0.0, 1.0),) * (x.ndim - 2)
    cells = _cells(grid)
    drawn = [_energies(explainer, x, name, options, cells, seed) for seed in range(draws)]
    energies = _smoothed(torch.stack(drawn).sum(0), grid)
    common = torch.minimum(energies[1], energies[2])
    distinct = (energies - common).clamp(min=0)
    offsets, width = torch.zeros(len(cells), len(grid)), torch.zeros(len(grid))
    for axis in (axis for axis, count in enumerate(grid) if count > 1):
        start, end = (each * x.shape[2 + axis] for each in extent[axis])
        size = (end - start) / grid[axis]  # of a cell, in pixels
        profiles = [_profile(energy, axis) for energy in distinct]
        expected = _expected(profiles[0], [start + (cell[axis] + 0.5) * size for cell in cells])
        centres = torch.tensor([_centre(profile) for profile in profiles])
        offsets[:, axis], width[axis] = (centres - torch.tensor(expected)) / size, _width(profiles[0]) / size
    return Offsets(offsets, width, float(common.sum() / energies[1].sum()))


def _energies(
    explainer: Explainer, x: Tensor, name: str, options: dict[str, Any], cells: Sequence[tuple[int, ...]], seed: int
) -> Tensor:
    """Return the squared gradient of each cell at each pixel, (cells, *space)."""
    inputs = {"inputs": options["inputs"]} if "inputs" in options else {}
    images = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x) if seed else x
    gradients = [explainer.attribute(images, "saliency", target=_Cell(name, cell, seed), **inputs) for cell in cells]
    energies = torch.stack([each.scores.double().square().sum((0, 1)) for each in gradients])
    return energies / energies.flatten(1).sum(1).view(-1, *(1,) * (x.ndim - 2))


def _smoothed(energies: Tensor, grid: Sequence[int]) -> Tensor:
    """Average the energies, (cells, *space), over windows of the size of a cell."""
    for axis, count in enumerate(grid, start=1):
        half = energies.shape[axis] // count // 2
        rows = energies.movedim(axis, -1)
        pooled = F.avg_pool1d(rows.flatten(1, -2), 2 * half + 1, 1, half, count_include_pad=False)
        energies = pooled.view(rows.shape).movedim(-1, axis)
    return energies


@dataclass(frozen=True)
class _Cell(LayerUnit):
    """One cell of a layer: the sum of its channels with random signs."""

    layer: str
    position: tuple[int, ...]
    seed: int = 0

    def response(self, maps: Tensor) -> Tensor:
        signs = 2.0 * torch.randint(2, (maps.shape[1],), generator=torch.Generator().manual_seed(self.seed)) - 1
        index: tuple[Any, ...] = (slice(None), slice(None), *self.position)
        return maps[index] @ signs.to(maps)


def _cells(grid: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the middle cell and two cells near opposite corners."""
    middle = tuple(count // 2 for count in grid)
    near = [min(count // 4, count - 1) for count in grid]
    far = [count - 1 - each for count, each in zip(grid, near, strict=True)]
    corners = [tuple((near, far)[(axis + side) % 2][axis] for axis in range(len(grid))) for side in (0, 1)]
    return [middle, *corners]


def _profile(energy: Tensor, axis: int) -> Tensor:
    along = energy.sum([other for other in range(energy.ndim) if other != axis])
    return along / along.sum()


def _pixels(profile: Tensor) -> Tensor:
    return torch.arange(len(profile), device=profile.device) + 0.5


def _centre(profile: Tensor) -> float:
    return float((profile * _pixels(profile)).sum() / profile.sum())


def _width(profile: Tensor) -> float:
    return float((profile * (_pixels(profile) - _centre(profile)).square()).sum().sqrt())


def _expected(profile: Tensor, positions: Sequence[float]) -> list[float]:
    """Return the expected centre of each cell's gradient, which the border of the image cuts off.

    profile: of the first, the middle cell, which is shifted to the others; positions: of the cells, in pixels.
    """
    pixels, centre = _pixels(profile), _centre(profile)
    others = positions[1:]
    inside = [(pixels + other - centre > 0) & (pixels + other - centre < len(pixels)) for other in others]
    cut = [_centre(profile.where(pixels_inside, 0)) for pixels_inside in inside]
    return [positions[0], *(cut_centre + other - centre for cut_centre, other in zip(cut, others, strict=True))]


def _wider(model: nn.Module, x: Tensor, question: Question) -> Iterator[Tensor]:
    """Yield an image that is not square, if the model accepts it."""
    wide = torch.randn(*x.shape[:-1], x.shape[-1] * 3 // 2 // 32 * 32, device=x.device)
    inputs = question(wide).get("inputs", {})
    try:
        with torch.no_grad():
            deepcopy(model).eval()(wide, *inputs.values())
    except Exception:  # the model does not accept this size
        return
    yield wide


def _gap_to_batch(explainer: Explainer, x: Tensor, question: Question) -> tuple[float, list[str]]:
    """Return the largest difference between maps of single images and of a batch, as a fraction of the range.

    The single images have new explainers. Also returns the notes on the maps.
    """
    model = explainer.model.module
    generator = torch.Generator(x.device).manual_seed(1)
    images = torch.cat([x, torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)])
    alone = [_maps(Explainer(model, batch_size=_IMAGES), images[i : i + 1], question) for i in (0, 1)]
    gaps = []
    notes = [note for attributions in alone for each in attributions for note in each.notes]
    for order in ([0, 1], [1, 0]):
        together = _maps(explainer, images[order], question)
        notes += [note for each in together for note in each.notes]
        for method, both in enumerate(together):
            for row, image in enumerate(order):
                gaps.append(_gap(both.heatmap()[row], alone[image][method].heatmap()[0]))
    return max(gaps), notes


def _maps(explainer: Explainer, x: Tensor, question: Question) -> list[Attribution]:
    options = question(x)
    methods = [registry.make("gradcam", Method, relu=False), registry.make("saliency", Method)]
    return list(explainer.compare(x, methods, targets=(options.get("target"),), inputs=options.get("inputs")))


def _gap(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two maps, as a fraction of the range of the second."""
    return float((one - other).abs().max()) / (float(other.max() - other.min()) or 1.0)


def _unit_range(attribution: Attribution) -> Tensor:
    """Return the heatmap of the scores after scaling them to the range 0 to 1."""
    low, high = attribution.scores.aminmax()
    return replace(attribution, scores=(attribution.scores - low) / (high - low + 1e-7)).heatmap()


def _grids(attributions: Sequence[Attribution]) -> str:
    return ", ".join("x".join(map(str, each.scores.shape[2:])) for each in attributions)


def _run_check(check: Callable[[], Cell]) -> Cell:
    try:
        return check()
    except AttribkitError as error:
        return Cell("refused", text=str(error))
    except Exception as error:
        return Cell("wrong", text=f"{type(error).__name__}: {error}")
