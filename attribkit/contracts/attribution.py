"""[core/attribution] What an attribution is, once computed.
[core/comparison] What a comparison of several methods gives: their attributions, and the errors of those that failed.
"""

import base64
import html
import operator
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from attribkit.contracts.attribution_checks import check_axes, check_count, check_extent, check_notes, check_tensors
from attribkit.contracts.method import Method
from attribkit.contracts.records import Recorded, has_keys, read_method, read_target, to_record
from attribkit.core import serialization
from attribkit.core.axes import LINEAR, ImageAxes
from attribkit.core.errors import AttribkitError, InvalidInput, UnreadableFile, printable
from attribkit.core.layouts import Extent
from attribkit.core.pictures import evenly, overlay, png, sections, stretched
from attribkit.core.shapes import AnyImages, Heatmaps, Picture
from attribkit.core.tensors import resolve_device
from attribkit.targets.target import Target

Reduction = Literal["sum", "sum_of_magnitudes", "largest_magnitude"]

_SHOWN = 8  # pictures in a notebook


@dataclass(frozen=True, eq=False)
class Attribution:
    """Scores, and all that is needed to read, redraw or re-score them."""

    scores: AnyImages  # as the method computed them, (b, k, *grid): signed, at its own resolution
    x: AnyImages  # what was explained, (b, c, *space)
    target: Target | Recorded  # with the predicted classes made explicit
    method: Method | Recorded  # options and all; its repr is the provenance
    notes: tuple[str, ...] = ()  # what a careful reader should know
    axes: str | None = None  # of x and scores, as ModelSpec has them; None is (b, c, *space)
    extent: Extent | None = None  # where the scores lie, as shares of each axis of space; None is all over the images

    def __post_init__(self) -> None:
        if self.axes is not None:
            check_axes(self.axes, self.scores, self.x)
        scores, x = self._tensors()
        check_tensors(scores, x)
        check_notes(self.notes)
        check_extent(self.extent, x.ndim - 2)
        if not isinstance(self.target, Target | Recorded):
            raise InvalidInput(f"target={self.target!r} is no Target: write ClassLogit(...), say.")
        if not isinstance(self.method, Method | Recorded):
            raise InvalidInput(f"method={self.method!r} is no Method: give an instance, such as GradCAM().")
        if isinstance(self.target, Target):
            check_count(self.target, len(self.x))

    def heatmap(self, reduce: Reduction = "sum", size: Sequence[int] | None = None) -> Heatmaps:
        """One number per pixel of x, (b, *space): the channels reduced, then resized linearly; not normalised.

        Scores of a layer that sees a part of the image alone, or whose cells lie more than half a cell away from an
        even grid over the image, have an extent: they are drawn there, and all other pixels are zero.

        reduce: for scores of several channels the choice changes the ranking of the pixels. size: another than that of
        x, such as the photograph's.
        """
        scores, x = self._tensors()
        space = tuple(x.shape[2:])
        space = space if size is None else _checked(size, len(space))
        return resize_map(_reduced(scores, reduce), space, self.extent).squeeze(1)

    def channels_first(self) -> "Attribution":
        """The same with x and scores as (b, c, *space) and (b, k, *grid), whatever the model's order of axes is."""
        if self.axes is None:
            return self
        scores, x = self._tensors()
        return replace(self, scores=scores.contiguous(), x=x.contiguous(), axes=None)

    def restored(self, axes: ImageAxes) -> "Attribution":
        """The same with x and scores in this order of axes, from (b, c, *space)."""
        if axes.is_usual:
            return self
        scores, x = (axes.restored(each).contiguous() for each in (self.scores, self.x))
        return replace(self, scores=scores, x=x, axes=axes.letters)

    def _tensors(self) -> tuple[Any, Any]:
        """Scores and images, channels first."""
        if self.axes is None:
            return self.scores, self.x
        axes = ImageAxes(self.axes)
        return axes.channels_first(self.scores), axes.channels_first(self.x)

    def to(self, device: torch.device | str) -> "Attribution":
        """The same on another device."""
        return replace(self, scores=self.scores.to(device), x=self.x.to(device))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all: the tensors, and the rest as JSON in its metadata.

        Raises UnreadableFile where it cannot be written; what was there before is still there then.
        """
        told: dict[str, Any] = {"target": to_record(self.target), "method": to_record(self.method), "notes": self.notes}
        told |= {} if self.axes is None else {"axes": self.axes}
        told |= {} if self.extent is None else {"extent": self.extent}
        serialization.write_tensors(path, {"scores": self.scores, "x": self.x}, told)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "Attribution":
        """Read what `save` wrote; the method comes back as a record of its repr, since it may not be installed.

        Scores or images that are not finite are noted. Raises UnreadableFile for any other file, and for one that a
        newer attribkit wrote; InvalidInput for a device that is not there.
        """
        place = resolve_device(str(device))
        try:
            tensors, told = serialization.read_tensors(path, frozenset({"scores", "x"}))
            read = cls(tensors["scores"], tensors["x"], *_read(told))
        except UnreadableFile:
            raise
        except (OSError, SafetensorError, ValueError, TypeError, RuntimeError) as error:  # RecursionError among them
            reason = printable(str(error)).rstrip(".")
            raise UnreadableFile(
                f"{str(path)!r} is no saved attribution ({reason}): give a file that save() wrote."
            ) from error
        return replace(read, notes=tuple(dict.fromkeys((*read.notes, *_not_finite(read))))).to(place)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, images: int | slice) -> "Attribution":
        """The attribution of one image (still a batch) or of a slice of them."""
        if not isinstance(images, slice):
            index = operator.index(images)
            if not -len(self) <= index < len(self):
                raise IndexError(f"image {index} of an attribution of {len(self)}")
            images = slice(index % len(self), index % len(self) + 1)
        target = self.target.subset(images) if isinstance(self.target, Target) else self.target
        return replace(self, scores=self.scores[images], x=self.x[images], target=target)

    def __iter__(self) -> Iterator["Attribution"]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        shape, grid = tuple(self.x.shape), tuple(self.scores.shape)
        notes = "".join(f"\n  {note}" for note in self.notes)
        return f"Attribution({self.method!r}, {self.target!r}, x {shape}, scores {grid}){notes}"

    def _repr_html_(self) -> str:
        """Overlays of the first images, or of sections of the first clip; the provenance and the notes; no script."""
        pictures = [base64.b64encode(png(each)).decode() for each in self._overlays()]
        images = "".join(f'<img style="margin:2px" src="data:image/png;base64,{each}">' for each in pictures)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        title = html.escape(f"{self.method!r} of {self.target!r}")
        return f"<div>{images}<br><code>{title}</code><ul>{notes}</ul></div>"

    def _overlays(self) -> list[Picture]:
        """The first few images under their maps; of clips and volumes, some frames or slices of the first."""
        _, x = self._tensors()
        pictures, heatmaps = stretched(x[:_SHOWN]), self.heatmap("sum_of_magnitudes")
        if x.ndim == 4:
            return [overlay(picture, heatmap) for picture, heatmap in zip(pictures, heatmaps, strict=False)]
        if x.ndim != 5 or not pictures:
            return []
        places = evenly(x.shape[2], min(_SHOWN, x.shape[2]))
        chosen = sections(pictures[0], heatmaps[0], places)
        return [overlay(each.picture, each.heatmap, whole=heatmaps[0]) for each in chosen]


def _checked(size: Any, axes: int) -> tuple[int, ...]:
    """A size as one of a space of so many axes."""
    sides = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else ()
    if len(sides) != axes or not all(isinstance(side, Integral) and int(side) > 0 for side in sides):
        raise InvalidInput(f"size={size!r} must be {axes} numbers of pixels from 1, as (height, width).")
    return tuple(map(int, sides))


def resize_map(maps: Tensor, size: Sequence[int], extent: Extent | None = None) -> Tensor:
    """(b, k, *grid) to (b, k, *size), linear between the centres of the cells; a constant map stays so exactly.

    extent: the part of the image that the grid covers; outside it is zero. None is all of the image.
    """
    if extent is not None:
        return _drawn(maps, size, extent)
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    if len(size) not in LINEAR:
        raise InvalidInput(f"Maps of {len(size)} axes of space cannot be resized: at most {max(LINEAR)} can.")
    large = F.interpolate(maps, tuple(size), mode=LINEAR[len(size)], align_corners=False)
    low, high = (each.view(*maps.shape[:2], *(1,) * len(size)) for each in maps.flatten(2).aminmax(dim=2))
    return large.clamp(low, high)


def _drawn(maps: Tensor, size: Sequence[int], extent: Extent) -> Tensor:
    """The same on a part of the image."""
    for axis, (pixels, (start, end)) in enumerate(zip(size, extent, strict=True), start=2):
        cells = maps.shape[axis]
        share = ((torch.arange(pixels, device=maps.device, dtype=torch.float32) + 0.5) / pixels - start) / (end - start)
        place = (share * cells - 0.5).clamp(0, cells - 1).to(maps.dtype)
        before = place.floor().long().clamp(max=max(cells - 2, 0))
        shape = (-1, *(1,) * (maps.ndim - 1 - axis))
        low, high = (maps.index_select(axis, (before + step).clamp(max=cells - 1)) for step in (0, 1))
        inside = ((share >= 0) & (share <= 1)).view(shape)
        maps = torch.where(inside, torch.lerp(low, high, (place - before).view(shape)), torch.zeros_like(low))
    return maps


def _reduced(scores: Tensor, reduce: Reduction) -> Tensor:
    """The channels of the scores made one, (b, 1, *grid)."""
    if reduce == "sum":
        return scores.sum(1, keepdim=True)
    if reduce == "sum_of_magnitudes":
        return scores.abs().sum(1, keepdim=True)
    if reduce == "largest_magnitude":
        return scores.gather(1, scores.abs().argmax(1, keepdim=True))
    raise InvalidInput(f"reduce={reduce!r} is no way to reduce channels; known: {', '.join(get_args(Reduction))}.")


def _read(told: Any) -> tuple[Target | Recorded, Recorded, tuple[str, ...], str | None, Extent | None]:
    """Target, method, notes, axes and extent out of the record in a file; the last two are left out where usual."""
    required = ("target", "method", "notes")
    more = [name for name in ("axes", "extent") if isinstance(told, dict) and name in told]
    if not has_keys(told, *required, *more):
        raise InvalidInput("its record has other fields than target, method, notes, axes and extent")
    if not isinstance(told["notes"], list) or not all(isinstance(note, str) for note in told["notes"]):
        raise InvalidInput("its notes are no list of texts")
    axes = ImageAxes(told["axes"]).letters if "axes" in told else None
    extent = told.get("extent")
    if isinstance(extent, list):
        extent = tuple(tuple(each) if isinstance(each, list) else each for each in extent)
    notes = tuple(map(printable, told["notes"]))
    return read_target(told["target"]), read_method(told["method"]), notes, axes, extent


def _not_finite(read: Attribution) -> Iterator[str]:
    """A note on what holds NaN or infinite values; looked for in what comes from a file alone."""
    for name, tensor in (("scores", read.scores), ("images", read.x)):
        wrong = (~tensor.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        if wrong:
            yield f"the {name} in the file hold NaN or infinite values, for images {wrong}: nothing is to be read there"


@dataclass(frozen=True, eq=False)
class FailedAttribution:
    """A method that gave no attribution for a target; str() is a sentence."""

    method: Method
    target: Target
    error: Exception

    def __post_init__(self) -> None:
        traceback.clear_frames(self.error.__traceback__)  # whose variables hold activations

    def __str__(self) -> str:
        kind = "" if isinstance(self.error, AttribkitError) else f"{self.method.name}: {type(self.error).__name__}: "
        return f"{kind}{self.error}"


class Comparison(list[Attribution]):
    """The attributions of several methods and targets, target by target.

    rows: one for each target, with the attribution or the failure of each method. Where nothing failed, the list holds
    all of them in this order; a failure has no place in the list.
    """

    def __init__(self, rows: Sequence[Sequence[Attribution | FailedAttribution]]) -> None:
        self.rows = tuple(tuple(row) for row in rows)
        super().__init__(each for row in self.rows for each in row if isinstance(each, Attribution))

    @property
    def failures(self) -> list[FailedAttribution]:
        """Those that gave no attribution, in the order of the rows."""
        return [each for row in self.rows for each in row if isinstance(each, FailedAttribution)]
