"""[core/targets/regions] A class in a region of a segmentation.
[core/targets/boxes] A detection, told by its box.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.pictures import broadcast_to_spatial
from attribkit.core.shapes import Masks, PerImage
from attribkit.core.tensors import fingerprint, to_device
from attribkit.targets.class_outputs import (
    Classes,
    ClassLabels,
    ClassOutputs,
    as_plain,
    is_positive,
    negative,
    one_count,
    read_maps,
    resolve_labels,
)
from attribkit.targets.outputs import detections, select_classes, to_full_precision
from attribkit.targets.target import Target, TargetNote


@dataclass(frozen=True, eq=False)
class Region(Target):
    """A class in a region of a segmentation: the sum of its scores there (Vinogradova et al., AAAI 2020).

    The mask has the size of the images or of the model's output; a coarser output counts each of its cells by the share
    that the mask covers. The one map of a model that has one is index 0; its background is what the map speaks against.
    """

    index: Classes
    mask: Masks | None = None  # (b, *space), or (1, *space) for all images; None is where the class is predicted
    space: tuple[int, ...] | None = None  # size of the explained images; None until they are known
    background: bool = False  # of one map: the negated map (1 - p of probabilities), predicted where it is negative
    named: bool = False  # whether the index is that of one of two labels, of which the first is one map's background

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", as_plain(self.index))
        wrong = self.mask is not None and not (isinstance(self.mask, Tensor) and self.mask.dtype == torch.bool)
        if wrong:
            got = self.mask.dtype if isinstance(self.mask, Tensor) else type(self.mask).__name__
            raise InvalidInput(f"The mask of a Region is a torch.bool tensor (b, *space), got {got}; try mask > 0.")

    @property
    def count(self) -> int | None:
        return one_count(self, self.index, tuple(self.mask) if self.mask is not None and len(self.mask) > 1 else None)

    @property
    def layer_key(self) -> Hashable:
        return "region"  # the choice does not depend on where it lies

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
        found = self._read(outputs)
        own = to_full_precision(self._own(found))
        return (own * self._weights(found).to(own)).flatten(1).sum(1)

    def decision(self, outputs: Any) -> list[Tensor]:
        return list(self._predicted(self._read(outputs)))

    def resolved(self, decision: Sequence[Tensor]) -> "Target":
        return replace(self, mask=torch.stack(list(decision)))

    def subset(self, images: slice) -> "Target":
        return self._mapped(lambda several: several[images])

    def tile(self, times: int) -> "Target":
        return self._mapped(lambda several: several * times if isinstance(several, tuple) else _tiled(several, times))

    def resolve_labels(self, labels: ClassLabels) -> "Target":
        index = resolve_labels(self.index, labels)
        names = labels() if callable(labels) and index != self.index else labels
        named = self.named or (index != self.index and names is not None and len(names) == 2)  # type: ignore[arg-type]
        return replace(self, index=index, named=named)

    def bind(self, images: Tensor, embed: Callable[[Tensor, Target], Tensor]) -> "Target":
        return replace(self, space=tuple(images.shape[2:]))

    def notes(self, outputs: Any) -> list[TargetNote]:
        found = self._read(outputs)
        covered = self._weights(found).flatten(1).sum(1)
        told: list[TargetNote] = []
        if found.is_single:
            told.append(("the model has one map: index 0 is the map itself, background=True its negative side", None))
        if found.kind != "logits":
            kind = found.kind.replace("_", "-")
            told.append((f"the model returns {kind}, which are summed as they are", None))
        return [
            *told,
            ("the region is empty: the class is predicted nowhere, or the mask covers nothing", covered == 0),
        ]

    def __repr__(self) -> str:
        if self.mask is None:
            return f"Region(index={self.index!r}{self._side()})"
        cells = int(self.mask.sum())
        return f"Region(index={self.index!r}, mask=({fingerprint(self.mask)}, {cells} cells){self._side()})"

    def _side(self) -> str:
        return f"{', background=True' * self.background}{', named=True' * self.named}"

    def _read(self, outputs: Any) -> ClassOutputs:
        """The maps of the classes; those that are squeezed are known by the axes of the mask, or of the images."""
        space = self.space if self.mask is None else self.mask.shape[1:]
        found = read_maps(outputs, None if space is None else len(space))
        if self.background and not found.is_single:
            raise InvalidInput(
                f"{self!r}: background=True is for models with one map, and this model has {found.scores.shape[1]} "
                "classes: give the index of the background's class."
            )
        return found

    def _on_background(self, found: ClassOutputs) -> Tensor:
        """Of which images the background is meant, (b,)."""
        own = to_device(self.index, found.scores.device).expand(len(found.scores))
        return (own == 0) ^ self.background if self.named else torch.full_like(own, self.background, dtype=torch.bool)

    def _own(self, found: ClassOutputs) -> Tensor:
        """The map of each image's class, (b, *cells)."""
        if not found.is_single:
            return select_classes(found.scores, self.index)
        own = select_classes(found.scores, 0 if self.named else self.index, "background=True")
        if not self.named and not self.background:
            return own
        return torch.where(broadcast_to_spatial(self._on_background(found), own), negative(own, found.kind), own)

    def _weights(self, found: ClassOutputs) -> Tensor:
        """How much each cell of the output counts, (b, *cells)."""
        if self.mask is None:
            return self._predicted(found)
        maps = found.scores
        cells, space = tuple(maps.shape[2:]), tuple(self.mask.shape[1:])
        if cells != space and (len(cells) != len(space) or self.space not in (None, space)):
            raise InvalidInput(
                f"The mask {tuple(self.mask.shape)} has neither the size of the images nor of the model's output, "
                f"{'x'.join(map(str, cells))}: give one (b, *space)."
            )
        mask = self.mask.to(maps.device).expand(len(maps), *space)
        return mask if cells == space else F.interpolate(mask[:, None].float(), cells, mode="area")[:, 0]

    def _predicted(self, found: ClassOutputs) -> Tensor:
        """Where the class is the one with the highest score, (b, *cells)."""
        maps = found.scores.detach()
        if found.is_single:
            positive = is_positive(maps[:, 0], found.kind)
            return positive ^ broadcast_to_spatial(self._on_background(found), positive)
        own = to_device(self.index, maps.device).expand(len(maps))
        return maps.argmax(1) == broadcast_to_spatial(own, maps[:, 0])

    def _mapped(self, change: Callable[[Any], Any]) -> "Region":
        index = change(self.index) if isinstance(self.index, tuple) else self.index
        shared = self.mask is None or len(self.mask) == 1
        return replace(self, index=index, mask=self.mask if shared else change(self.mask))


def _tiled(mask: Tensor, times: int) -> Tensor:
    return mask.repeat(times, *(1,) * (mask.ndim - 1))


@dataclass(frozen=True)
class Box(Target):
    """The detection that fits a box best: its overlap with the box times its score, the largest of its class.

    As D-RISE compares detections (Petsiuk et al., CVPR 2021), with the intersection over the union as the
    overlap. It is zero where no detection of the class overlaps the box; differentiable in scores and boxes alike.
    """

    box: Any  # (x1, y1, x2, y2) in pixels of the images, for all of them, or (b, 4); kept as a tuple
    index: Classes | None = None  # None is the class of the detection that fits best in the explained image

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", _boxes(self.box))
        object.__setattr__(self, "index", None if self.index is None else as_plain(self.index))

    @property
    def count(self) -> int | None:
        return one_count(self, self.index, self.box if isinstance(self.box[0], tuple) else None)

    @property
    def needs_outputs(self) -> bool:
        return self.index is None

    def __call__(self, outputs: Any) -> PerImage:
        fits = self._fits(outputs)
        return torch.stack([torch.cat([fit.new_zeros(1), fit]).max() for fit in fits])

    def decision(self, outputs: Any) -> list[Tensor]:
        labels = [torch.cat([one["labels"].new_tensor([-1]), one["labels"]]) for one in detections(outputs)]
        best = [torch.cat([fit.new_zeros(1), fit]).argmax() for fit in self._fits(outputs)]
        return [label[place] for label, place in zip(labels, best, strict=True)]

    def resolved(self, decision: Sequence[Tensor]) -> "Target":
        found: list[int] = torch.stack(list(decision)).tolist()
        if -1 in found:
            images = [i for i, label in enumerate(found) if label == -1]
            raise InvalidInput(
                f"No detection overlaps {self!r} in images {images}: look at the boxes that the model finds, lower its "
                "threshold of scores, or name the class by index=..., whose score is zero there."
            )
        return replace(self, index=tuple(found))

    def subset(self, images: slice) -> "Target":
        return self._mapped(lambda several: several[images])

    def tile(self, times: int) -> "Target":
        return self._mapped(lambda several: several * times)

    def resolve_labels(self, labels: ClassLabels) -> "Target":
        return self if self.index is None else replace(self, index=resolve_labels(self.index, labels))

    def notes(self, outputs: Any) -> list[TargetNote]:
        return [("no detection of the class overlaps the box: the score is zero", self(outputs).detach() == 0)]

    def _fits(self, outputs: Any) -> list[Float[Tensor, " n"]]:
        """How well each detection of each image fits; zero for those of another class."""
        found = detections(outputs)
        boxes = self.box if isinstance(self.box[0], tuple) else (self.box,) * len(found)
        classes = self.index if isinstance(self.index, tuple) else (self.index,) * len(found)
        return [_fit(*each) for each in zip(found, boxes, classes, strict=True)]

    def _mapped(self, change: Callable[[Any], Any]) -> "Box":
        index = change(self.index) if isinstance(self.index, tuple) else self.index
        return replace(self, index=index, box=change(self.box) if isinstance(self.box[0], tuple) else self.box)


def _fit(found: Mapping[str, Tensor], box: tuple[float, ...], index: int | None) -> Tensor:
    boxes, scores = to_full_precision(found["boxes"]), to_full_precision(found["scores"])
    fit = _overlap(boxes, boxes.new_tensor(box)) * scores
    return fit if index is None else torch.where(found["labels"] == index, fit, torch.zeros_like(fit))


def _overlap(boxes: Float[Tensor, "n 4"], box: Float[Tensor, "4"]) -> Float[Tensor, " n"]:
    """The intersection of each box with the one, as a share of their union."""
    sides = torch.minimum(boxes[:, 2:], box[2:]) - torch.maximum(boxes[:, :2], box[:2])
    shared = sides.clamp(min=0).prod(1)
    return shared / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - shared)


def _boxes(given: Any) -> Any:
    """Four numbers, or a tuple of such."""
    try:
        numbers = torch.as_tensor(given).detach().double()
    except (TypeError, ValueError, RuntimeError):
        numbers = torch.empty(0, dtype=torch.float32, device="cpu")
    boxes = tuple(tuple(each) for each in torch.atleast_2d(numbers).tolist()) if numbers.ndim in (1, 2) else ()
    if not boxes or not all(map(_is_box, boxes)):
        raise InvalidInput(
            f"box={given!r} is no box: give (x1, y1, x2, y2) in pixels, with x1 < x2 and y1 < y2, or one per image."
        )
    return boxes if numbers.ndim == 2 else boxes[0]


def _is_box(box: Sequence[float]) -> bool:
    return len(box) == 4 and all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]
