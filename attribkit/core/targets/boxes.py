"""A detection, told by its box."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import PerImage
from attribkit.core.targets.classes import Classes, Labels, indices, one_count, plain
from attribkit.core.targets.outputs import detections, precise
from attribkit.core.targets.target import Remark, Target


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
        object.__setattr__(self, "index", None if self.index is None else plain(self.index))

    @property
    def count(self) -> int | None:
        return one_count(self, self.index, self.box if isinstance(self.box[0], tuple) else None)

    @property
    def is_open(self) -> bool:
        return self.index is None

    def __call__(self, outputs: Any) -> PerImage:
        fits = self._fits(outputs)
        return torch.stack([torch.cat([fit.new_zeros(1), fit]).max() for fit in fits])

    def evidence(self, outputs: Any) -> list[Tensor]:
        labels = [torch.cat([one["labels"].new_tensor([-1]), one["labels"]]) for one in detections(outputs)]
        best = [torch.cat([fit.new_zeros(1), fit]).argmax() for fit in self._fits(outputs)]
        return [label[place] for label, place in zip(labels, best, strict=True)]

    def settled(self, evidence: Sequence[Tensor]) -> "Target":
        found: list[int] = torch.stack(list(evidence)).tolist()
        if -1 in found:
            images = [i for i, label in enumerate(found) if label == -1]
            raise InvalidInput(
                f"No detection overlaps {self!r} in images {images}: look at the boxes that the model finds, lower its "
                "threshold of scores, or name the class by index=..., whose score is zero there."
            )
        return replace(self, index=tuple(found))

    def part(self, images: slice) -> "Target":
        return self._mapped(lambda several: several[images])

    def repeated(self, times: int) -> "Target":
        return self._mapped(lambda several: several * times)

    def with_indices(self, labels: Labels) -> "Target":
        return self if self.index is None else replace(self, index=indices(self.index, labels))

    def remarks(self, outputs: Any) -> list[Remark]:
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
    boxes, scores = precise(found["boxes"]), precise(found["scores"])
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
