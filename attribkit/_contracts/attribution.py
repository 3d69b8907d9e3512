"""The results of attribution methods: one attribution, and a comparison of several methods."""

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

from attribkit._contracts.attribution_checks import check_axes, check_count, check_extent, check_notes, check_tensors
from attribkit._contracts.drawing import PICTURES, save_picture
from attribkit._contracts.method import Method
from attribkit._contracts.records import Recorded, has_keys, method_record, read_method, read_target, target_record
from attribkit._core import serialization
from attribkit._core.axes import INTERPOLATION_MODES, ImageAxes
from attribkit._core.errors import AttribkitError, InvalidInput, UnreadableFile, printable
from attribkit._core.layouts import Extent
from attribkit._core.pictures import encode_png, middle_indices, overlay, sections, to_pictures
from attribkit._core.shapes import AnyImages, Heatmaps, Picture
from attribkit._core.tensors import resolve_device
from attribkit._display.representations import repr_with_notes, short_value
from attribkit._targets.target import Target

Reduction = Literal["sum", "sum_of_magnitudes", "largest_magnitude"]

_SHOWN = 8  # maximum number of pictures in a notebook


@dataclass(frozen=True, eq=False)
class Attribution:
    """The scores of a method for a batch of images, with everything that is needed to interpret and redraw them.

    Indexing and iteration give attributions of single images, still as batches of one; slicing keeps several images.

    Args:
        scores: The method's scores, (b, k, *grid): signed, at the resolution of the method.
        x: The explained images, (b, c, *space).
        target: The explained target, with the predicted classes made explicit; a record if the target cannot be
            restored from a file.
        method: The method with its options, whose repr is the provenance; a record if the attribution was loaded from a
            file.
        notes: What the user must know to interpret the scores, such as the layer that was chosen and why.
        axes: Order of the axes of `x` and `scores`, one letter each as in `ModelSpec`; None means (b, c, *space).
        extent: The part of the image that the scores cover: start and end along each axis of space, as fractions of the
            image; None means the whole image.
        model: Name of the model: the architecture of a timm model, or the class of the module; empty if unknown.

    Raises:
        InvalidInput: If the parts do not fit together.

    Example:
        >>> attribution = Explainer(model).attribute(x, "gradcam")
        >>> attribution.scores.shape, attribution.heatmap().shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2, 128, 128]))
        >>> attribution.notes
        ("layer='layer4': the last spatial map on every path from the image to the score (8x8, channels first)",)
        >>> attribution[0].scores.shape  # of the first image
        torch.Size([1, 1, 8, 8])
        >>> attribution.save("gradcam.safetensors")
        >>> Attribution.load("gradcam.safetensors").method
        GradCAM(layer=None, relu=True)
    """

    scores: AnyImages
    x: AnyImages
    target: Target | Recorded
    method: Method | Recorded
    notes: tuple[str, ...] = ()
    axes: str | None = None
    extent: Extent | None = None
    model: str = ""

    def __post_init__(self) -> None:
        if self.axes is not None:
            check_axes(self.axes, self.scores, self.x)
        scores, x = self._tensors()
        check_tensors(scores, x)
        check_notes(self.notes)
        check_extent(self.extent, x.ndim - 2)
        if not isinstance(self.target, Target | Recorded):
            raise InvalidInput(f"target must be a Target, got {self.target!r}: write ClassLogit(...), for example.")
        if not isinstance(self.method, Method | Recorded):
            raise InvalidInput(f"method must be a Method, got {self.method!r}: pass an instance, such as GradCAM().")
        if isinstance(self.target, Target):
            check_count(self.target, len(self.x))

    def heatmap(self, reduce: Reduction = "sum", size: Sequence[int] | None = None) -> Heatmaps:
        """Return one number for each pixel: the scores with their channels reduced, then resized linearly.

        The values are not normalised. Scores of a layer that covers only a part of the image, or whose grid cells are
        more than half a cell away from an even grid over the image, have an extent: they are drawn there, and all other
        pixels are zero.

        Args:
            reduce: How several channels become one: "sum" (signed), "sum_of_magnitudes", or "largest_magnitude" (the
                signed score with the largest magnitude). For scores of several channels the choice changes the ranking
                of the pixels.
            size: Sides of the map in pixels, such as those of the photograph; None means the size of `x`.

        Returns:
            The map, (b, *size), on the device of the scores.

        Raises:
            InvalidInput: If `reduce` or `size` is not valid.
        """
        scores, x = self._tensors()
        space = tuple(x.shape[2:])
        space = space if size is None else _to_sides(size, len(space))
        return resize_map(_reduce_channels(scores, reduce), space, self.extent).squeeze(1)

    def channels_first(self) -> "Attribution":
        """Return the attribution with `x` as (b, c, *space) and `scores` as (b, k, *grid)."""
        if self.axes is None:
            return self
        scores, x = self._tensors()
        return replace(self, scores=scores.contiguous(), x=x.contiguous(), axes=None)

    def from_channels_first(self, axes: ImageAxes) -> "Attribution":
        """Return the attribution, whose axes are (b, c, *space), with `x` and `scores` in another order of axes.

        Args:
            axes: The order of the axes.
        """
        if axes.is_channels_first:
            return self
        scores, x = (axes.from_channels_first(each).contiguous() for each in (self.scores, self.x))
        return replace(self, scores=scores, x=x, axes=axes.letters)

    def _tensors(self) -> tuple[Any, Any]:
        """Return scores and images, channels first."""
        if self.axes is None:
            return self.scores, self.x
        axes = ImageAxes(self.axes)
        return axes.channels_first(self.scores), axes.channels_first(self.x)

    def to(self, device: torch.device | str) -> "Attribution":
        """Return the attribution on another device.

        Args:
            device: The device, such as "cpu" or "cuda:0".
        """
        return replace(self, scores=self.scores.to(device), x=self.x.to(device))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, or a picture of the maps.

        A safetensors file contains the tensors, and the other fields as JSON in its metadata. It is written completely
        or not at all; an error leaves the previous file unchanged. A picture is that of `attribkit.figure`, or of
        `attribkit.figures.frames` for clips and volumes.

        Args:
            path: Path of the file; a suffix such as .png or .pdf writes a picture, any other the tensors.

        Raises:
            UnreadableFile: If the file cannot be written.
            InvalidInput: If the maps cannot be drawn.
        """
        if str(path).lower().endswith(PICTURES):
            save_picture(path, "figure" if self.x.ndim == 4 else "frames", self)
            return
        record: dict[str, Any] = {
            "target": target_record(self.target),
            "method": method_record(self.method),
            "notes": self.notes,
        }
        record |= {"model": self.model} if self.model else {}
        record |= {} if self.axes is None else {"axes": self.axes}
        record |= {} if self.extent is None else {"extent": self.extent}
        serialization.write_tensors(path, {"scores": self.scores, "x": self.x}, record)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "Attribution":
        """Read a file that `save` wrote.

        The method is restored as a record of its name and repr, since it may not be installed. A note reports scores or
        images that are not finite.

        Args:
            path: Path of the file.
            device: Device of the tensors.

        Returns:
            The attribution.

        Raises:
            UnreadableFile: If the file was not written by `save`, or was written by a newer attribkit.
            InvalidInput: If the device is not available.
        """
        resolved_device = resolve_device(str(device))
        try:
            tensors, record = serialization.read_tensors(path, frozenset({"scores", "x"}))
            loaded = cls(tensors["scores"], tensors["x"], **_read_record(record))
        except UnreadableFile:
            raise
        except (OSError, SafetensorError, ValueError, TypeError, RuntimeError) as error:  # also RecursionError
            reason = printable(str(error)).rstrip(".")
            raise UnreadableFile(
                f"{str(path)!r} is not a saved attribution ({reason}): pass a file written by save()."
            ) from error
        notes = tuple(dict.fromkeys((*loaded.notes, *_notes_on_infinite_values(loaded))))
        return replace(loaded, notes=notes).to(resolved_device)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, images: int | slice) -> "Attribution":
        """Return the attribution of one image (still a batch) or of a slice of the images."""
        if not isinstance(images, slice):
            index = operator.index(images)
            if not -len(self) <= index < len(self):
                raise IndexError(f"image {index} of an attribution of {len(self)} images")
            images = slice(index % len(self), index % len(self) + 1)
        target = self.target.subset(images) if isinstance(self.target, Target) else self.target
        return replace(self, scores=self.scores[images], x=self.x[images], target=target)

    def __iter__(self) -> Iterator["Attribution"]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        shape, grid = tuple(self.x.shape), tuple(self.scores.shape)
        method, target = short_value(self.method), short_value(self.target)
        return repr_with_notes(f"Attribution({method}, {target}, x {shape}, scores {grid})", self.notes)

    def _repr_html_(self) -> str:
        """Return HTML for notebooks, without a script: overlays of the first images, the provenance and the notes."""
        pictures = [base64.b64encode(encode_png(each)).decode() for each in self._overlays()]
        images = "".join(f'<img style="margin:2px" src="data:image/png;base64,{each}">' for each in pictures)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        title = html.escape(f"{self.method!r} of {self.target!r}")
        return f"<div>{images}<br><code>{title}</code><ul>{notes}</ul></div>"

    def _overlays(self) -> list[Picture]:
        """Return overlays of the first images; for clips and volumes, of some frames or slices of the first one."""
        _, x = self._tensors()
        pictures, heatmaps = to_pictures(x[:_SHOWN]), self.heatmap("sum_of_magnitudes")
        if x.ndim == 4:
            return [overlay(picture, heatmap) for picture, heatmap in zip(pictures, heatmaps, strict=False)]
        if x.ndim != 5 or not pictures:
            return []
        indices = middle_indices(x.shape[2], min(_SHOWN, x.shape[2]))
        chosen = sections(pictures[0], heatmaps[0], indices)
        return [overlay(each.picture, each.heatmap, whole=heatmaps[0]) for each in chosen]


def _to_sides(size: Any, axes: int) -> tuple[int, ...]:
    """Return a size as a tuple with one positive integer for each axis of space."""
    sides = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else ()
    if len(sides) != axes or not all(isinstance(side, Integral) and int(side) > 0 for side in sides):
        raise InvalidInput(f"size must be {axes} positive integers in pixels, such as (height, width), got {size!r}.")
    return tuple(map(int, sides))


def resize_map(maps: Tensor, size: Sequence[int], extent: Extent | None = None) -> Tensor:
    """Resize maps linearly between the centres of their grid cells.

    A constant map stays exactly constant, and no value leaves the range of its map.

    Args:
        maps: Maps, (b, k, *grid).
        size: The new sides in pixels.
        extent: The part of the image that the grid covers, with zeros outside it; None means the whole image.

    Returns:
        Maps, (b, k, *size).

    Raises:
        InvalidInput: If the maps have more than three axes of space.
    """
    if extent is not None:
        return _resize_into_extent(maps, size, extent)
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    if len(size) not in INTERPOLATION_MODES:
        raise InvalidInput(
            f"Maps can be resized along at most {max(INTERPOLATION_MODES)} spatial axes, got {len(size)}."
        )
    large = F.interpolate(maps, tuple(size), mode=INTERPOLATION_MODES[len(size)], align_corners=False)
    low, high = (each.view(*maps.shape[:2], *(1,) * len(size)) for each in maps.flatten(2).aminmax(dim=2))
    return large.clamp(low, high)


def _resize_into_extent(maps: Tensor, size: Sequence[int], extent: Extent) -> Tensor:
    """Resize maps to a part of the image, with zeros outside it."""
    for axis, (pixels, (start, end)) in enumerate(zip(size, extent, strict=True), start=2):
        cells = maps.shape[axis]
        centres = (torch.arange(pixels, device=maps.device, dtype=torch.float32) + 0.5) / pixels
        fraction = (centres - start) / (end - start)
        position = (fraction * cells - 0.5).clamp(0, cells - 1).to(maps.dtype)
        before = position.floor().long().clamp(max=max(cells - 2, 0))
        shape = (-1, *(1,) * (maps.ndim - 1 - axis))
        low, high = (maps.index_select(axis, (before + step).clamp(max=cells - 1)) for step in (0, 1))
        inside = ((fraction >= 0) & (fraction <= 1)).view(shape)
        maps = torch.where(inside, torch.lerp(low, high, (position - before).view(shape)), torch.zeros_like(low))
    return maps


def _reduce_channels(scores: Tensor, reduce: Reduction) -> Tensor:
    """Reduce the channels of the scores to one, (b, 1, *grid)."""
    if reduce == "sum":
        return scores.sum(1, keepdim=True)
    if reduce == "sum_of_magnitudes":
        return scores.abs().sum(1, keepdim=True)
    if reduce == "largest_magnitude":
        return scores.gather(1, scores.abs().argmax(1, keepdim=True))
    raise InvalidInput(f"reduce must be one of {', '.join(map(repr, get_args(Reduction)))}, got {reduce!r}.")


_REQUIRED, _OPTIONAL = ("target", "method", "notes"), ("axes", "extent", "model")


def _read_record(record: Any) -> dict[str, Any]:
    """Return the fields of an attribution that are not tensors, from the record in a file."""
    optional = [name for name in _OPTIONAL if isinstance(record, dict) and name in record]
    if not has_keys(record, *_REQUIRED, *optional):
        raise InvalidInput(f"its record must have the fields {', '.join(_REQUIRED)}, and may have {_OPTIONAL}")
    if not isinstance(record["notes"], list) or not all(isinstance(note, str) for note in record["notes"]):
        raise InvalidInput("its notes must be a list of strings")
    if not isinstance(record.get("model", ""), str):
        raise InvalidInput("the name of its model must be a string")
    extent = record.get("extent")
    if isinstance(extent, list):
        extent = tuple(tuple(each) if isinstance(each, list) else each for each in extent)
    return {
        "target": read_target(record["target"]),
        "method": read_method(record["method"]),
        "notes": tuple(map(printable, record["notes"])),
        "axes": ImageAxes(record["axes"]).letters if "axes" in record else None,
        "extent": extent,
        "model": printable(record.get("model", "")),
    }


def _notes_on_infinite_values(attribution: Attribution) -> Iterator[str]:
    """Yield a note on each tensor of a loaded file that has NaN or infinite values."""
    for name, tensor in (("scores", attribution.scores), ("images", attribution.x)):
        wrong = (~tensor.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        if wrong:
            yield f"the {name} in the file have NaN or infinite values for images {wrong}: ignore their maps"


@dataclass(frozen=True, eq=False)
class FailedAttribution:
    """The error of a method that failed for a target; `str()` gives one sentence.

    Args:
        method: The method with its options.
        target: The target to explain.
        error: The exception that the method raised.
    """

    method: Method
    target: Target
    error: Exception

    def __post_init__(self) -> None:
        traceback.clear_frames(self.error.__traceback__)  # the local variables of the frames reference activations

    def __repr__(self) -> str:
        method, target, error = map(short_value, (self.method, self.target, self.error))
        return f"FailedAttribution({method}, {target}, {error})"

    def __str__(self) -> str:
        kind = "" if isinstance(self.error, AttribkitError) else f"{self.method.name}: {type(self.error).__name__}: "
        return f"{kind}{self.error}"


class Comparison(list[Attribution]):
    """List of the attributions of several methods and targets, ordered by target, without failed ones.

    Args:
        rows: One row for each target, with the attribution or the failure of each method.
    """

    def __init__(self, rows: Sequence[Sequence[Attribution | FailedAttribution]]) -> None:
        self.rows = tuple(tuple(row) for row in rows)
        super().__init__(each for row in self.rows for each in row if isinstance(each, Attribution))

    @property
    def failures(self) -> list[FailedAttribution]:
        """Return the failures, in the order of the rows."""
        return [each for row in self.rows for each in row if isinstance(each, FailedAttribution)]

    def __repr__(self) -> str:
        lines = [f"{short_value(each.method)}, {short_value(each.target)}" for each in self]
        lines += [f"failed: {each}" for each in self.failures]
        return repr_with_notes(f"Comparison of {len(self)} attributions, {len(self.failures)} failures", lines)

    def _repr_html_(self) -> str:
        """Return HTML for notebooks: the first attributions, and the failures."""
        failures = "".join(f"<li>{html.escape(str(each))}</li>" for each in self.failures)
        return "".join(each._repr_html_() for each in self[:_SHOWN]) + (failures and f"<ul>{failures}</ul>")
