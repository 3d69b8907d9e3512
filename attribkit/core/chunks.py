"""Questions put to as many images at a time as fit into memory."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attribkit.core.errors import InvalidInput, OutOfMemory
from attribkit.core.layers import FoundLayers
from attribkit.core.targets import ClassLogit, Predicted, Target, check_count, class_scores


class Question:
    """A target put to one chunk of images; keeps the classes that it turned out to mean."""

    def __init__(self, target: Target, images: int) -> None:
        self.target = target
        self.images = images
        self.predicted: Tensor | None = None
        self.finite: Tensor | None = None  # whether the scores are, once asked

    def __call__(self, outputs: Any) -> Tensor:
        if isinstance(self.target, Predicted):
            self.predicted = class_scores(outputs).max(1).indices
        scores = self.target(outputs)
        if scores.shape != (self.images,):
            raise InvalidInput(
                f"The target {self.target!r} gave scores of shape {tuple(scores.shape)} for {self.images} images: give "
                "one score per image, of those that it is shown (large batches are asked about in parts)."
            )
        self.finite = scores.detach().isfinite().all()
        return scores


Run = Callable[[Tensor, list[Question]], list[Tensor]]


@dataclass
class Learnt:
    """What earlier calls taught about a model."""

    batch_size: int | None  # images at a time; None is all of them
    channels_last: bool  # whether convolutions get their images in the faster memory layout
    layers: dict[tuple[Any, ...], FoundLayers] = field(default_factory=dict)  # by image size and kind of target
    readers: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)  # the tokens that are read, by the same

    def from_error(self, error: RuntimeError, x: Tensor) -> bool:
        """Whether the error says how to ask again."""
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            if len(x) == 1:
                raise OutOfMemory(
                    f"One image of shape {tuple(x.shape[1:])} alone does not fit into the memory of {x.device}: "
                    "use a smaller image, a model of lower precision or another device."
                ) from error
            self.batch_size = len(x) // 2
            return True
        if self.channels_last and "view size is not compatible" in str(error):
            self.channels_last = False
            return True
        return False


def in_chunks(run: Run, x: Tensor, targets: Sequence[Target], learnt: Learnt) -> tuple[list[Tensor], ClassLogit | None]:
    """Run the questions on chunks of the images; join the answers, and tell the classes that Predicted() meant."""
    for target in targets:
        check_count(target, len(x))
    parts: list[list[Tensor]] = []
    predicted: list[Tensor] = []
    start = 0
    while start < len(x):
        images = slice(start, start + (learnt.batch_size or len(x)))
        questions = [Question(target.part(images), len(x[images])) for target in targets]
        part = _attempt(run, x[images], questions, learnt)
        if part is not None:
            parts.append(part)
            predicted.extend([q.predicted for q in questions if q.predicted is not None][:1])
            start = images.stop
    joined = parts[0] if len(parts) == 1 else [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
    return joined, ClassLogit(tuple(torch.cat(predicted).tolist())) if predicted else None


def _attempt(run: Run, x: Tensor, questions: list[Question], learnt: Learnt) -> list[Tensor] | None:
    """Run, or learn why it could not be run so and return None."""
    try:
        return run(x, questions)
    except RuntimeError as error:
        if not learnt.from_error(error, x):
            raise
    gc.collect()
    if x.device.type == "cuda":
        torch.cuda.empty_cache()
    return None
