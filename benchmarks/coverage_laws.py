"""Laws of the maps that the coverage table shows for each architecture: names, single images, positions."""

import ast
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from coverage_checks import Cell
from torch import Tensor, nn

from attribkit import AttribkitError, Attribution, Explainer, LayerUnit, registry

BY_NAME, IMAGE_BY_IMAGE, AT_ITS_PLACE = (  # names of rows
    "gradcam, layer by its name",
    "gradcam and saliency, image by image",
    "gradcam, position",
)

Question = Callable[[Tensor], dict[str, Any]]  # the target and the inputs of images

_IMAGES = 2  # at a time
_FEW = 200_000_000  # parameters, for a copy in double precision
_SAME = 1e-5  # share of a map's range, for the same computation
_ROUNDING = 1e-3  # the same, for single images and a batch in float32
_ROUNDING_DOUBLE = 1e-9
# How far cells may be off: cells, and a share of the standard deviation of their gradients, which are uneven
_TOGETHER = (0.55, 0.1)  # the mean of several; up to 0.55, a map is drawn over the whole image
_EACH = (0.5, 0.4)
_DRAWS = 4  # images to average over where one is not enough
_SHARED = 0.8  # of the gradients of two cells far apart, at the same pixels; with more, what is left is noise


def laws(explainer: Explainer, x: Tensor, question: Question) -> Iterator[tuple[str, Cell]]:
    """The name of each law's row, and what came of it; x: one image."""
    checks: dict[str, Callable[[], Cell]] = {
        BY_NAME: lambda: by_name(explainer, x, question),
        IMAGE_BY_IMAGE: lambda: image_by_image(explainer, x, question),
        AT_ITS_PLACE: lambda: at_its_place(explainer, x, question),
    }
    for name, check in checks.items():
        yield name, _tried(check)


def by_name(explainer: Explainer, x: Tensor, question: Question) -> Cell:
    """Whether the names in the note, given back as layer=, give the same map; of several, the mean of theirs."""
    options = question(x) | {"relu": False}
    default = explainer.attribute(x, "gradcam", **options)
    names = layer_names(default)
    found = [explainer.attribute(x, "gradcam", layer=name, **options) for name in names]
    mean = found[0].heatmap() if len(found) == 1 else torch.stack([_unit_range(each) for each in found]).mean(0)
    gaps = [_gap(mean, default.heatmap())]
    if len(found) > 1:
        gaps.append(_gap(explainer.attribute(x, "gradcam", layer=names, **options).heatmap(), default.heatmap()))
    status = "ok" if max(gaps) <= _SAME else "wrong"
    return Cell(status, ", ".join(names), _grids(found), f"{max(gaps):.1e} of the range")


def image_by_image(explainer: Explainer, x: Tensor, question: Question) -> Cell:
    """Whether one explainer gives for a batch of two images, in either order, what a fresh one gives for each."""
    gap, notes = _gap_to_batch(explainer, x, question)
    if gap <= _ROUNDING:
        return Cell("ok", text=f"{gap:.1e} of the range")
    told = [note for note in notes if "other images of its batch" in note or "random numbers" in note]
    if told:
        return Cell("ok", text=f"{gap:.1e} of the range, with the note: {told[0]}")
    model = explainer.model.module
    if sum(each.numel() for each in model.parameters()) < _FEW:
        double, _ = _gap_to_batch(Explainer(deepcopy(model).double(), batch_size=_IMAGES), x.double(), question)
        if double <= _ROUNDING_DOUBLE:
            return Cell("ok", text=f"{gap:.1e} of the range by rounding, in double precision {double:.1e}")
    return Cell("wrong", text=f"{gap:.1e} of the range")


def at_its_place(explainer: Explainer, x: Tensor, question: Question) -> Cell:
    """Whether the cells of the layers that are read lie where their gradients are, on two shapes of images."""
    texts, statuses = [], []
    for images in (x, *_wider(explainer.model.module, x, question)):
        options = question(images)
        for name in layer_names(explainer.attribute(images, "gradcam", **options)):
            places = _judged(explainer, images, name, options)
            statuses.append(places.status)
            texts.append(f"{name} at {'x'.join(map(str, images.shape[2:]))}: {places.text}")
    status = next(status for status in ("wrong", "ok", "not judged") if status in statuses)
    return Cell(status, text="; ".join(texts))


def layer_names(attribution: Attribution) -> tuple[str, ...]:
    """The names of the layers in the note on them."""
    note = next(note for note in attribution.notes if note.startswith("layer="))
    names = ast.literal_eval(note.removeprefix("layer=").split(": ")[0])
    return names if isinstance(names, tuple) else (names,)


@dataclass(frozen=True)
class Places:
    """Where the gradients of a few cells are, compared with where the cells are drawn."""

    far: Tensor  # (cells, axes), in cells
    wide: Tensor  # (axes,) standard deviation of the gradient of the cell in the middle, in cells
    shared: float  # of the gradients of two cells far apart, at the same pixels

    @property
    def shift(self) -> float:
        """Of all cells together, in cells."""
        return float(self.far.mean(0).abs().max())

    @property
    def status(self) -> str:
        if self.shared > _SHARED:
            return "not judged"
        pairs = ((self.far.mean(0), _TOGETHER), (self.far, _EACH))
        near = [bool((far.abs() <= cells + share * self.wide).all()) for far, (cells, share) in pairs]
        return "ok" if all(near) else "wrong"

    @property
    def text(self) -> str:
        if self.status == "not judged":
            return f"cells far apart have {self.shared:.0%} of their gradients at the same pixels"
        alone = "" if self.status == "ok" else f", one of them {float(self.far.abs().max()):.2f}"
        return f"{self.shift:.2f} of a cell{alone}"


def _judged(explainer: Explainer, x: Tensor, name: str, options: dict[str, Any]) -> Places:
    """The places of the cells of one layer; where those of one draw are not right, those of several."""
    places = places_of(explainer, x, name, options)
    return places if places.status == "ok" else places_of(explainer, x, name, options, _DRAWS)


def places_of(explainer: Explainer, x: Tensor, name: str, options: dict[str, Any], draws: int = 1) -> Places:
    """Where a few cells of a layer are drawn and where their gradients are; draws: random images to average over.

    What two cells far apart have in common, by way of a pooling of the whole image, is left out.
    """
    named = explainer.attribute(x, "gradcam", layer=name, **options)
    grid, extent = tuple(named.scores.shape[2:]), named.extent or ((0.0, 1.0),) * (x.ndim - 2)
    cells = _cells(grid)
    seen = [_energies(explainer, x, name, options, cells, seed) for seed in range(draws)]
    energies = _smoothed(torch.stack(seen).sum(0), grid)
    common = torch.minimum(energies[1], energies[2])
    own = (energies - common).clamp(min=0)
    far, wide = torch.zeros(len(cells), len(grid)), torch.zeros(len(grid))
    for axis in (axis for axis, count in enumerate(grid) if count > 1):
        start, end = (each * x.shape[2 + axis] for each in extent[axis])
        size = (end - start) / grid[axis]  # of a cell, in pixels
        profiles = [_profile(energy, axis) for energy in own]
        expected = _expected(profiles[0], [start + (cell[axis] + 0.5) * size for cell in cells])
        found = torch.tensor([_centre(profile) for profile in profiles])
        far[:, axis], wide[axis] = (found - torch.tensor(expected)) / size, _width(profiles[0]) / size
    return Places(far, wide, float(common.sum() / energies[1].sum()))


def _energies(
    explainer: Explainer, x: Tensor, name: str, options: dict[str, Any], cells: Sequence[tuple[int, ...]], seed: int
) -> Tensor:
    """The squared gradient of each cell at each pixel, (cells, *space)."""
    inputs = {"inputs": options["inputs"]} if "inputs" in options else {}
    images = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x) if seed else x
    gradients = [explainer.attribute(images, "saliency", target=_Cell(name, cell, seed), **inputs) for cell in cells]
    energies = torch.stack([each.scores.double().square().sum((0, 1)) for each in gradients])
    return energies / energies.flatten(1).sum(1).view(-1, *(1,) * (x.ndim - 2))


def _smoothed(energies: Tensor, grid: Sequence[int]) -> Tensor:
    """The same, (cells, *space), averaged over as many pixels as a cell has."""
    for axis, count in enumerate(grid, start=1):
        half = energies.shape[axis] // count // 2
        rows = energies.movedim(axis, -1)
        pooled = F.avg_pool1d(rows.flatten(1, -2), 2 * half + 1, 1, half, count_include_pad=False)
        energies = pooled.view(rows.shape).movedim(-1, axis)
    return energies


@dataclass(frozen=True)
class _Cell(LayerUnit):
    """One cell of a layer: its channels added up with random signs."""

    layer: str
    position: tuple[int, ...]
    seed: int = 0

    def response(self, maps: Tensor) -> Tensor:
        diagnostics = 2.0 * torch.randint(2, (maps.shape[1],), generator=torch.Generator().manual_seed(self.seed)) - 1
        return maps[(slice(None), slice(None), *self.position)] @ diagnostics.to(maps)


def _cells(grid: Sequence[int]) -> list[tuple[int, ...]]:
    """The cell in the middle, and cells near corners: in a row and a column of which one is early, the other late."""
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


def _expected(profile: Tensor, places: Sequence[float]) -> list[float]:
    """Where the centre of a cell's gradient is expected, which the border of the image cuts.

    profile: of the cell in the middle, the first; places: of the cells, in pixels. The profile is moved to the others.
    """
    pixels, centre = _pixels(profile), _centre(profile)
    inside = [(pixels + place - centre > 0) & (pixels + place - centre < len(pixels)) for place in places[1:]]
    cut = [_centre(profile.where(each, 0)) for each in inside]
    return [places[0], *(each + place - centre for each, place in zip(cut, places[1:], strict=True))]


def _wider(model: nn.Module, x: Tensor, question: Question) -> Iterator[Tensor]:
    """An image that is not square, if the model takes it."""
    wide = torch.randn(*x.shape[:-1], x.shape[-1] * 3 // 2 // 32 * 32, device=x.device)
    inputs = question(wide).get("inputs", {})
    try:
        with torch.no_grad():
            deepcopy(model).eval()(wide, *inputs.values())
    except Exception:  # a size that the model does not take
        return
    yield wide


def _gap_to_batch(explainer: Explainer, x: Tensor, question: Question) -> tuple[float, list[str]]:
    """The largest difference between maps of single images, by fresh explainers, and of both, as a share of the range.

    With the notes on the maps.
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
    methods = [registry.methods()["gradcam"](relu=False), "saliency"]
    found = explainer.compare(x, methods, targets=(options.get("target"),), inputs=options.get("inputs"))
    return list(found)


def _gap(one: Tensor, other: Tensor) -> float:
    """The largest difference of two maps, as a share of the range of the second."""
    return float((one - other).abs().max()) / (float(other.max() - other.min()) or 1.0)


def _unit_range(attribution: Attribution) -> Tensor:
    """The heatmap of scores brought to 0 to 1."""
    low, high = attribution.scores.aminmax()
    return replace(attribution, scores=(attribution.scores - low) / (high - low + 1e-7)).heatmap()


def _grids(attributions: Sequence[Attribution]) -> str:
    return ", ".join("x".join(map(str, each.scores.shape[2:])) for each in attributions)


def _tried(check: Callable[[], Cell]) -> Cell:
    try:
        return check()
    except AttribkitError as error:
        return Cell("refused", text=str(error))
    except Exception as error:
        return Cell("wrong", text=f"{type(error).__name__}: {error}")
