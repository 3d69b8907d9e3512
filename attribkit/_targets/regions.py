"""Targets for segmentation models (regions) and detection models (boxes)."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attribkit._core.errors import InvalidInput
from attribkit._core.pictures import broadcast_to_spatial
from attribkit._core.shapes import Masks, PerImage
from attribkit._core.tensors import fingerprint, to_device
from attribkit._targets.class_outputs import (
    Classes,
    ClassLabels,
    ClassOutputs,
    as_classes,
    common_count,
    is_positive,
    negative_class_score,
    read_maps,
    resolve_labels,
)
from attribkit._targets.outputs import read_detections, select_classes, to_full_precision
from attribkit._targets.target import Target, TargetNote


@dataclass(frozen=True, eq=False)
class Region(Target):
    """The sum of the scores of a class over a region of a segmentation.

    Args:
        index: Class index or label, for all images or one per image; 0 is the map of a model with a single map.
        mask: Bool, (b, *space), or (1, *space) for all images, of the size of the images or of the model's output; None
            means the region where the class is predicted. If the output is coarser than the mask, each of its grid
            cells is weighted by the fraction that the mask covers.
        space: Size of the explained images; None until `bind` sets it.
        background: For a model with a single map, whether to score its background: the negated map, or 1 - p of
            probabilities p. The background is predicted where the map is <= 0 (p <= 0.5).
        named: Whether the index comes from one of two labels; the first label is the background of a single map.

    Raises:
        InvalidInput: The mask is not a torch.bool tensor.

    Reference:
        Vinogradova et al., AAAI 2020.

    Example:
        >>> from torch import nn
        >>> segmenter = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> Explainer(segmenter).attribute(x, "gradcam", target=Region(2, mask)).scores.shape
        torch.Size([2, 1, 128, 128])
    """

    index: Classes
    mask: Masks | None = None
    space: tuple[int, ...] | None = None
    background: bool = False
    named: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", as_classes(self.index))
        if self.mask is not None and not (isinstance(self.mask, Tensor) and self.mask.dtype == torch.bool):
            got = self.mask.dtype if isinstance(self.mask, Tensor) else type(self.mask).__name__
            raise InvalidInput(
                f"The mask of a Region must be a torch.bool tensor (b, *space), got {got}. Try mask > 0."
            )

    @property
    def count(self) -> int | None:
        return common_count(
            self, self.index, tuple(self.mask) if self.mask is not None and len(self.mask) > 1 else None
        )

    @property
    def layer_key(self) -> Hashable:
        return "region"  # the choice does not depend on the region

    @property
    def is_local(self) -> bool:
        return True

    @property
    def needs_outputs(self) -> bool:
        return self.mask is None

    @property
    def reads_classes(self) -> bool:
        return True

    def __call__(self, outputs: Any) -> PerImage:
        parsed = self._read(outputs)
        maps = to_full_precision(self._class_maps(parsed))
        return (maps * self._weights(parsed).to(maps)).flatten(1).sum(1)

    def decision(self, outputs: Any) -> list[Tensor]:
        return list(self._predicted(self._read(outputs)))

    def resolved(self, decision: Sequence[Tensor]) -> "Target":
        return replace(self, mask=torch.stack(list(decision)))

    def subset(self, images: slice) -> "Target":
        return self._mapped(lambda value: value[images])

    def tile(self, times: int) -> "Target":
        return self._mapped(lambda value: value * times if isinstance(value, tuple) else _tiled(value, times))

    def resolve_labels(self, labels: ClassLabels) -> "Target":
        index = resolve_labels(self.index, labels)
        names = labels() if callable(labels) and index != self.index else labels
        named = self.named or (index != self.index and names is not None and len(names) == 2)  # type: ignore[arg-type]
        return replace(self, index=index, named=named)

    def bind(self, images: Tensor, embed: Callable[[Tensor, Target], Tensor]) -> "Target":
        return replace(self, space=tuple(images.shape[2:]))

    def notes(self, outputs: Any) -> list[TargetNote]:
        parsed = self._read(outputs)
        covered = self._weights(parsed).flatten(1).sum(1)
        notes: list[TargetNote] = []
        if parsed.is_single:
            notes.append(("the model has one map: index 0 is the map itself, background=True its background", None))
        if parsed.kind != "logits":
            kind = parsed.kind.replace("_", "-")
            notes.append((f"the model returns {kind}, which are summed without conversion", None))
        return [
            *notes,
            ("the region is empty: the class is not predicted anywhere, or the mask is empty", covered == 0),
        ]

    def __repr__(self) -> str:
        if self.mask is None:
            return f"Region(index={self.index!r}{self._format_flags()})"
        cells = int(self.mask.sum())
        return f"Region(index={self.index!r}, mask=({fingerprint(self.mask)}, {cells} cells){self._format_flags()})"

    def _format_flags(self) -> str:
        return f"{', background=True' * self.background}{', named=True' * self.named}"

    def _read(self, outputs: Any) -> ClassOutputs:
        """Return the maps of the classes; the axes of the mask or of the images show which axes are squeezed."""
        space = self.space if self.mask is None else self.mask.shape[1:]
        parsed = read_maps(outputs, None if space is None else len(space))
        if self.background and not parsed.is_single:
            raise InvalidInput(
                f"{self!r}: background=True requires a model with one map, but this model has {parsed.scores.shape[1]} "
                "classes. Pass the index of the background class."
            )
        return parsed

    def _is_background(self, parsed: ClassOutputs) -> Tensor:
        """Return for each image whether the target is the background of a single map, (b,)."""
        index = to_device(self.index, parsed.scores.device).expand(len(parsed.scores))
        if self.named:
            return (index == 0) ^ self.background
        return torch.full_like(index, self.background, dtype=torch.bool)

    def _class_maps(self, parsed: ClassOutputs) -> Tensor:
        """Return the map of each image's class, (b, *cells)."""
        if not parsed.is_single:
            return select_classes(parsed.scores, self.index)
        maps = select_classes(parsed.scores, 0 if self.named else self.index, "background=True")
        if not self.named and not self.background:
            return maps
        return torch.where(
            broadcast_to_spatial(self._is_background(parsed), maps), negative_class_score(maps, parsed.kind), maps
        )

    def _weights(self, parsed: ClassOutputs) -> Tensor:
        """Return the weight of each grid cell of the output, (b, *cells)."""
        if self.mask is None:
            return self._predicted(parsed)
        maps = parsed.scores
        cells, space = tuple(maps.shape[2:]), tuple(self.mask.shape[1:])
        if cells != space and (len(cells) != len(space) or self.space not in (None, space)):
            raise InvalidInput(
                "The mask must have shape (b, *space), with the size of the images or of the model's output, "
                f"{'x'.join(map(str, cells))}, got shape {tuple(self.mask.shape)}."
            )
        mask = self.mask.to(maps.device).expand(len(maps), *space)
        return mask if cells == space else F.interpolate(mask[:, None].float(), cells, mode="area")[:, 0]

    def _predicted(self, parsed: ClassOutputs) -> Tensor:
        """Return where the class is predicted, (b, *cells)."""
        maps = parsed.scores.detach()
        if parsed.is_single:
            positive = is_positive(maps[:, 0], parsed.kind)
            return positive ^ broadcast_to_spatial(self._is_background(parsed), positive)
        index = to_device(self.index, maps.device).expand(len(maps))
        return maps.argmax(1) == broadcast_to_spatial(index, maps[:, 0])

    def _mapped(self, change: Callable[[Any], Any]) -> "Region":
        index = change(self.index) if isinstance(self.index, tuple) else self.index
        is_shared = self.mask is None or len(self.mask) == 1
        return replace(self, index=index, mask=self.mask if is_shared else change(self.mask))


def _tiled(mask: Tensor, times: int) -> Tensor:
    return mask.repeat(times, *(1,) * (mask.ndim - 1))


@dataclass(frozen=True)
class Box(Target):
    """The best match of a box among the detections: the maximum of intersection over union times score.

    Only detections of the class count. The score is zero if none of them overlaps the box. It is differentiable in the
    scores and the boxes of the detections.

    Args:
        box: (x1, y1, x2, y2) in pixels of the images, for all images, or (b, 4) with one per image; stored as a tuple.
        index: Class index or label, for all images or one per image; None means the class of the best match in the
            explained image.

    Raises:
        InvalidInput: `box` is not a box.

    Reference:
        Petsiuk et al., CVPR 2021 (D-RISE); the same similarity for detections with a single class.

    Example:
        >>> Box((16, 16, 64, 80), 3)
        Box(box=(16.0, 16.0, 64.0, 80.0), index=3)
    """

    box: Any
    index: Classes | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", _as_boxes(self.box))
        object.__setattr__(self, "index", None if self.index is None else as_classes(self.index))

    @property
    def count(self) -> int | None:
        return common_count(self, self.index, self.box if isinstance(self.box[0], tuple) else None)

    @property
    def needs_outputs(self) -> bool:
        return self.index is None

    def __call__(self, outputs: Any) -> PerImage:
        matches = self._matches(outputs)
        return torch.stack([torch.cat([match.new_zeros(1), match]).max() for match in matches])

    def decision(self, outputs: Any) -> list[Tensor]:
        labels = [torch.cat([image["labels"].new_tensor([-1]), image["labels"]]) for image in read_detections(outputs)]
        best = [torch.cat([match.new_zeros(1), match]).argmax() for match in self._matches(outputs)]
        return [label[i] for label, i in zip(labels, best, strict=True)]

    def resolved(self, decision: Sequence[Tensor]) -> "Target":
        labels: list[int] = torch.stack(list(decision)).tolist()
        if -1 in labels:
            images = [i for i, label in enumerate(labels) if label == -1]
            raise InvalidInput(
                f"No detection overlaps {self!r} in images {images}. Check the boxes that the model detects, lower its "
                "score threshold, or pass index=..., for which the score is zero in these images."
            )
        return replace(self, index=tuple(labels))

    def subset(self, images: slice) -> "Target":
        return self._mapped(lambda value: value[images])

    def tile(self, times: int) -> "Target":
        return self._mapped(lambda value: value * times)

    def resolve_labels(self, labels: ClassLabels) -> "Target":
        return self if self.index is None else replace(self, index=resolve_labels(self.index, labels))

    def notes(self, outputs: Any) -> list[TargetNote]:
        return [("no detection of the class overlaps the box: the score is zero", self(outputs).detach() == 0)]

    def _matches(self, outputs: Any) -> list[Float[Tensor, " n"]]:
        """Return the overlap times score of each detection of each image; zero for other classes."""
        detected = read_detections(outputs)
        boxes = self.box if isinstance(self.box[0], tuple) else (self.box,) * len(detected)
        classes = self.index if isinstance(self.index, tuple) else (self.index,) * len(detected)
        return [_match(*image) for image in zip(detected, boxes, classes, strict=True)]

    def _mapped(self, change: Callable[[Any], Any]) -> "Box":
        index = change(self.index) if isinstance(self.index, tuple) else self.index
        return replace(self, index=index, box=change(self.box) if isinstance(self.box[0], tuple) else self.box)


def _match(detected: Mapping[str, Tensor], box: tuple[float, ...], index: int | None) -> Tensor:
    boxes, scores = to_full_precision(detected["boxes"]), to_full_precision(detected["scores"])
    match = _intersection_over_union(boxes, boxes.new_tensor(box)) * scores
    return match if index is None else torch.where(detected["labels"] == index, match, torch.zeros_like(match))


def _intersection_over_union(boxes: Float[Tensor, "n 4"], box: Float[Tensor, "4"]) -> Float[Tensor, " n"]:
    sides = torch.minimum(boxes[:, 2:], box[2:]) - torch.maximum(boxes[:, :2], box[:2])
    intersection = sides.clamp(min=0).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - intersection
    return intersection / union


def _as_boxes(box: Any) -> Any:
    """Convert a box to a tuple of four numbers, or boxes to a tuple of such tuples."""
    try:
        numbers = torch.as_tensor(box).detach().double()
    except (TypeError, ValueError, RuntimeError):
        numbers = torch.empty(0, dtype=torch.float32, device="cpu")
    boxes = tuple(map(tuple, torch.atleast_2d(numbers).tolist())) if numbers.ndim in (1, 2) else ()
    if not boxes or not all(map(_is_box, boxes)):
        raise InvalidInput(
            f"box must be (x1, y1, x2, y2) in pixels, with x1 < x2 and y1 < y2, or one such box per image, got {box!r}."
        )
    return boxes if numbers.ndim == 2 else boxes[0]


def _is_box(box: Sequence[float]) -> bool:
    return len(box) == 4 and all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]
